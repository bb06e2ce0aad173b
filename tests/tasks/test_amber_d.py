"""AMBER's discriminative questions from its release and from VLMEvalKit's table."""

import base64
import gzip
import json

import pytest
from hub_data import embedded, jpeg, write_parquet
from shared_data import shared

from sinkbench import runner
from sinkbench.errors import UsageError
from sinkbench.scoring import amber_d
from sinkbench.spec import RunSpec
from sinkbench.tasks import build_requests, check_data, documents, load_task, score_samples, task_info
from sinkbench.tasks.layout import FAULT

# Id, image, query, type, truth; as in the release, where ids up to 1004 are generative.
QUERIES = [
    (1, "AMBER_1.jpg", "Describe this image.", "generative", ["sky"]),
    (1005, "AMBER_1.jpg", "Is the sky sunny in this image?", "discriminative-attribute-state", "yes"),
    (1006, "AMBER_1.jpg", "Is the sky cloudy in this image?", "discriminative-attribute-state", "no"),
    (8633, "AMBER_1.jpg", "Is there a cloud in this image?", "discriminative-hallucination", "no"),
    (13557, "AMBER_2.jpg", "Is there direct contact between the man and the ship?", "discriminative-relation", "yes"),
    (13558, "AMBER_2.jpg", "Is there direct contact between the man and the sky?", "relation", "no"),
]


def write_release(folder, place="data", queries="query_discriminative.json", images="image", changes=()):
    """annotations.json and queries as AMBER's repository has them, and the images of its archive."""
    (folder / place / "query").mkdir(parents=True)
    (folder / images).mkdir(exist_ok=True)
    truths = [{"id": id, "type": kind, "truth": truth} for id, _, _, kind, truth in QUERIES]
    for index, change in changes:
        truths[index] |= change
    asked = [
        {"id": id, "image": image, "query": query} for id, image, query, kind, _ in QUERIES if kind != "generative"
    ]
    if queries == "query_all.json":
        asked = [{"id": id, "image": image, "query": query} for id, image, query, _, _ in QUERIES]
    (folder / place / "annotations.json").write_text(json.dumps(truths))
    (folder / place / "query" / queries).write_text(json.dumps(asked))
    for number in (1, 2):
        (folder / images / f"AMBER_{number}.jpg").write_bytes(jpeg(number))


def check_task(task, image_folder):
    docs = list(documents(task))
    assert [doc["id"] for doc in docs] == ["1005", "1006", "8633", "13557", "13558"]
    requests = list(build_requests(task, image_folder))
    assert requests[0].messages[0].text == "<image>Is the sky sunny in this image?"
    assert requests[0].generation.max_new_tokens == 128
    assert len({request.images[0].key for request in requests}) == 2
    assert all(request.images[0].load().size == (32, 24) for request in requests)
    metrics, _ = score_samples(task, {f"amber_d/{doc['id']}": doc["answer"].title() for doc in docs})
    # The constants of the published scorer keep its F1 a little below 1.
    assert round(metrics["f1"]["value"], 3) == 1.0
    assert metrics["accuracy"]["value"] == metrics["relation/accuracy"]["value"] == 1.0
    assert [metrics[f"{name}/f1"]["n"] for name in amber_d.DIMENSIONS] == [1, 2, 2]


@pytest.mark.parametrize(("place", "queries"), [("data", "query_discriminative.json"), ("", "query_all.json")])
@pytest.mark.parametrize("images", ["image", "images", "."])
def test_the_release(place, queries, images, tmp_path):
    write_release(tmp_path / "amber", place, queries, images)
    check_data("amber_d", tmp_path / "amber")
    check_task(load_task("amber_d", tmp_path / "amber"), tmp_path / "out")


def test_the_files_of_the_three_dimensions(tmp_path):
    write_release(tmp_path)
    whole = json.loads((tmp_path / "data/query/query_discriminative.json").read_text())
    (tmp_path / "data/query/query_discriminative.json").unlink()
    for name, ids in (("existence", {8633}), ("attribute", {1005, 1006}), ("relation", {13557, 13558})):
        part = [row for row in whole if row["id"] in ids]
        (tmp_path / f"data/query/query_discriminative-{name}.json").write_text(json.dumps(part))
    ids = {doc["id"] for doc in documents(load_task("amber_d", tmp_path))}
    assert ids == {"1005", "1006", "8633", "13557", "13558"}
    (tmp_path / "data/query/query_discriminative-existence.json").unlink()
    assert len(documents(load_task("amber_d", tmp_path))) == 4


def test_vlmevalkits_table(tmp_path):
    lines = ["\t".join(["index", "image", "question", "answer", "category", "image_path"])]
    for id, image, query, kind, truth in QUERIES[1:]:
        content = base64.b64encode(jpeg(int(image[6]))).decode()
        lines.append("\t".join([str(id), content, query, truth, kind, image]))
    (tmp_path / "AMBER.tsv").write_text("\n".join(lines) + "\n")
    check_task(load_task("amber_d", tmp_path), tmp_path / "out")


