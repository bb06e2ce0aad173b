"""Anybody's photographs in COCO's format: POPE's questions and CHAIR's truth made for them."""

import json
from collections import Counter, defaultdict

import pytest
from coco_folder import SYNONYMS, captions, image_name, instances, write_coco
from shared_data import shared

from sinkbench import runner
from sinkbench.errors import UsageError
from sinkbench.language_data import unpack
from sinkbench.spec import expand
from sinkbench.tasks import build_requests, check_data, documents, load_task, recorded_data, score_samples
from sinkbench.tasks.coco import plain_name, read_photographs
from sinkbench.tasks.pope_sampling import ask, pope_questions

SPLITS = ("random", "popular", "adversarial")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SINKBENCH_CACHE", str(tmp_path / "cache"))


def load(name, folder, **params):
    check_data(name, folder, params)
    return load_task(name, folder, params)


def problem(name, folder, **params):
    with pytest.raises(UsageError) as refused:
        check_data(name, folder, params)
    return refused.value


# Reading


def test_annotations_and_captions(tmp_path):
    found = read_photographs(write_coco(tmp_path / "data"), "")
    assert found.files[11] == image_name(11)
    assert found.objects[11] == ["person", "dog"]
    assert found.objects[16] == found.captions[13] == []
    assert found.captions[12] == ["A woman holds a kitten."]
    assert found.categories == ["person", "cat", "dog", "chair", "toilet"]


def test_files_of_any_name_are_told_by_their_content(tmp_path):
    folder = write_coco(tmp_path / "data", annotations=".", images="images")
    (folder / "instances_val2014.json").rename(folder / "_annotations.coco.json")
    (folder / "captions_val2014.json").rename(folder / "what people say.json")
    (folder / "other.json").write_text("[1]")
    found = read_photographs(folder, "")
    assert found.objects[12] == ["person", "cat"]
    assert found.captions[14] == ["People sit."]


def test_large_files_are_left_alone_once_all_images_are_covered(tmp_path):
    folder = write_coco(tmp_path / "data")
    (folder / "annotations" / "instances_train2014.json").write_text("{")
    (folder / "annotations" / "captions_train2014.json").write_text("{")
    assert read_photographs(folder, "", frozenset({11, 16})).objects[11] == ["person", "dog"]
    with pytest.raises(UsageError, match=r"_train2014\.json is no readable JSON"):
        read_photographs(folder, "", frozenset({11, 99}))


def test_annotations_of_images_that_are_not_listed_are_left_out(tmp_path):
    folder = write_coco(tmp_path / "data")
    few = instances(images=[{"id": 12, "file_name": "a.jpg"}])
    (folder / "annotations" / "instances_val2014.json").write_text(json.dumps(few))
    (folder / "annotations" / "captions_val2014.json").unlink()
    assert read_photographs(folder, "").objects == {12: ["person", "cat"]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": [{"id": 1}]}, "images entry 1 has no file_name"),
        ({"categories": [{"id": 1, "name": "person"}]}, "category 18 is annotated and not among the categories"),
        ({"annotations": [{"image_id": 11}]}, "annotations entry 1 has no category_id"),
        ({"annotations": [None]}, "annotations entry 1 has no image_id"),
        ({"images": [{"id": 11, "file_name": "b.jpg"}]}, "image 11 is"),
    ],
)
def test_malformed_annotations(tmp_path, change, words):
    folder = write_coco(tmp_path / "data")
    (folder / "annotations" / "instances_val2014.json").write_text(json.dumps(instances(**change)))
    error = problem("photos_pope", folder)
    assert words in error.message
    assert "_val2014.json" in error.message
    assert "--data-dir" in error.hint


def test_folders_without_annotations(tmp_path):
    assert "holds no data of photos_pope" in problem("photos_pope", tmp_path).message
    (tmp_path / "captions.json").write_text(json.dumps(captions()))
    with pytest.raises(UsageError):
        check_data("photos_pope", tmp_path)
    with pytest.raises(UsageError, match="photos_pope needs data of yours") as refused:
        check_data("photos_pope")
    assert "--data-dir" in refused.value.hint


def test_names_as_one_would_write_them():
    assert plain_name(" Palm_Tree ") == "palm tree"
    assert [ask(name) for name in ("dog", "oven", "skis")] == [
        "Is there a dog in the image?",
        "Is there an oven in the image?",
        "Is there a skis in the image?",
    ]


# POPE


def pairs(questions):
    """Questions by image and split, each as (object, answer)."""
    found = defaultdict(list)
    for image, split, text, answer in questions:
        found[image, split].append((text.split(" ", 3)[3].removesuffix(" in the image?"), answer))
    return found


WORLD = {
    1: ["dog", "person"],
    2: ["dog", "person", "cat"],
    3: ["car", "person"],
    4: ["car", "cat"],
    5: ["bus", "person", "dog"],
    6: ["dog"],
}
"""dog 3, person 4, car 2, cat 2, bus 1 over images 1 to 5."""


