"""CHAIR from its folder and from the hub's copy: lists, truth, prompts, scores."""

import gzip
import hashlib
import json

import pytest
from coco_folder import OBJECTS, SYNONYMS, image_name, write_coco, write_images
from hub_data import embedded, jpeg, write_parquet
from shared_data import shared

from sinkbench import runner
from sinkbench.errors import UsageError
from sinkbench.importing import import_answers
from sinkbench.language_data import unpack
from sinkbench.schemas import validate
from sinkbench.spec import expand
from sinkbench.store import RunStore
from sinkbench.tasks import (
    build_requests,
    check_data,
    documents,
    hub,
    load_task,
    recorded_data,
    score_samples,
    task_fingerprint,
    task_groups,
    task_info,
)

OFFLINE = {"lemmatizer": "simplemma"}
TRUTH = {11: ["chair", "dog", "person"], 12: ["cat", "person"], 13: [], 99: ["cat"]}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SINKBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """Three of six images, with cached truth."""
    folder = tmp_path / "data"
    write_images(folder / "val2014")
    (folder / "synonyms.txt").write_text(SYNONYMS)
    (folder / "image_ids_mine.json").write_text("[13, 11, 12]")
    write_truth(folder, TRUTH)
    return folder


def write_truth(folder, truth):
    lines = "".join(json.dumps([id, names]) + "\n" for id, names in truth.items())
    (folder / "coco_gt_objects.wordnet.jsonl").write_text(lines)


def load(folder, name="chair", **params):
    check_data(name, folder, OFFLINE | params)
    return load_task(name, folder, OFFLINE | params)


def problem(folder, name="chair", **params):
    with pytest.raises(UsageError) as refused:
        check_data(name, folder, OFFLINE | params)
    return refused.value


def truth_of(task):
    return {doc["question_id"]: doc["gt_object"] for doc in documents(task)}


def test_the_group():
    assert task_groups()["chair_all"] == ("chair", "chair_64")
    assert task_info("chair").params["lemmatizer"] == "nltk"
    short, long = dict(task_info("chair_64").settings), dict(task_info("chair").settings)
    assert short.pop("summary") != long.pop("summary")
    assert short == long
    assert task_info("chair").metrics == task_info("chair_64").metrics


@pytest.mark.parametrize(("name", "tokens"), [("chair", 512), ("chair_64", 64)])
@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("opera", "Please describe this image in detail."),
        ("lmms-eval", "Please describe this image in detail."),
        ("pai", "Please help me describe the image in detail."),
    ],
)
def test_prompts_and_generation(folder, tmp_path, name, tokens, prompt, text):
    requests = list(build_requests(load(folder, name, prompt=prompt), tmp_path))
    assert [request.id for request in requests] == [f"{name}/13", f"{name}/11", f"{name}/12"]
    assert {request.messages[0].text for request in requests} == {f"<image>{text}"}
    settings = requests[0].generation
    assert (settings.max_new_tokens, settings.stop, settings.do_sample) == (tokens, (), False)
    assert requests[0].images[0].load().size == (32, 24)


def test_scores_by_hand(folder):
    """Of five mentions one is wrong (a cat beside 11), of five true objects three are named; 13 shows nothing."""
    task = load(folder)
    answers = {11: "A man, a cat and two puppies.", 12: "People.", 13: "A\n\ntoilet seat."}
    metrics, scores = score_samples(task, {f"chair/{id}": text for id, text in answers.items()})
    values = {name: metric["value"] for name, metric in metrics.items()}
    assert values["chair_i"] == pytest.approx(2 / 5)
    assert values["chair_s"] == pytest.approx(2 / 3)
    assert values["recall"] == pytest.approx(3 / 5)
    assert values["precision"] == pytest.approx(3 / 5)
    assert scores["chair/13"]["parsed"] == {"mentioned": ["toilet"], "hallucinated": [["toilet", "toilet"]]}
    reversed_answers = {f"chair/{id}": text for id, text in reversed(answers.items())}
    assert score_samples(task, reversed_answers)[0] == metrics


def test_an_unfinished_sentence_may_be_dropped(folder):
    answers = {"chair_64/11": "A man. A cat and a"}
    for dropped, value in ((False, 0.5), (True, 0.0)):
        task = load(folder, "chair_64", drop_incomplete_sentence=dropped)
        assert score_samples(task, answers)[0]["chair_i"]["value"] == value


def test_odd_synonyms_count_on_demand(folder):
    (folder / "synonyms.txt").write_text("person\nlamp,  iPhone\n")
    write_truth(folder, {11: [], 12: [], 13: []})
    for strict, value in ((False, 0.0), (True, 1.0)):
        task = load(folder, strict_synonyms=strict)
        assert score_samples(task, {"chair/11": "An iphone."})[0]["chair_s"]["value"] == value


