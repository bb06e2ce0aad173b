"""POPE beyond COCO's current files: other images, the older random split, VLMEvalKit's table, broken rows."""

import base64
import json
import shutil

import pytest
from hub_data import embedded, jpeg, write_parquet
from shared_data import shared

from sinkbench import runner
from sinkbench.errors import UsageError
from sinkbench.spec import RunSpec
from sinkbench.tasks import build_requests, check_data, documents, hub, load_task, score_samples, task_groups, task_info
from sinkbench.tasks.layout import FAULT

SPLITS = ("random", "popular", "adversarial")
SHORT = "\nAnswer the question using a single word or phrase."


def rows(split, names=("1.jpg", "2.jpg")):
    """A yes and a no question an image."""
    return [
        {
            "question_id": 2 * i + turn + 1,
            "image": name,
            "text": f"Is there a {split} {word} in the image?",
            "label": word,
        }
        for i, name in enumerate(names)
        for turn, word in enumerate(("yes", "no"))
    ]


def write_split(path, entries, *, array=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries) if array else "".join(json.dumps(row) + "\n" for row in entries))


def write_images(folder, names=("1.jpg", "2.jpg")):
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        (folder / name).write_bytes(jpeg(index + 1))


def perfect(task):
    return {f"{task.task_name}/{doc['id']}": doc["answer"].title() for doc in documents(task)}


@pytest.mark.parametrize(("name", "source"), [("pope_aokvqa", "aokvqa"), ("pope_gqa", "gqa")])
@pytest.mark.parametrize(("form", "array"), [("{source}_pope_{split}", False), ("{source}_pope_seem_{split}", True)])
def test_files_of_vcd_and_of_pope(name, source, form, array, tmp_path):
    for split in SPLITS:
        write_split(tmp_path / f"{form.format(source=source, split=split)}.json", rows(split), array=array)
    write_images(tmp_path / "images")
    check_data(name, tmp_path)
    task = load_task(name, tmp_path)
    requests = list(build_requests(task, tmp_path / "out"))
    assert len(requests) == 12
    assert requests[0].id == f"{name}/random-1"
    assert requests[0].messages[0].text == f"<image>Is there a random yes in the image?{SHORT}"
    assert requests[0].generation.max_new_tokens == 128
    metrics, _ = score_samples(task, perfect(task))
    assert metrics["f1"]["value"] == 1.0
    assert [metrics[f"{split}/accuracy"]["n"] for split in SPLITS] == [4, 4, 4]


def test_sources_in_one_folder_are_kept_apart(tmp_path):
    """As `--task pope_all --data-dir DIR` reads it; images may lie beside the questions or in the folder."""
    for source in ("coco", "aokvqa", "gqa"):
        for split in SPLITS:
            write_split(tmp_path / source / f"{source}_pope_{split}.json", rows(f"{source} {split}"))
    write_images(tmp_path / "images")
    write_images(tmp_path / "gqa" / "images", ("1.jpg",))
    (tmp_path / "gqa" / "images" / "1.jpg").write_bytes(jpeg(9))
    assert task_groups()["pope_all"] == ("pope", "pope_aokvqa", "pope_gqa")
    for name in task_groups()["pope_all"]:
        source = name.partition("_")[2] or "coco"
        task = load_task(name, tmp_path)
        assert all(source in doc["question"] for doc in documents(task))
        images = {doc["cluster"]: doc["image_path"] for doc in documents(task)}
        assert images["2"] == str(tmp_path / "images" / "2.jpg")
        assert images["1"] == str(tmp_path / ("gqa/images" if source == "gqa" else "images") / "1.jpg")


@pytest.mark.parametrize("name", ["pope_aokvqa", "pope_gqa", "pope_2910", "pope_chat"])
def test_no_copy_on_the_hub(name):
    with pytest.raises(UsageError, match=f"{name} needs data of yours") as caught:
        check_data(name)
    assert "--data-dir" in caught.value.hint


