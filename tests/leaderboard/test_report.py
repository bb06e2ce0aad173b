"""What the report holds, read from the file without a browser."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from io import BytesIO

import pytest
from PIL import Image
from report_runs import (
    ATTACKS,
    DIFFER,
    add_task,
    attack,
    edit_lines,
    edit_record,
    make_runs,
    write_pictures,
    write_views,
)

from sinkbench.errors import UsageError
from sinkbench.leaderboard.report import data, page, pictures, samples, views
from sinkbench.leaderboard.report.private import publishable, without_paths
from sinkbench.request import ImageRef


class Outline(HTMLParser):
    """Elements with their attributes, and the text of scripts by id."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self._inside = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = dict(attrs).get("id", "code") if tag == "script" else None

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, text):
        if self._inside:
            self.scripts[self._inside] = self.scripts.get(self._inside, "") + text


@pytest.fixture
def runs(tmp_path):
    return make_runs(tmp_path)


def made(runs, **settings):
    return page.render(data.collect(data.Settings(runs, **settings)))


def embedded(text, name="data"):
    return json.loads(Outline(text).scripts[name])


def cells(text):
    """Text by row of the first table."""
    body = re.search(r"<tbody>(.*?)</tbody>", text, re.S)[1]
    rows = [re.findall(r"<t[hd].*?</t[hd]>", row, re.S) for row in re.findall(r"<tr.*?</tr>", body, re.S)]
    return [[" ".join(re.sub("<[^>]*>", " ", cell).split()) for cell in row] for row in rows]


def test_the_board_shows_score_difference_and_p(runs):
    greedy, pai, var = cells(made(runs))
    # greedy is right on 1 of 4 random questions, var on 3; two flips: p = 2 / 2**2, doubled by Holm over two methods.
    assert greedy[1].startswith("0.250")
    assert greedy[2:5] == ["", "", "4"]
    assert var[1].startswith("0.750")
    assert var[2].startswith("+0.500 [")
    assert var[3] == "1.000"
    assert pai[1].startswith("0.250")
    assert pai[2] == "+0.000 [0.000, 0.000]"


def test_plots_get_values_intervals_costs_and_fronts(runs):
    (panel,) = embedded(made(runs))["panels"]
    found = {run["method"]: run for run in panel["runs"]}
    assert (found["var"]["value"], found["greedy"]["value"]) == (0.75, 0.25)
    assert found["var"]["delta"]["value"] == 0.5
    assert found["greedy"]["delta"] is None
    assert found["greedy"]["baseline"]
    assert found["var"]["costs"]["time"] == 1.0
    assert found["var"]["fronts"] == ["time"]
    assert found["greedy"]["fronts"] == []


def test_samples_hold_questions_answers_and_the_right_answer(runs):
    (group,) = embedded(made(runs))["groups"]
    assert (group["methods"], group["baseline"], group["binary"]) == (["greedy", "pai", "var"], 0, True)
    assert (group["total"], group["disagreeing"], group["disagreeing_shown"]) == (12, 3, 3)
    assert [item["id"] for item in group["items"] if item["differs"]] == DIFFER
    first = group["items"][0]
    assert first["question"] == "Is there a dog in image 0?"
    assert first["answers"] == [["no", 0.0, None, ""], ["no", 0.0, None, ""], ["yes", 1.0, None, ""]]
    assert first["targets"] == ["yes"]


def test_fewer_samples_are_those_that_flip(runs):
    (group,) = embedded(made(runs, samples=4))["groups"]
    assert {item["id"] for item in group["items"]} > set(DIFFER)
    assert (len(group["items"]), group["disagreeing_shown"]) == (4, 3)
    assert [item["id"] for item in embedded(made(runs, samples=2))["groups"][0]["items"]] == ["fake/0", "fake/1"]
    assert embedded(made(runs, samples=0))["groups"] == []


def test_images_are_scaled_down_and_there_once(runs):
    text = made(runs)
    images, (group,) = embedded(text, "images"), embedded(text)["groups"]
    # Four files over twelve questions, two of them alike.
    assert len(images) == 3
    assert [item["images"] for item in group["items"]] == [["0"]] * 3 + [["1"]] * 3 + [["2"]] * 6
    head, _, content = images["1"].partition(",")
    picture = Image.open(BytesIO(base64.b64decode(content)))
    assert (head, picture.format, picture.size) == ("data:image/webp;base64", "WEBP", (384, 192))
    assert abs(picture.convert("RGB").getpixel((9, 9))[0] - 40) < 8