def test_parquet_in_the_tasks_columns(tmp_path):
    from datasets import Image, Value

    columns = ("question_id", "image_source", "question", "category", "answer")
    table = [
        {
            **dict(zip(columns, (id, image.removesuffix(".jpg"), query, kind, truth), strict=True)),
            "image": embedded(jpeg(int(image[6]))),
        }
        for id, image, query, kind, truth in QUERIES[1:]
    ]
    kinds = {"question_id": Value("int64"), "image": Image()}
    write_parquet(tmp_path, "amber.parquet", table, {name: kinds.get(name, Value("string")) for name in table[0]})
    check_data("amber_d", tmp_path)
    check_task(load_task("amber_d", tmp_path), tmp_path / "out")


@pytest.mark.parametrize(("prompt", "suffix"), [("original", ""), ("vlmevalkit", "\nPlease answer yes or no.")])
def test_prompts(prompt, suffix, tmp_path):
    write_release(tmp_path)
    task = load_task("amber_d", tmp_path, {"prompt": prompt})
    assert task.doc_to_text(documents(task)[0]) == f"<image>Is the sky sunny in this image?{suffix}"


def test_parsers_reach_the_score(tmp_path):
    write_release(tmp_path)
    for parser, accuracy in (("amber", 0.0), ("vlmevalkit", 1.0)):
        task = load_task("amber_d", tmp_path, {"parser": parser})
        metrics, _ = score_samples(
            task, {f"amber_d/{doc['id']}": f"{doc['answer']}, it is." for doc in documents(task)}
        )
        assert metrics["accuracy"]["value"] == accuracy
        assert metrics["n_unparsed"]["value"] == 5 * (1 - accuracy)


def test_broken_rows_in_a_run(tmp_path):
    """A null truth and a missing image, in a run of the real tiny-llava."""
    write_release(tmp_path / "data", changes=[(2, {"truth": None})])
    (tmp_path / "data" / "image" / "AMBER_2.jpg").unlink()
    spec = RunSpec(
        model="tiny-llava",
        task="amber_d",
        data_dir=tmp_path / "data",
        output=tmp_path / "runs",
        device="cpu",
        generation={"max_new_tokens": 3},
    )
    (outcome,) = runner.run([spec])
    assert (outcome.record["status"], outcome.n_failed) == ("incomplete", 3)
    samples = [json.loads(line) for line in (outcome.directory / "samples.jsonl").read_text().splitlines()]
    failed = {row["id"]: row["error"] for row in samples if row["error"]}
    assert failed["amber_d/1006"] == "answer is null"
    assert "AMBER_2.jpg" in failed["amber_d/13557"]
    metrics = outcome.record["metrics"]
    assert (metrics["accuracy"]["n"], metrics["existence/accuracy"]["n"], metrics["relation/f1"]["value"]) == (
        2,
        1,
        None,
    )


def test_queries_without_truths(tmp_path):
    write_release(tmp_path)
    annotations = tmp_path / "data" / "annotations.json"
    annotations.write_text(json.dumps(json.loads(annotations.read_text())[:-1]))
    with pytest.raises(UsageError, match="no entry for query 13558"):
        check_data("amber_d", tmp_path)
    annotations.unlink()
    with pytest.raises(UsageError, match=r"no annotations\.json"):
        check_data("amber_d", tmp_path)


def test_no_truth_at_all_is_a_fault(tmp_path):
    write_release(tmp_path)
    annotations = tmp_path / "data" / "annotations.json"
    truths = json.loads(annotations.read_text())
    del truths[1]["truth"]
    annotations.write_text(json.dumps(truths))
    assert [doc[FAULT] for doc in documents(load_task("amber_d", tmp_path))] == ["answer is null"] + [""] * 4


def test_the_benchmarks_own_annotations(tmp_path):
    """Every type of the real file has a dimension; the queries, which are not among the shared data, are made up."""
    packed = (shared("amber") / "annotations.json.gz").read_bytes()
    (tmp_path / "annotations.json.gz").write_bytes(packed)
    asked = [row for row in json.loads(gzip.decompress(packed)) if row["type"] != "generative"]
    queries = [{"id": row["id"], "image": f"AMBER_{row['id'] % 1004 + 1}.jpg", "query": "Is it?"} for row in asked]
    (tmp_path / "query_discriminative.json").write_text(json.dumps(queries))
    (tmp_path / "AMBER_1.jpg").write_bytes(jpeg(1))
    task = load_task("amber_d", tmp_path)
    metrics, _ = score_samples(task, {f"amber_d/{doc['id']}": "No" for doc in documents(task)})
    assert [metrics[f"{name}/accuracy"]["n"] for name in amber_d.DIMENSIONS] == [4924, 7628, 1664]
    assert metrics["existence/precision"]["value"] == pytest.approx(1, abs=1e-6)
    assert round(100 * metrics["relation/precision"]["value"], 1) == 41.4


def test_types_in_yaml_are_those_of_the_code():
    info = task_info("amber_d")
    assert info.settings["columns"]["category"] == list(amber_d.TYPES)
    assert sorted(info.choices["parser"]) == sorted(amber_d.PARSERS)
    assert sorted(info.metrics) == sorted(amber_d.NAMES)