def test_the_older_random_split_is_a_task_of_its_own(tmp_path):
    for end in SPLITS:
        write_split(tmp_path / f"coco_pope_{end}.json", rows(end))
    write_images(tmp_path / "val2014")
    with pytest.raises(UsageError, match=r"holds no coco_pope_random\.2910\.json"):
        check_data("pope_2910", tmp_path)
    write_split(tmp_path / "coco_pope_random.2910.json", rows("older")[:3])
    older, current = load_task("pope_2910", tmp_path), load_task("pope", tmp_path)
    assert len(documents(older)) == 11
    assert documents(older)[0]["question"] == "Is there a older yes in the image?"
    assert documents(current)[0]["question"] == "Is there a random yes in the image?"


def test_the_older_file_under_the_usual_name_is_read_as_it_is(tmp_path):
    for end, entries in (("random", rows("random")[:3]), ("popular", rows("popular")), ("adversarial", rows("adv"))):
        write_split(tmp_path / f"coco_pope_{end}.json", entries)
    write_images(tmp_path)
    assert len(documents(load_task("pope", tmp_path))) == 11


def test_vlmevalkits_table_is_taken_apart_by_split(tmp_path):
    cells = ["index", "image", "question", "answer", "category", "image_path"]
    image = base64.b64encode(jpeg(1)).decode()
    table = [
        ("0", image, "Is there a dog in the image?", "Yes", "adversarial,popular,random", "a.jpg"),
        ("1", "0", "Is there a car in the image?", "No", "popular", "a.jpg"),
    ]
    (tmp_path / "POPE.tsv").write_text("\n".join("\t".join(row) for row in [cells, *table]) + "\n")
    check_data("pope", tmp_path)
    task = load_task("pope", tmp_path, {"prompt": "vlmevalkit", "parser": "vlmevalkit"})
    assert sorted(doc["id"] for doc in documents(task)) == ["adversarial-0", "popular-0", "popular-1", "random-0"]
    requests = list(build_requests(task, tmp_path / "out"))
    assert {request.messages[0].text for request in requests} == {
        "<image>Is there a dog in the image?",
        "<image>Is there a car in the image?",
    }
    assert [request.images[0].load().size for request in requests if request.id == "pope/popular-0"] == [(32, 24)]
    metrics, _ = score_samples(task, perfect(task))
    assert metrics["accuracy"]["value"] == 1.0


def test_the_table_of_another_benchmark_is_named(tmp_path):
    (tmp_path / "a.tsv").write_text("index\timage\tquestion\n0\t1\tIs it?\n")
    with pytest.raises(UsageError, match=r"a\.tsv, row 1: column 'answer' is missing"):
        check_data("pope", tmp_path)


def write_hub(folder, changes=()):
    """The test split of lmms-lab/POPE with all of its columns."""
    from datasets import Image, Value

    entries = []
    for split in SPLITS:
        for row in rows(split):
            entries.append(
                {
                    "id": str(len(entries)),
                    "question_id": str(row["question_id"]),
                    "question": row["text"],
                    "answer": row["label"],
                    "image_source": row["image"].removesuffix(".jpg"),
                    "image": embedded(jpeg(int(row["image"][0]))),
                    "category": split,
                }
            )
    for index, change in changes:
        entries[index] |= change
    features = {name: Image() if name == "image" else Value("string") for name in entries[0]}
    write_parquet(folder, "data/test-00000-of-00001.parquet", entries, features)


def test_a_revision_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "reachable", lambda name: pytest.fail("the hub was asked"))
    cache = tmp_path / "datasets--lmms-lab--POPE" / "snapshots"
    write_hub(cache / "abc")
    write_hub(cache / "def", [(0, {"question": "Is there an older dog?"})])
    task = load_task("pope", params={"revision": "def"})
    assert documents(task)[0]["question"] == "Is there an older dog?"
    assert documents(load_task("pope", params={"revision": "abc"}))[0]["question"] != "Is there an older dog?"


