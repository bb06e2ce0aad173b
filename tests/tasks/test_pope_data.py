"""POPE from its release, from copies in the hub's schema, and what is said when none can be had."""

import io
import json

import pytest
from PIL import Image

from sinkbench.errors import UsageError
from sinkbench.tasks import build_requests, check_data, documents, hub, load_task, score_samples, task_info

SPLITS = ("random", "popular", "adversarial")
SHORT = "\nAnswer the question using a single word or phrase."


def rows(split):
    """Two images, a yes and a no question each; question numbers repeat across splits."""
    return [
        {
            "question_id": 2 * image + turn + 1,
            "image": f"COCO_val2014_{image:012}.jpg",
            "text": f"Is there a {split} dog in the image?",
            "label": ("yes", "no")[turn],
        }
        for image in range(2)
        for turn in range(2)
    ]


def jpeg(image):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (100 * image, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_release(folder, images="val2014"):
    (folder / images).mkdir(parents=True)
    for split in SPLITS:
        lines = "".join(json.dumps(row) + "\n" for row in rows(split))
        (folder / f"coco_pope_{split}.json").write_text(lines)
    for image in range(2):
        (folder / images / f"COCO_val2014_{image:012}.jpg").write_bytes(jpeg(image))


def hub_rows():
    return [
        {
            "id": str(index),
            "question_id": str(row["question_id"]),
            "question": row["text"],
            "answer": row["label"],
            "image_source": row["image"].removesuffix(".jpg"),
            "category": split,
        }
        for index, (split, row) in enumerate((split, row) for split in SPLITS for row in rows(split))
    ]


def write_parquet(folder, drop=()):
    from datasets import Dataset

    folder.mkdir(parents=True, exist_ok=True)
    embedded = [{**row, "image": {"bytes": jpeg(int(row["image_source"][-1])), "path": None}} for row in hub_rows()]
    kept = [{key: value for key, value in row.items() if key not in drop} for row in embedded]
    Dataset.from_list(kept).to_parquet(str(folder / "test-00000-of-00001.parquet"))


def check_task(task, image_folder):
    """All twelve questions are there, with prompts and images, and true answers score 1."""
    docs = list(documents(task))
    assert sorted(doc["id"] for doc in docs) == sorted(f"{s}-{n}" for s in SPLITS for n in range(1, 5))
    requests = list(build_requests(task, image_folder))
    assert requests[0].id == f"pope/{docs[0]['id']}"
    assert requests[0].messages[0].text == f"<image>{docs[0]['question']}{SHORT}"
    assert requests[0].generation.max_new_tokens == 128
    assert len({request.images[0].key for request in requests}) == 2
    assert all(request.images[0].load().size == (16, 16) for request in requests)
    metrics, _ = score_samples(task, {f"pope/{doc['id']}": doc["answer"].title() for doc in docs})
    assert metrics["f1"]["value"] == metrics["adversarial/f1"]["value"] == 1.0
    assert (metrics["f1"]["n"], metrics["random/f1"]["n"]) == (12, 4)


@pytest.mark.parametrize("images", ["val2014", "images", "."])
def test_release(images, tmp_path):
    write_release(tmp_path / "pope", images)
    check_data("pope", tmp_path / "pope")
    check_task(load_task("pope", tmp_path / "pope"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_older_random_file_beside_it_is_not_mixed_in(tmp_path):
    write_release(tmp_path)
    (tmp_path / "coco_pope_random.2910.json").write_text((tmp_path / "coco_pope_random.json").read_text())
    check_task(load_task("pope", tmp_path), tmp_path / "out")


def test_one_split_alone_is_scored_alone(tmp_path):
    write_release(tmp_path)
    (tmp_path / "coco_pope_popular.json").unlink()
    task = load_task("pope", tmp_path)
    metrics, _ = score_samples(task, {f"pope/{doc['id']}": doc["answer"] for doc in documents(task)})
    assert metrics["f1"]["value"] == 1.0
    assert (metrics["popular/f1"]["value"], metrics["popular/f1"]["n"]) == (None, 0)


def test_json_in_the_hubs_schema(tmp_path):
    (tmp_path / "images").mkdir()
    for image in range(2):
        (tmp_path / "images" / f"COCO_val2014_{image:012}.jpg").write_bytes(jpeg(image))
    (tmp_path / "pope.jsonl").write_text("".join(json.dumps(row) + "\n" for row in hub_rows()))
    check_data("pope", tmp_path)
    check_task(load_task("pope", tmp_path), tmp_path / "out")


def test_parquet_in_the_hubs_schema_writes_each_image_once(tmp_path):
    write_parquet(tmp_path / "pope")
    check_data("pope", tmp_path / "pope")
    task = load_task("pope", tmp_path / "pope")
    check_task(task, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 2
    image = task.doc_to_image(task.eval_docs[0])[0]
    assert image.convert("RGB").size == (16, 16)


def test_the_hub_cache_is_found_without_asking_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "reachable", _no_question)
    write_parquet(tmp_path / "datasets--lmms-lab--POPE" / "snapshots" / "abc" / "data")
    check_data("pope")
    check_task(load_task("pope"), tmp_path / "out")


def test_out_of_reach_says_what_to_do_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError) as caught:
        check_data("pope")
    assert "lmms-lab/POPE" in caught.value.message
    assert "lmms-lab-encoder/POPE" in caught.value.message
    assert all(
        word in caught.value.hint
        for word in ("--data-dir", "sinkbench data export pope --out DIR", "on a machine with access")
    )


def test_a_reachable_copy_is_enough(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "reachable", lambda name: "" if name == "lmms-lab-encoder/POPE" else "gone")
    check_data("pope")


def test_another_hub_id_can_be_given(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="mine/POPE"):
        check_data("pope", params={"hub": "mine/POPE", "hub_fallback": ""})


def _no_question(name):
    raise AssertionError("the hub was asked")


def test_bad_folders(tmp_path):
    cases = {"missing": "does not exist", "empty": "holds no data of pope"}
    (tmp_path / "empty").mkdir()
    for name, words in cases.items():
        with pytest.raises(UsageError, match=words) as caught:
            check_data("pope", tmp_path / name)
        assert "coco_pope_" in caught.value.hint


def test_a_missing_parquet_column_is_named(tmp_path):
    write_parquet(tmp_path, drop=("category",))
    with pytest.raises(UsageError, match="columns category are missing"):
        check_data("pope", tmp_path)


def test_a_file_that_is_no_parquet(tmp_path):
    (tmp_path / "test.parquet").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="no readable parquet"):
        check_data("pope", tmp_path)


def test_a_folder_without_any_of_the_images(tmp_path):
    write_release(tmp_path)
    for path in (tmp_path / "val2014").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match="none of the 2 images"):
        check_data("pope", tmp_path)


def test_a_question_number_that_occurs_twice(tmp_path):
    write_release(tmp_path)
    path = tmp_path / "coco_pope_random.json"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    with pytest.raises(UsageError, match="random-1 more than once"):
        load_task("pope", tmp_path)


@pytest.mark.parametrize(
    ("prompt", "suffix"),
    [
        ("original", SHORT),
        ("llava", SHORT),
        ("lmms-eval", SHORT),
        ("vlmevalkit", ""),
        ("bare", ""),
        ("vcd", " Please answer this question with one word."),
    ],
)
def test_prompts(prompt, suffix, tmp_path):
    write_release(tmp_path)
    task = load_task("pope", tmp_path, {"prompt": prompt})
    document = documents(task)[0]
    assert task.doc_to_text(document) == f"<image>{document['question']}{suffix}"
    assert document["prompt"] == prompt


def test_the_default_prompt_is_that_of_the_published_numbers():
    assert task_info("pope").params["prompt"] == "original"