def test_pages_without_images_say_so(runs):
    text = made(runs, images=False)
    assert embedded(text, "images") == {}
    assert "Made without images." in text
    assert "data:image" not in text


def test_an_image_that_is_gone_or_changed_is_left_out(runs, tmp_path):
    (tmp_path / "data" / "0.png").unlink()
    write_pictures(tmp_path / "data" / "other", 4)
    (tmp_path / "data" / "1.png").write_bytes((tmp_path / "data" / "other" / "3.png").read_bytes())
    found = data.collect(data.Settings(runs))
    assert [item["images"] for item in found.groups[0]["items"]] == [[None]] * 6 + [["0"]] * 6
    assert found.missing["0.png"] == "0.png cannot be read: No such file or directory"
    assert found.missing["1.png"] == "1.png has changed since the run"


def test_runs_without_answers_give_a_board_alone(runs):
    for directory in runs.iterdir():
        (directory / "samples.jsonl").unlink()
    text = made(runs)
    assert embedded(text)["groups"] == []
    assert "Without samples" in text
    assert 'id="samples"' not in text


def test_failed_answers_say_why(runs):
    var = next(runs.glob("*var*"))
    edit_record(var, task={"n_failed": 1})

    def fail(row, index):
        if index == 0:
            row |= {"text": None, "parsed": None, "score": None, "counts": None, "finish": "error"}
            row["error"] = "image /home/me/data/0.png cannot be read"

    edit_lines(var, "samples.jsonl", fail)
    text = made(runs)
    (group,) = embedded(text)["groups"]
    assert group["items"][0]["answers"][2] == [None, None, None, "image 0.png cannot be read"]
    assert "var !" in text.replace("*", "").replace("  ", " ")


def test_questions_come_from_any_run_of_the_task(runs):
    next(runs.glob("*greedy*/requests.jsonl")).unlink()
    (group,) = embedded(made(runs))["groups"]
    assert group["items"][2]["question"] == "Is there a dog in image 2?"
    for file in runs.glob("*/requests.jsonl"):
        file.unlink()
    (group,) = embedded(made(runs))["groups"]
    # As with answers that were imported: they are shown without question, image and command.
    assert group["items"][2].keys() == {"id", "differs", "answers", "targets"}


def test_the_page_holds_no_path_of_the_machine(runs, tmp_path):
    var = next(runs.glob("*var*"))
    edit_record(var, method={"params": {"file": str(tmp_path / "weights.json")}})
    pai = next(runs.glob("*pai*"))
    edit_record(pai, method={"params": {"file": "none"}}, status="error", metrics={})
    text = made(runs)
    assert str(tmp_path) not in text
    assert tmp_path.name not in text


def test_views_are_matched_by_model_task_and_id(runs, tmp_path):
    write_views(tmp_path / "views" / "a", "tiny", "fake", "fake/11")
    write_views(tmp_path / "views" / "b" / "c", "other", "fake", "fake/11")
    found = data.collect(data.Settings(runs, samples=1, attention=(tmp_path / "views",)))
    (item,) = found.groups[0]["items"]
    # A sample with views comes before those on which methods disagree.
    assert item["id"] == "fake/11"
    assert [view["method"] for view in item["views"]] == ["greedy", "var"]
    assert item["views"][1]["heads"][0] == [1, 0, 0.2, 0.6]
    assert item["views"][1]["share"] == [0.2, 0.6]
    assert item["views"][0]["overlay"] != item["views"][1]["overlay"]
    assert found.unmatched == 1


def test_a_sample_without_view_says_what_draws_it(runs):
    edit_record(next(runs.glob("*var*")), spec={"params": {"var.tau": 5, "var.file": "/home/me/a b.json"}})
    item = data.collect(data.Settings(runs)).groups[0]["items"][3]
    assert item["command"] == (
        "sinkbench inspect sample -m tiny -t fake --id fake/3 -M pai,var --set var.tau=5 --set var.file=/home/me/a "
        "-o views/tiny-fake-3"
    ).replace("var.file=/home/me/a", "'var.file=a b.json'")


