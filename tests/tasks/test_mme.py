"""MME from the hub's parquet, from both layouts of its release, and from VLMEvalKit's table."""

import base64
import json

import pytest
from hub_data import embedded, jpeg, write_parquet

from sinkbench import runner
from sinkbench.errors import UsageError
from sinkbench.scoring import mme
from sinkbench.spec import RunSpec
from sinkbench.tasks import build_requests, check_data, documents, hub, load_task, score_samples, task_info
from sinkbench.tasks.layout import FAULT

SHORT = "\nAnswer the question using a single word or phrase."
ASKED = " Please answer yes or no."


def rows():
    """Two images of perception and one of cognition, a yes and a no question each."""
    images = [("existence", "0001.jpg"), ("OCR", "0001.jpg"), ("code_reasoning", "0020.png")]
    return [
        {
            "question_id": f"{category}/{name}",
            "question": f"Is this number {index} {answer}?{ASKED}",
            "answer": answer,
            "category": category,
        }
        for index, (category, name) in enumerate(images)
        for answer in ("Yes", "No")
    ]


def write_hub(folder, changes=()):
    """The test split of lmms-lab/MME with all of its columns."""
    from datasets import Image, Value

    table = [{**row, "image": embedded(jpeg(index // 2))} for index, row in enumerate(rows())]
    for index, change in changes:
        table[index] |= change
    features = {
        "question_id": Value("string"),
        "image": Image(),
        "question": Value("string"),
        "answer": Value("string"),
        "category": Value("string"),
    }
    write_parquet(folder, "data/test-00000-of-00001.parquet", table, features)


def write_release(folder, apart):
    """One folder a category: images and texts side by side, or in images/ and questions_answers_YN/."""
    texts = {}
    for row in rows():
        texts.setdefault(row["question_id"], []).append(f"{row['question']}\t{row['answer']}\n")
    for index, (id, lines) in enumerate(texts.items()):
        category, name = id.split("/")
        place = folder / category
        images, answers = (place / "images", place / "questions_answers_YN") if apart else (place, place)
        for each in (images, answers):
            each.mkdir(parents=True, exist_ok=True)
        (images / name).write_bytes(jpeg(index))
        (answers / name).with_suffix(".txt").write_text("".join(lines))


def check_task(task, image_folder):
    """All six questions are there with prompts and images, and true answers have all points."""
    docs = list(documents(task))
    assert sorted((doc["question_id"], doc["answer"]) for doc in docs) == sorted(
        (row["question_id"], row["answer"]) for row in rows()
    )
    assert len({doc["id"] for doc in docs}) == 6
    requests = {request.id: request for request in build_requests(task, image_folder)}
    for doc in docs:
        request = requests[f"mme/{doc['id']}"]
        assert request.messages[0].text == f"<image>{doc['question'].removesuffix(ASKED)}{SHORT}"
        assert request.generation.max_new_tokens == 16
        assert request.images[0].load().size == (32, 24)
    assert len({request.images[0].key for request in requests.values()}) == 3
    metrics, _ = score_samples(task, {f"mme/{doc['id']}": doc["answer"] for doc in docs})
    assert [metrics[name]["value"] for name in ("perception", "cognition", "accuracy_plus")] == [400, 200, 1]
    assert metrics["count/score"]["value"] is None


def test_the_hub_cache(tmp_path, monkeypatch):
    write_hub(tmp_path / "datasets--lmms-lab--MME" / "snapshots" / "abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "reachable", lambda name: pytest.fail("the hub was asked"))
    check_data("mme")
    check_task(load_task("mme"), tmp_path / "out")


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("root", ["", "MME_Benchmark_release_version", "MME_Benchmark_release_version/MME_Benchmark"])
def test_the_release(root, apart, tmp_path):
    write_release(tmp_path / "mme" / root, apart)
    check_data("mme", tmp_path / "mme")
    check_task(load_task("mme", tmp_path / "mme"), tmp_path / "out")


def test_vlmevalkits_table(tmp_path):
    cells = ["index", "image", "question", "answer", "category", "image_path"]
    lines = ["\t".join(cells)]
    for index, row in enumerate(rows()):
        image = base64.b64encode(jpeg(index // 2)).decode() if index % 2 == 0 else str(index - 1)
        lines.append(
            "\t".join([str(index), image, row["question"], row["answer"], row["category"], row["question_id"]])
        )
    (tmp_path / "MME.tsv").write_text("\n".join(lines) + "\n")
    check_task(load_task("mme", tmp_path), tmp_path / "out")


@pytest.mark.parametrize(
    ("prompt", "question", "asked"),
    [
        ("original", f"Is it?{ASKED}", f"Is it?{SHORT}"),
        ("original", f"Is it? {ASKED}", f"Is it?{SHORT}"),
        ("lmms-eval", f"Is it?{ASKED}", f"Is it?{SHORT}"),
        ("lmms-eval", f"Is it? {ASKED} ", f"Is it? {SHORT}"),
        ("vlmevalkit", f"Is it?{ASKED}", f"Is it?{ASKED}"),
        ("original", "Is it?", f"Is it?{SHORT}"),
    ],
)
def test_prompts(prompt, question, asked, tmp_path):
    write_hub(tmp_path, [(0, {"question": question})])
    task = load_task("mme", tmp_path, {"prompt": prompt})
    assert task.doc_to_text(documents(task)[0]) == f"<image>{asked}"
    assert task_info("mme").params["prompt"] == "original"


def test_parsers_reach_the_score(tmp_path):
    write_hub(tmp_path)
    for parser, perception in (("mme", 0), ("lmms_eval", 400), ("vlmevalkit", 0)):
        task = load_task("mme", tmp_path, {"parser": parser})
        metrics, _ = score_samples(task, {f"mme/{doc['id']}": doc["answer"][0] for doc in documents(task)})
        assert metrics["perception"]["value"] == perception
        assert metrics["n_unparsed"]["value"] == (0 if parser == "lmms_eval" else 6)


def test_broken_rows_in_a_run(tmp_path):
    """A null answer and bytes that are no image, in a run of the real tiny-llava; their images are in no pair."""
    write_hub(tmp_path / "data", [(1, {"answer": None}), (4, {"image": embedded(b"nothing")})])
    spec = RunSpec(model="tiny-llava", task="mme", data_dir=tmp_path / "data", output=tmp_path / "runs", device="cpu")
    (outcome,) = runner.run([spec])
    assert (outcome.record["status"], outcome.n_failed) == ("incomplete", 2)
    samples = [json.loads(line) for line in (outcome.directory / "samples.jsonl").read_text().splitlines()]
    reasons = [row["error"] for row in samples if row["error"]]
    assert reasons[0] == "answer is null"
    assert "cannot be read" in reasons[1]
    metrics = outcome.record["metrics"]
    assert metrics["accuracy"]["n"] == 4
    assert (metrics["accuracy_plus"]["n"], metrics["perception"]["n"], metrics["cognition"]["value"]) == (1, 1, None)


def test_broken_lines_of_the_release(tmp_path):
    write_release(tmp_path, apart=True)
    text = tmp_path / "OCR" / "questions_answers_YN" / "0001.txt"
    text.write_text("Is this a line without an answer?\n\nIs this?\tYes\n")
    (tmp_path / "code_reasoning" / "images" / "0020.png").unlink()
    task = load_task("mme", tmp_path)
    assert [doc[FAULT] for doc in documents(task) if doc["category"] == "OCR"] == ["answer is null", ""]
    requests = list(build_requests(task, tmp_path / "out"))
    asked = [request for request in requests if not request.fault]
    assert [request.images[0].sha256 == "" for request in asked] == [False] * 3 + [True] * 2
    text.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UsageError, match=r"0001\.txt cannot be read"):
        check_data("mme", tmp_path)


def test_a_label_that_is_neither_is_the_data_sets_error(tmp_path):
    write_release(tmp_path, apart=False)
    (tmp_path / "OCR" / "0001.txt").write_text("Is this?\tMaybe\n")
    with pytest.raises(UsageError, match="'answer' must be one of Yes, No, yes, no, not 'Maybe'"):
        check_data("mme", tmp_path)


def test_categories_in_yaml_are_those_of_the_code():
    info = task_info("mme")
    assert info.settings["columns"]["category"] == list(mme.CATEGORIES)
    assert sorted(info.choices["parser"]) == sorted(mme.PARSERS)
    assert sorted(info.metrics) == sorted(mme.NAMES)