def test_negatives_by_frequency_and_by_neighbours():
    asked = pairs(pope_questions(WORLD, per_image=2))
    assert {image for image, _ in asked} == {1, 2, 3, 4, 5}
    for split in SPLITS:
        for image in range(1, 6):
            got = asked[image, split]
            assert [answer for _, answer in got] == ["yes", "no"] * 2
            assert {name for name, answer in got if answer == "yes"} <= set(WORLD[image])
            absent = [name for name, answer in got if answer == "no"]
            assert len(set(absent)) == 2
            assert not set(absent) & set(WORLD[image])
    # Most frequent first; equal ones by name.
    assert [name for name, answer in asked[1, "popular"] if answer == "no"] == ["car", "cat"]
    assert [name for name, answer in asked[4, "popular"] if answer == "no"] == ["person", "dog"]
    # person stands most often beside dog, car and cat both beside person once: in each pair the neighbour of its yes.
    (first, _), (beside, _) = asked[3, "adversarial"][:2]
    assert (first, beside) in {("person", "dog"), ("car", "cat")}


def test_neighbours_come_before_frequent_objects():
    world = {1: ["cup", "spoon"], 2: ["cup", "table"], 3: ["dog", "ball"], 4: ["dog", "ball"], 5: ["dog", "sky"]}
    asked = pairs(pope_questions(world, per_image=1, seed=3))
    for image in (1, 2):
        (present, _), (absent, _) = asked[image, "adversarial"]
        neighbours = {name for names in world.values() if present in names for name in names} - set(world[image])
        assert not neighbours or absent in neighbours
        assert asked[image, "popular"][1][0] == "dog"


def test_all_splits_ask_about_the_same_objects_that_are_there():
    asked = pairs(pope_questions(WORLD, per_image=2))
    for image in range(1, 6):
        assert len({tuple(entry for entry in asked[image, split] if entry[1] == "yes") for split in SPLITS}) == 1


def test_the_seed_decides_and_fewer_images_are_a_part_of_more():
    world = {image: [f"kind {(image + step) % 9}" for step in (0, 2, 3)] for image in range(40)}
    assert pope_questions(world, seed=1) == pope_questions(dict(reversed(world.items())), seed=1)
    assert pope_questions(world, seed=1) != pope_questions(world, seed=2)
    few, many = ({q.image for q in pope_questions(world, n_images=n)} for n in (5, 20))
    assert (len(few), len(many)) == (5, 20)
    assert few < many


def test_images_with_too_little_in_them_or_out_of_them_are_left_out():
    assert pope_questions({1: ["dog"], 2: ["cat"]}, per_image=2) == []
    assert pope_questions({1: ["dog", "cat"], 2: ["dog", "cat", "car"]}, per_image=2) == []
    assert pope_questions({}) == []


def test_pope_task(tmp_path):
    folder = write_coco(tmp_path / "data")
    task = load("photos_pope", folder, per_image=1)
    docs = list(documents(task))
    assert Counter(doc["category"] for doc in docs) == dict.fromkeys(SPLITS, 10)
    assert {doc["id"] for doc in docs} == {f"{split}-{number}" for split in SPLITS for number in range(1, 11)}
    assert [doc["cluster"] for doc in docs] == [str(image) for image in (11, 12, 13, 14, 15) for _ in range(6)]
    for answer, accuracy, ratio in (("yes", 0.5, 1.0), ("no", 0.5, 0.0), ("", 0.5, 1.0)):
        metrics, _ = score_samples(task, {f"photos_pope/{doc['id']}": answer for doc in docs})
        assert (metrics["accuracy"]["value"], metrics["yes_ratio"]["value"]) == (accuracy, ratio)
        assert metrics["n_unparsed"]["value"] == (0 if answer else 30)
    right, _ = score_samples(task, {f"photos_pope/{doc['id']}": doc["answer"] for doc in docs})
    assert right["f1"]["value"] == right["adversarial/f1"]["value"] == 1.0
    requests = list(build_requests(task, tmp_path / "images"))
    assert all(request.images[0].sha256 for request in requests)
    assert requests[0].generation.max_new_tokens == 128


@pytest.mark.parametrize(
    ("prompt", "suffix"),
    [
        ("llava", "\nAnswer the question using a single word or phrase."),
        ("vcd", " Please answer this question with one word."),
        ("bare", ""),
    ],
)
def test_pope_prompts(tmp_path, prompt, suffix):
    task = load("photos_pope", write_coco(tmp_path / "data"), prompt=prompt, per_image=1)
    doc, request = documents(task)[0], next(iter(build_requests(task, tmp_path)))
    assert request.messages[0].text == f"<image>{doc['question']}{suffix}"


def test_pope_parameters(tmp_path):
    folder = write_coco(tmp_path / "data")
    two = load("photos_pope", folder, n_images=2, per_image=1)
    other = load("photos_pope", folder, n_images=2, per_image=1, seed=5)
    assert len(documents(two)) == 2 * 6
    assert list(documents(two)["question"]) != list(documents(other)["question"])
    assert recorded_data(two) != recorded_data(load("photos_pope", folder, per_image=1))
    error = problem("photos_pope", folder, per_image=4)
    assert "no image" in error.message
    assert "per_image=1" in error.hint
    assert "at least 1" in problem("photos_pope", folder, n_images=0).message


