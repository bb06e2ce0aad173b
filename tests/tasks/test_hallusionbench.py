"""HallusionBench from the hub's parquet, from its release and from VLMEvalKit's table."""

import base64
import json

import pytest
from hub_data import embedded, jpeg, write_parquet

from sinkbench import runner
from sinkbench.scoring import hallusion
from sinkbench.spec import RunSpec
from sinkbench.tasks import build_requests, check_data, documents, hub, load_task, score_samples, task_info
from sinkbench.tasks.layout import FAULT

COLUMNS = (
    "category",
    "subcategory",
    "visual_input",
    "set_id",
    "figure_id",
    "sample_note",
    "question_id",
    "question",
    "gt_answer_details",
    "gt_answer",
    "filename",
)


def rows():
    """Two figures with two questions each, and a set of which one question comes with one figure only."""
    asked = [
        ("VD", "illusion", "1", "0", "0", "0", "Is the left circle larger?", "0"),
        ("VD", "illusion", "1", "0", "0", "1", "Are the circles of one size?", "1"),
        ("VD", "illusion", "2", "0", "1", "0", "Is the left circle larger?", "1"),
        ("VD", "illusion", "2", "0", "1", "1", "Are the circles of one size?", "0"),
        ("VS", "map", "1", "0", "1", "0", "Is Texas larger than Utah?", "1"),
    ]
    return [
        dict(
            zip(
                COLUMNS,
                (
                    *(category, subcategory, visual, set_id, figure, "note", question_id, question, "The details."),
                    *(answer, f"./hallusion_bench/{category}/{subcategory}/{set_id}_{figure}.png"),
                ),
                strict=True,
            )
        )
        for category, subcategory, visual, set_id, figure, question_id, question, answer in asked
    ]


def picture(row):
    return jpeg(3 * (row["category"] == "VS") + int(row["figure_id"]))


def write_hub(folder, changes=()):
    """The image split of lmms-lab/HallusionBench with all of its columns, and the other split beside it."""
    from datasets import Image, Value

    table = [{**row, "image": embedded(picture(row))} for row in rows()]
    for index, change in changes:
        table[index] |= change
    features = {**{name: Value("string") for name in COLUMNS}, "image": Image()}
    write_parquet(folder, "data/image-00000-of-00001.parquet", table, features)
    plain = [{**rows()[4], "figure_id": "0", "visual_input": "0", "filename": None}]
    write_parquet(folder, "data/non_image-00000-of-00001.parquet", plain, {name: Value("string") for name in COLUMNS})


def answers(task, wrong=()):
    said = {"1": "Yes.", "0": "No, it is not."}
    other = {"1": "0", "0": "1"}
    return {
        f"hallusionbench/{doc['id']}": said[other[doc["gt_answer"]] if doc["id"] in wrong else doc["gt_answer"]]
        for doc in documents(task)
    }


def check_task(task, image_folder):
    docs = list(documents(task))
    assert [doc["id"] for doc in docs] == [
        "VD-illusion-0-0-0",
        "VD-illusion-0-0-1",
        "VD-illusion-0-1-0",
        "VD-illusion-0-1-1",
        "VS-map-0-1-0",
    ]
    assert [doc["cluster"] for doc in docs][1:3] == ["VD-illusion-0-0", "VD-illusion-0-1"]
    requests = list(build_requests(task, image_folder))
    assert requests[0].messages[0].text == "<image>Is the left circle larger?"
    assert requests[0].generation.max_new_tokens == 128
    assert len({request.images[0].key for request in requests}) == 3
    metrics, samples = score_samples(task, answers(task))
    assert [sample["targets"] for sample in samples.values()] == [["no"], ["yes"], ["yes"], ["no"], ["yes"]]
    assert {metrics[name]["value"] for name in ("aAcc", "qAcc", "fAcc", "average", "VD/qAcc", "VS/fAcc")} == {1.0}
    metrics, _ = score_samples(task, answers(task, wrong={"VD-illusion-0-1-0"}))
    assert [metrics[name]["value"] for name in ("aAcc", "qAcc", "fAcc")] == pytest.approx([4 / 5, 2 / 3, 2 / 3])
    assert [metrics[name]["n"] for name in ("aAcc", "qAcc", "fAcc")] == [5, 3, 3]