@pytest.mark.parametrize(
    "change", [{"overlay": "../secret.png"}, {"overlay": "/etc/a.png"}, {"heads": [{"layer": -1}]}]
)
def test_a_wrong_views_file_is_refused(tmp_path, change):
    folder = write_views(tmp_path / "views", "tiny", "fake", "fake/0")
    document = json.loads((folder / "views.json").read_text())
    document["views"][0] |= change
    (folder / "views.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match="damaged"):
        views.read_views([tmp_path])


def test_a_folder_without_views_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no views\.json below") as refused:
        views.read_views([tmp_path])
    assert "sinkbench inspect sample" in refused.value.hint


def test_an_overlay_that_is_no_picture_is_left_out(tmp_path):
    folder = write_views(tmp_path, "tiny", "fake", "fake/0")
    (folder / "var.png").write_text("<svg onload=alert(1)>")
    found = views.read_views([tmp_path])["tiny", "fake", "fake/0"]
    gallery = pictures.Gallery()
    assert [views.shown(view, gallery)["overlay"] for view in found] == ["0", None]


def test_averages_of_a_board_are_shown(runs, monkeypatch):
    common = {"params": {}, "run_ids": ["1", "2"], "n_failed": 0, "dirty": False}
    delta = {"value": 0.25, "ci95": [0.125, 0.375], "p": 0.01, "p_holm": 0.02, "test": "joint_bootstrap", "n_pairs": 9}
    rows = [
        {**common, "method": "greedy", "value": 0.5, "delta": None},
        {**common, "method": "var", "value": 0.75, "delta": delta, "dirty": True},
    ]
    entry = {"model": "m", "direction": "higher", "metrics": {"a": "f1", "b": "accuracy"}, "rows": rows}
    entry["left_out"] = [{"method": "pai", "params": {}, "missing": ["b"]}]
    plain = data.boards.build
    monkeypatch.setattr(data.boards, "build", lambda *given, **named: {**plain(*given, **named), "averages": [entry]})
    text = made(runs)
    assert "Mean of a, b · m" in text
    assert cells(text) == [["greedy", "0.500", "", ""], ["var *", "0.750", "+0.250 [0.125, 0.375]", "0.020"]]
    assert "Left out: pai (not run on b)." in text


def test_choice_takes_low_tiers_first_and_spreads_over_the_rest():
    ids = list("abcdefgh")
    tiers = dict.fromkeys(ids, 3) | {"d": 1, "g": 1}
    assert samples.choose(ids, tiers, 2) == ["d", "g"]
    # Six are left (a, b, c, e, f, h); two of them at even distance: the first and the fourth.
    assert samples.choose(ids, tiers, 4) == ["a", "d", "e", "g"]
    assert samples.choose(ids, tiers, 100) == ids
    assert samples.choose(ids, tiers, 0) == []


def line(text, score, parsed=None, counts=None, error=""):
    return {"text": text, "score": score, "parsed": parsed, "counts": counts, "error": error}


def test_disagreement_is_of_what_was_read_not_of_words():
    yes, also = line("Yes.", 1.0, "yes"), line("yes, it is", 1.0, "yes")
    assert not samples.disagree([yes, also, None])
    assert samples.disagree([yes, line("No", 0.0, "no")])
    assert samples.disagree([line("A", 0.0, "A"), line("B", 0.0, "B")])
    assert not samples.disagree(
        [line("a cat", 0.0, {"mentioned": ["cat"]}), line("a dog", 0.0, {"mentioned": ["dog"]})]
    )
    assert samples.disagree([yes, line(None, None, error="out of memory")])
    assert samples.disagree([line("a", None), line("b", None)])


def test_the_right_answers_are_those_of_any_run_that_has_them_and_few_of_many():
    earlier, failed = line("no", 0.0, "no"), {**line(None, None, error="lost"), "targets": None}
    many = {**earlier, "targets": ["stop", "halt", "go", "wait"]}
    assert samples.targets([None, earlier, failed, many]) == ["stop", "halt", "go"]
    assert samples.targets([earlier, {**earlier, "targets": []}, None]) == []


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("image /home/me/data/cat.jpg cannot be read", "image cat.jpg cannot be read"),
        ("'/mnt/x/y.png': no such file", "'y.png': no such file"),
        ("~/models/llava", "llava"),
        (r"C:\Users\me\cat.jpg", "cat.jpg"),
        ("file:///home/me/cat.jpg", "cat.jpg"),
        ("https://host.org/a/b.html", "https://host.org/a/b.html"),
        ("tasks/pope/0 and 3/4", "tasks/pope/0 and 3/4"),
        ("</b></script> and/or", "</b></script> and/or"),
    ],
)
def test_absolute_paths_keep_their_last_part(text, left):
    assert without_paths(text) == left