# CHAIR


def test_chair_truth_and_scores(tmp_path):
    folder = write_coco(tmp_path / "data")
    (folder / "synonyms.txt").write_text(SYNONYMS)
    task = load("photos_chair", folder)
    truth = {doc["question_id"]: doc["gt_object"] for doc in documents(task)}
    assert truth[11] == ["chair", "dog", "person"]
    assert truth[13] == ["chair", "dog", "person"]
    assert truth[15] == ["toilet"]
    metrics, _ = score_samples(task, {"photos_chair/11": "A man on a seat.", "photos_chair/16": "A cat."})
    assert [metrics[name]["value"] for name in ("chair_i", "chair_s")] == pytest.approx([1 / 3, 1 / 2])
    assert metrics["recall"]["value"] == pytest.approx(2 / 3)


def test_chair_with_the_categories_own_names(tmp_path):
    """Captions then count by those names alone, so a kitten is nothing and a cat is a cat."""
    folder = write_coco(tmp_path / "data")
    assert "synonyms=names" in problem("photos_chair", folder).hint
    task = load("photos_chair", folder, synonyms="names")
    truth = {doc["question_id"]: doc["gt_object"] for doc in documents(task)}
    assert truth[11] == ["dog", "person"]
    _, scores = score_samples(task, {"photos_chair/11": "A cat, a kitten and dogs."})
    assert scores["photos_chair/11"]["parsed"] == {"mentioned": ["cat", "dog"], "hallucinated": [["cat", "cat"]]}


def test_chair_knows_categories_beyond_its_table(tmp_path):
    folder = write_coco(tmp_path / "data")
    categories = [{"id": id, "name": name} for id, name in ((1, "Palm_Tree"), (17, "cat"), (18, "dog"))]
    named = instances(categories=categories, annotations=[{"image_id": 11, "category_id": 1}])
    (folder / "annotations" / "instances_val2014.json").write_text(json.dumps(named))
    (folder / "synonyms.txt").write_text(SYNONYMS)
    task = load("photos_chair", folder)
    assert documents(task)[0]["gt_object"] == ["chair", "dog", "palm tree", "person"]
    _, scores = score_samples(task, {"photos_chair/11": "Palm trees.", "photos_chair/12": "A palm tree."})
    assert [scores[f"photos_chair/{id}"]["score"] for id in (11, 12)] == [1.0, 0.0]


def test_the_real_tiny_model_from_end_to_end(tmp_path):
    folder = write_coco(tmp_path / "data")
    (folder / "val2014" / image_name(12)).unlink()
    params = {"photos_chair.synonyms": "names", "photos_pope.per_image": 1}
    settings = {"model": "tiny-llava", "task": "photos_chair,photos_pope", "params": params, "data_dir": folder}
    limit = {"photos_chair": 3, "photos_pope": 12}
    specs = expand({**settings, "limit": limit, "output": tmp_path / "runs", "device": "cpu"})
    for outcome, n_failed in zip(runner.run(specs), (1, 6), strict=True):
        assert (outcome.record["status"], outcome.record["task"]["n_failed"]) == ("incomplete", n_failed)
        values = [metric["value"] for name, metric in outcome.record["metrics"].items() if "n_" not in name]
        assert all(value is None or value >= 0 for value in values)


# 84 real photographs


def test_real_photographs_pope():
    folder = shared("coco_mini")
    task = load("photos_pope", folder)
    docs = list(documents(task))
    assert len(docs) % 18 == 0
    assert len(docs) >= 50 * 18
    assert Counter(doc["answer"] for doc in docs) == {"yes": len(docs) / 2, "no": len(docs) / 2}
    photographs = read_photographs(folder, "")
    for doc in docs:
        there = {ask(name) for name in photographs.objects[int(doc["image_id"])]}
        assert (doc["question"] in there) == (doc["answer"] == "yes")


@pytest.mark.parametrize("lemmatizer", ["simplemma", "nltk"])
def test_real_photographs_have_the_published_truth(lemmatizer, tmp_path, monkeypatch):
    """Our pipeline on annotations and captions gives what CHAIR's authors' cached table says of the same images."""
    import gzip

    import nltk

    unpack(shared("nltk_data.tar.gz"), tmp_path)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("images", "instances.json", "captions.json"):
        (folder / name).symlink_to(shared(f"coco_mini/{name}"))
    (folder / "synonyms.txt").symlink_to(shared("chair/synonyms.txt"))
    task = load("photos_chair", folder, lemmatizer=lemmatizer)
    with gzip.open(shared("chair/coco_gt_objects.wordnet.jsonl.gz"), "rt") as lines:
        published = dict(map(json.loads, lines))
    captioned = {entry["image_id"] for entry in json.loads((folder / "captions.json").read_text())["annotations"]}
    compared = 0
    for doc in documents(task):
        if doc["question_id"] in captioned:
            assert doc["gt_object"] == sorted(published[doc["question_id"]])
            compared += 1
    assert compared == 82