def test_the_hub_cache(tmp_path, monkeypatch):
    write_hub(tmp_path / "datasets--lmms-lab--HallusionBench" / "snapshots" / "abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "reachable", lambda name: pytest.fail("the hub was asked"))
    check_data("hallusionbench")
    check_task(load_task("hallusionbench"), tmp_path / "out")


@pytest.mark.parametrize("inside", [False, True])
def test_the_release(inside, tmp_path):
    """The JSON file beside hallusion_bench/, or in it; questions without a figure are left out."""
    folder = tmp_path / "hallusion_bench"
    for row in rows():
        path = tmp_path / row["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(row))
    table = [*rows(), {**rows()[4], "figure_id": "0", "visual_input": "0", "filename": None}]
    (folder if inside else tmp_path).joinpath("HallusionBench.json").write_text(json.dumps(table))
    given = folder if inside else tmp_path
    check_data("hallusionbench", given)
    check_task(load_task("hallusionbench", given), tmp_path / "out")


def test_vlmevalkits_table(tmp_path):
    lines = ["\t".join(["index", "image", "question", "answer", "category", "l2-category", "image_path"])]
    for row in rows():
        numbers = (
            row[name] for name in ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id")
        )
        content = base64.b64encode(picture(row)).decode()
        answer = "Yes" if row["gt_answer"] == "1" else "No"
        cells = ["_".join(numbers), content, row["question"], answer, row["category"], row["subcategory"], "a.png"]
        lines.append("\t".join(cells))
    (tmp_path / "HallusionBench.tsv").write_text("\n".join(lines) + "\n")
    check_task(load_task("hallusionbench", tmp_path), tmp_path / "out")


@pytest.mark.parametrize("prompt", ["original", "lmms-eval", "vlmevalkit"])
def test_every_profile_asks_the_bare_question(prompt, tmp_path):
    write_hub(tmp_path)
    task = load_task("hallusionbench", tmp_path, {"prompt": prompt})
    assert task.doc_to_text(documents(task)[4]) == "<image>Is Texas larger than Utah?"


def test_parsers_reach_the_score(tmp_path):
    write_hub(tmp_path)
    for parser, right in (("vlmevalkit", 0.0), ("pope", 2 / 5)):
        task = load_task("hallusionbench", tmp_path, {"parser": parser})
        said = {f"hallusionbench/{doc['id']}": "That is not so" for doc in documents(task)}
        metrics, _ = score_samples(task, said)
        assert metrics["aAcc"]["value"] == right
        assert metrics["n_unparsed"]["value"] == (5 if parser == "vlmevalkit" else 0)


def test_a_limit_judges_whole_questions_and_figures_only(tmp_path):
    write_hub(tmp_path)
    task = load_task("hallusionbench", tmp_path)
    first = dict(list(answers(task).items())[:3])
    metrics, _ = score_samples(task, first)
    assert [metrics[name]["n"] for name in ("aAcc", "qAcc", "fAcc")] == [3, 1, 1]


def test_broken_rows_in_a_run(tmp_path):
    """A null answer, a null figure and bytes that are no image, in a run of the real tiny-llava."""
    write_hub(tmp_path / "data", [(0, {"gt_answer": None}), (2, {"image": None}), (4, {"image": embedded(b"nothing")})])
    faults = [doc[FAULT] for doc in documents(load_task("hallusionbench", tmp_path / "data"))]
    assert faults == ["gt_answer is null", "", "image is null", "", ""]
    spec = RunSpec(
        model="tiny-llava",
        task="hallusionbench",
        data_dir=tmp_path / "data",
        output=tmp_path / "runs",
        device="cpu",
        generation={"max_new_tokens": 3},
    )
    (outcome,) = runner.run([spec])
    assert (outcome.record["status"], outcome.n_failed) == ("incomplete", 3)
    metrics = outcome.record["metrics"]
    assert [metrics[name]["n"] for name in ("aAcc", "qAcc", "fAcc")] == [2, 1, 0]


def test_choices_in_yaml_are_names_of_the_code():
    info = task_info("hallusionbench")
    assert info.settings["columns"]["category"] == list(hallusion.CATEGORIES)
    assert sorted(info.metrics) == sorted(hallusion.NAMES)