def test_an_image_without_truth_or_file_fails_alone(folder, tmp_path):
    write_truth(folder, {11: ["dog"], 12: ["cat"]})
    (folder / "val2014" / image_name(12)).unlink()
    requests = {request.id: request for request in build_requests(load(folder), tmp_path)}
    assert requests["chair/13"].fault == "gt_object is null"
    assert not requests["chair/12"].images[0].sha256
    assert (requests["chair/11"].fault, bool(requests["chair/11"].images[0].sha256)) == ("", True)


def test_lists_are_chosen_by_name(folder):
    (folder / "image_ids_names.json").write_text(json.dumps(["000000000012.jpg", image_name(11), "13"]))
    error = problem(folder)
    assert "several image lists: mine, names" in error.message
    assert "--set chair.images=mine" in error.hint
    assert list(truth_of(load(folder, images="names"))) == [12, 11, 13]
    assert "no image list 'other', but mine, names" in problem(folder, images="other").message
    every = load(folder, images="all")
    assert list(truth_of(every)) == [11, 12, 13]
    (folder / "image_ids_mine.json").unlink()
    (folder / "image_ids_names.json").unlink()
    assert "no list of images" in problem(folder).message


@pytest.mark.parametrize("text", ["{", "[]", '["x"]', "7"])
def test_malformed_lists(folder, text):
    (folder / "image_ids_mine.json").write_text(text)
    assert "image_ids_mine.json" in problem(folder).message


def test_a_list_that_names_an_image_twice(folder):
    (folder / "image_ids_mine.json").write_text("[11, 11]")
    assert "holds question_id 11 more than once" in problem(folder).message


def test_the_record_names_list_and_table(folder, tmp_path):
    first = load(folder)
    recorded = recorded_data(first)
    assert recorded["images_sha256"] == hashlib.sha256(b"11\n12\n13\n").hexdigest()
    assert recorded["synonyms_sha256"] == hashlib.sha256(SYNONYMS.encode()).hexdigest()
    (folder / "image_ids_mine.json").write_text("[12, 13, 11]")
    (folder / "synonyms.txt").write_text(SYNONYMS.replace("\n", " \n"))
    assert recorded_data(load(folder)) == recorded
    assert task_fingerprint(load(folder)) == task_fingerprint(first)
    (folder / "synonyms.txt").write_text(SYNONYMS + "car\n")
    assert recorded_data(load(folder))["synonyms_sha256"] != recorded["synonyms_sha256"]
    assert task_fingerprint(load(folder)) != task_fingerprint(first)


def test_truth_from_packed_tables_and_malformed_ones(folder):
    plain = folder / "coco_gt_objects.wordnet.jsonl"
    (folder / f"{plain.name}.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    assert truth_of(load(folder))[12] == ["cat", "person"]
    (folder / f"{plain.name}.gz").unlink()
    plain.write_text('[11, ["dog"]]\n[12]\n')
    assert "coco_gt_objects.wordnet.jsonl, line 2" in problem(folder).message
    write_truth(folder, {7: ["dog"]})
    assert "knows none of the 3 images" in problem(folder).message


def test_truth_computed_from_cocos_annotations(tmp_path):
    """Boxes and what the captions say by the same rules: a toilet seat is no chair."""
    folder = write_coco(tmp_path / "data")
    (folder / "synonyms.txt").write_text(SYNONYMS)
    (folder / "image_ids_all.json").write_text(json.dumps([*OBJECTS, 99]))
    assert truth_of(load(folder)) == {
        11: ["chair", "dog", "person"],
        12: ["cat", "person"],
        13: ["chair", "dog", "person"],
        14: ["chair", "person"],
        15: ["toilet"],
        16: [],
        99: None,
    }
    (folder / "annotations" / "captions_val2014.json").unlink()
    assert "no captions" in problem(folder).message


def test_synonyms_come_from_the_folder_or_the_cache(folder, tmp_path):
    (folder / "synonyms.txt").unlink()
    error = problem(folder)
    assert "table of synonyms" in error.message
    assert "sinkbench assets fetch chair-synonyms" in error.hint
    cached = tmp_path / "cache" / "chair-synonyms-84e0040eec10"
    cached.mkdir(parents=True)
    (cached / "synonyms.txt").write_text(SYNONYMS)
    assert score_samples(load(folder), {"chair/12": "A kitten."})[0]["recall"]["value"] == 0.5


def test_nothing_at_all(tmp_path):
    assert "holds no data of chair" in problem(tmp_path).message
    assert "image_ids_NAME.json" in problem(tmp_path / "none").hint


def hub_rows():
    rows = [(226, ["dog", "person"]), (227, []), (228, None)]
    return [{"question_id": str(id), "image": embedded(jpeg(id)), "gt_object": names} for id, names in rows]


def write_hub(folder, gt_object=None):
    from datasets import Image, List, Value

    features = {"question_id": Value("string"), "image": Image(), "gt_object": gt_object or List(Value("string"))}
    rows = hub_rows()
    if gt_object:
        rows = [{**row, "gt_object": "dog"} for row in rows]
    write_parquet(folder, "data/test-00000-of-00001.parquet", rows, features)
    (folder / "synonyms.txt").write_text(SYNONYMS)
    return folder


def check_hub_task(task, tmp_path):
    requests = list(build_requests(task, tmp_path / "images"))
    assert [request.fault for request in requests] == ["", "", "gt_object is null"]
    assert requests[0].images[0].load().size == (32, 24)
    metrics, _ = score_samples(task, {"chair/226": "A puppy and a kitten.", "chair/227": "Sky."})
    assert [metrics[name]["value"] for name in ("chair_i", "chair_s", "recall")] == [0.5, 0.5, 0.5]


def test_the_hubs_copy_in_a_folder(tmp_path):
    folder = write_hub(tmp_path / "data")
    check_hub_task(load(folder), tmp_path)
    assert "hold their own images" in problem(folder, images="mine").message


def test_the_hubs_copy_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "reachable", lambda _: pytest.fail("the hub was asked"))
    write_hub(tmp_path / "hub" / "datasets--tsunghanwu--mscoco_chair" / "snapshots" / "abc")
    write_hub(tmp_path / "cache" / "chair-synonyms-84e0040eec10")
    check_hub_task(load(None), tmp_path)