def test_numbers_that_json_does_not_know_become_null():
    assert publishable({"a": [float("nan"), 1.5], "b": float("inf")}) == {"a": [None, 1.5], "b": None}


def test_the_policy_allows_this_script_and_style_only(runs):
    text = made(runs)
    policy = next(attrs["content"] for tag, attrs in Outline(text).elements if "http-equiv" in attrs)
    for name, kind in (("script", "script-src"), ("style", "style-src")):
        (source,) = re.findall(rf"<{name}>(.*?)</{name}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy


def test_nothing_is_fetched(runs):
    text = made(runs)
    for tag, attributes in Outline(text).elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img", "form[action]")
        for name, value in attributes.items():
            assert name not in ("src", "srcset", "action", "data", "poster", "background")
            assert not name.startswith("on")
            assert name != "style"
            if name == "href":
                assert value.startswith("#")
    code = Outline(text).scripts["code"]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|fetch\(|XMLHttp|import\(", code)
    assert re.findall(r"https?://[^\"'\s]*", text) == ["http://www.w3.org/2000/svg"]
    assert "url(" not in text
    assert "@import" not in text


def test_attacks_stay_text(runs):
    attack(runs)
    text = made(runs, title=ATTACKS[0])
    outline = Outline(text)
    assert not [tag for tag, _ in outline.elements if tag in ("img", "svg", "iframe")]
    assert [attrs for tag, attrs in outline.elements if tag == "script"] == [
        {"type": "application/json", "id": "data"},
        {"type": "application/json", "id": "images"},
        {},
    ]
    assert not [name for _, attrs in outline.elements for name in attrs if name.startswith("on")]
    found = json.loads(outline.scripts["data"])
    assert [item["question"] for item in found["groups"][0]["items"][:6]] == [attack.strip() for attack in ATTACKS]
    assert found["groups"][0]["items"][0]["answers"][0][0] == f"{ATTACKS[0]} \ud800"
    assert "{{ 7 * 7 }}" in text
    assert "49" not in re.search(r"<tbody>.*?</tbody>", text, re.S)[0]
    for block in ("data", "images"):
        assert not re.search("[<>&\u2028\u2029]", outline.scripts[block])


def test_filters_name_every_task_and_model(runs):
    add_task(runs, "other")
    text = made(runs)
    assert re.findall(r"<option>(\w+)</option>", text) == ["fake", "other", "tiny"]
    assert [group["task"] for group in embedded(text)["groups"]] == ["fake", "other"]
    assert re.findall(r'data-task="(\w+)"', made(runs, tasks=("other",))) == ["other"]


def test_pages_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "report.html"
    target.write_text("before")

    def full(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(UsageError, match="No space left on device"):
            page.write("after", target)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert target.read_text() == "before"
    assert page.write("after ü \ud800", target) == len("after ü ?".encode())
    assert target.read_text("utf-8") == "after ü ?"


def test_one_gallery_reads_an_image_once(tmp_path):
    write_pictures(tmp_path, 4, size=(100, 50))
    gallery = pictures.Gallery()
    names = [gallery.add(ImageRef.from_file(tmp_path / f"{index}.png")) for index in (0, 1, 0, 2, 3)]
    assert names == ["0", "1", "0", "2", "2"]
    (tmp_path / "0.png").unlink()
    assert len(gallery.uris) == 3
    small = Image.open(BytesIO(base64.b64decode(gallery.uris["0"].partition(",")[2])))
    assert small.size == (100, 50)