def test_broken_rows_fail_by_name_and_the_rest_is_scored(tmp_path):
    """A null answer, a null image and bytes that are no image, in a run of the real tiny-llava."""
    write_hub(
        tmp_path / "data",
        [(0, {"answer": None}), (4, {"image": None}), (9, {"image": embedded(b"\xff\xd8 no more of it")})],
    )
    spec = RunSpec(
        model="tiny-llava",
        task="pope",
        data_dir=tmp_path / "data",
        output=tmp_path / "runs",
        device="cpu",
        generation={"max_new_tokens": 3},
    )
    (outcome,) = runner.run([spec])
    assert (outcome.record["status"], outcome.n_failed) == ("incomplete", 3)
    samples = [json.loads(line) for line in (outcome.directory / "samples.jsonl").read_text().splitlines()]
    failed = {row["id"]: row["error"] for row in samples if row["error"]}
    assert failed.pop("pope/random-1") == "answer is null"
    assert failed.pop("pope/popular-1") == "image is null"
    assert "cannot be read" in failed.pop("pope/adversarial-2")
    assert not failed
    assert outcome.record["metrics"]["n_unparsed"]["n"] == 9
    assert outcome.record["metrics"]["random/accuracy"]["n"] == 3


def test_a_null_in_the_release_and_a_missing_image(tmp_path):
    for split in SPLITS:
        entries = rows(split)
        if split == "popular":
            entries[1]["label"], entries[2]["text"], entries[3]["image"] = None, None, None
        write_split(tmp_path / f"coco_pope_{split}.json", entries)
    write_images(tmp_path / "images", ("1.jpg",))
    check_data("pope", tmp_path)
    task = load_task("pope", tmp_path)
    faults = {doc["id"]: doc[FAULT] for doc in documents(task) if doc[FAULT]}
    assert faults == {
        "popular-2": "answer is null",
        "popular-3": "question is null",
        "popular-4": "image_source is null",
    }
    requests = {request.id: request for request in build_requests(task, tmp_path / "out")}
    assert requests["pope/random-3"].images[0].sha256 == ""
    assert requests["pope/random-1"].images[0].sha256


def test_a_column_that_is_missing_is_named(tmp_path):
    write_split(tmp_path / "gqa_pope_random.json", [{"question_id": 1, "image": "1.jpg", "label": "yes"}])
    with pytest.raises(UsageError, match=r"gqa_pope_random\.json, row 1: column 'text' is missing"):
        check_data("pope_gqa", tmp_path)


def test_choices_in_yaml_are_the_profiles_of_the_code(tmp_path):
    for end in SPLITS:
        write_split(tmp_path / f"coco_pope_{end}.json", rows(end))
    write_images(tmp_path)
    texts = {}
    for prompt in task_info("pope").choices["prompt"]:
        task = load_task("pope", tmp_path, {"prompt": prompt})
        texts[prompt] = task.doc_to_text(documents(task)[0]).removeprefix("<image>Is there a random yes in the image?")
    assert texts == {
        "original": SHORT,
        "lmms-eval": SHORT,
        "llava": SHORT,
        "vlmevalkit": "",
        "bare": "",
        "vcd": " Please answer this question with one word.",
    }


@pytest.mark.parametrize(
    ("name", "source", "sizes"),
    [
        ("pope", "coco", (3000, 3000, 3000)),
        ("pope_2910", "coco", (2910, 3000, 3000)),
        ("pope_aokvqa", "aokvqa", (3000, 3000, 3000)),
        ("pope_gqa", "gqa", (3000, 3000, 3000)),
    ],
)
def test_the_benchmarks_own_files(name, source, sizes, tmp_path):
    shutil.copytree(shared(f"pope/{source}"), tmp_path / source)
    first = json.loads((tmp_path / source / f"{source}_pope_random.json").open().readline())["image"]
    write_images(tmp_path, (first,))
    check_data(name, tmp_path)
    task = load_task(name, tmp_path)
    metrics, _ = score_samples(task, perfect(task))
    assert tuple(metrics[f"{split}/f1"]["n"] for split in SPLITS) == sizes
    assert metrics["f1"]["value"] == 1.0


def test_the_two_random_files_join_by_image_and_question():
    folder = shared("pope/coco")
    older, current = (
        {(row["image"], row["text"]): row for row in map(json.loads, (folder / name).open())}
        for name in ("coco_pope_random.2910.json", "coco_pope_random.json")
    )
    common = older.keys() & current.keys()
    assert (len(older), len(current), len(common)) == (2910, 3000, 2766)
    assert all(older[key]["label"] == current[key]["label"] for key in common)
    assert any(older[key]["question_id"] != current[key]["question_id"] for key in common)