def test_truth_that_is_no_list(tmp_path):
    from datasets import Value

    folder = write_hub(tmp_path / "data", Value("string"))
    with pytest.raises(UsageError, match="'gt_object' must hold lists"):
        load_task("chair", folder, OFFLINE)


def test_the_real_tiny_model_from_end_to_end(folder, tmp_path):
    (folder / "val2014" / image_name(12)).write_bytes(b"no image")
    settings = {"model": "tiny-llava", "task": "chair_64", "params": {"chair_64.lemmatizer": "simplemma"}}
    (outcome,) = runner.run(expand({**settings, "data_dir": folder, "output": tmp_path / "runs", "device": "cpu"}))
    record = outcome.record
    assert (record["status"], record["task"]["n_failed"]) == ("incomplete", 1)
    assert record["task"]["data"]["images_sha256"] == hashlib.sha256(b"11\n12\n13\n").hexdigest()
    assert record["task"]["params"] == {"lemmatizer": "simplemma"}
    assert record["metrics"]["chair_s"]["n"] == 2
    assert all(0 <= record["metrics"][name]["value"] <= 1 for name in ("chair_i", "chair_s", "recall", "f1"))
    assert all(row["tokens"] <= 64 for row in RunStore(outcome.directory).newest())
    validate(record, "run")


@pytest.mark.parametrize(
    ("images", "name", "column"),
    [
        ("opera_llava15_500", "chair_opera_llava15_greedy.jsonl", "caption"),
        ("less_is_more_500", "chair_lessismore_r9_llava7b.jsonl", "text"),
    ],
)
def test_published_captions_through_the_task(images, name, column, tmp_path, monkeypatch):
    """The published lists and truth as they are, with images that are only there by name."""
    import nltk

    chair, cases = shared("chair"), shared("dev_cases")
    unpack(shared("nltk_data.tar.gz"), tmp_path)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
    folder = tmp_path / "data"
    folder.mkdir()
    for path in chair.iterdir():
        (folder / path.name).symlink_to(path)
    ids = json.loads((chair / f"image_ids_{images}.json").read_text())
    (folder / "val2014").mkdir()
    (folder / "val2014" / image_name(ids[0])).touch()
    task = load_task("chair", folder, {"images": images})
    answers = {}
    for row in map(json.loads, (cases / name).open()):
        answers[f"chair/{int(str(row['image_id']).removesuffix('.jpg'))}"] = row[column]
    metrics, _ = score_samples(task, answers)
    expected = json.loads((cases / "expected.json").read_text())[name]["overall"]
    for metric, key in (("chair_s", "CHAIRs"), ("chair_i", "CHAIRi"), ("recall", "Recall"), ("length", "Len")):
        assert metrics[metric]["value"] == pytest.approx(expected[key], abs=1e-12)
    assert metrics["chair_s"]["n"] == 500
    # The same file through `sinkbench score`, joined by the number of the image; scoring needs no image at all.
    (folder / "val2014" / image_name(ids[0])).unlink()
    imported = import_answers("chair", cases / name, output=tmp_path, data_dir=folder, params={"images": images})
    found = {metric: entry["value"] for metric, entry in imported.record["metrics"].items()}
    assert found == {metric: entry["value"] for metric, entry in metrics.items()}
    assert imported.record["imported"]["n_unanswered"] == 0
