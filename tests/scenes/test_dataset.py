import contextlib
import io
import json
import os

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from typer.testing import CliRunner

from sinkbench.cli.scenes import app
from sinkbench.errors import UsageError
from sinkbench.paths import asset, read_packed
from sinkbench.scenes.annotate import captions
from sinkbench.scenes.dataset import fingerprint, write_dataset
from sinkbench.scenes.dialogue import vocabulary
from sinkbench.scenes.language import words
from sinkbench.scenes.scene import sample_scene

SHIPPED = asset("scenes/val")
ROWS = ("pope", "chair", "mcq", "text")


def read_rows(folder, task):
    return [json.loads(line) for line in read_packed(folder / f"{task}.jsonl").splitlines()]


def quietly(function, *arguments):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments)


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """The first 24 images of the shipped split, made again."""
    folder = tmp_path_factory.mktemp("again")
    about = json.loads((SHIPPED / "dataset.json").read_text("utf-8"))
    write_dataset(folder, about["seed"], 24, about["split"])
    return folder


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_ground_truth_as_detections_has_average_precision_one(fresh, kind):
    truth = quietly(COCO, fresh / "instances.json")
    detections = [{**a, "score": 0.9} for a in truth.dataset["annotations"]]
    evaluation = COCOeval(truth, quietly(truth.loadRes, detections), kind)
    quietly(evaluation.evaluate)
    quietly(evaluation.accumulate)
    quietly(evaluation.summarize)
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_boxes_and_areas_are_those_of_the_masks_and_masks_do_not_overlap(fresh):
    truth = quietly(COCO, fresh / "instances.json")
    for image in truth.getImgIds():
        annotations = truth.loadAnns(truth.getAnnIds(imgIds=image))
        masks = [truth.annToMask(a) for a in annotations]
        assert np.sum(masks, axis=0).max() == 1
        for annotation, mask in zip(annotations, masks, strict=True):
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert annotation["bbox"] == box
            assert annotation["area"] == mask.sum() > 0


def test_captions_load_and_there_are_three_an_image(fresh):
    coco = quietly(COCO, fresh / "captions.json")
    assert all(len(coco.getAnnIds(imgIds=image)) == 3 for image in coco.getImgIds())


def test_every_row_has_an_image_and_only_known_words(fresh):
    known = set(vocabulary())
    for task in ROWS:
        for row in read_rows(fresh, task):
            assert (fresh / "images" / row["image"]).is_file()
            texts = [row["question"], *(row.get(letter, "") for letter in "ABCD"), *row.get("answers", [])]
            assert {word for text in texts for word in words(text)} <= known
    for caption in json.loads((fresh / "captions.json").read_text("utf-8"))["annotations"]:
        assert set(words(caption["caption"])) <= known


def test_pope_agrees_with_the_annotations(fresh):
    truth = quietly(COCO, fresh / "instances.json")
    names = {c["id"]: c["name"] for c in truth.dataset["categories"]}
    for row in read_rows(fresh, "pope"):
        present = {names[a["category_id"]] for a in truth.imgToAnns[int(row["image"][:6])]}
        assert (row["object"] in present) == (row["answer"] == "yes")


def test_the_same_seed_writes_the_same_files_and_another_does_not(fresh, tmp_path):
    same = write_dataset(tmp_path / "same", seed=3, n=40)
    assert same == json.loads((fresh / "dataset.json").read_text("utf-8"))
    for file in sorted(p for p in fresh.rglob("*") if p.is_file()):
        assert (tmp_path / "same" / file.relative_to(fresh)).read_bytes() == file.read_bytes()
    assert write_dataset(tmp_path / "other", seed=4, n=5)["fingerprint"] != same["fingerprint"]


def test_the_shipped_split_is_complete():
    about = json.loads((SHIPPED / "dataset.json").read_text("utf-8"))
    assert (about["n_images"], about["split"]) == (500, "val")
    images = sorted((SHIPPED / "images").iterdir())
    assert len(images) == 500
    assert sum(image.stat().st_size for image in images) < 5_000_000
    assert len(read_rows(SHIPPED, "pope")) == 9000
    with Image.open(images[0]) as image:
        assert (image.size, image.mode) == ((224, 224), "RGB")


def test_the_shipped_split_is_what_the_code_makes(again):
    for name in ("instances.json", "captions.json"):
        shipped, made = (json.loads(read_packed(folder / name)) for folder in (SHIPPED, again))
        head = [a for a in shipped["annotations"] if a["image_id"] <= 24]
        assert len(head) == len(made["annotations"])
        for old, new in zip(head, made["annotations"], strict=True):
            if "caption" in old:
                assert old == new
                continue
            assert (old["id"], old["category_id"]) == (new["id"], new["category_id"])
            # Another processor may round a mask's edge differently.
            assert rle.iou([old["segmentation"]], [new["segmentation"]], [0])[0, 0] > 0.98
    assert read_rows(SHIPPED, "mcq")[: 4 * 24] == read_rows(again, "mcq")
    assert read_rows(SHIPPED, "chair")[:24] == read_rows(again, "chair")


def test_the_shipped_pixels_are_what_the_code_draws(again):
    for name in ("000001.jpg", "000010.jpg", "000024.jpg"):
        pair = [np.asarray(Image.open(folder / "images" / name), dtype=float) for folder in (SHIPPED, again)]
        assert np.abs(pair[0] - pair[1]).mean() < 2


def test_the_fingerprint_of_the_shipped_split_can_be_made_without_rendering():
    about = json.loads((SHIPPED / "dataset.json").read_text("utf-8"))
    shipped = json.loads(read_packed(SHIPPED / "captions.json"))
    first = [a["caption"] for a in shipped["annotations"]][::3]
    candidates = (sample_scene(about["split"], about["seed"], index) for index in range(1000))
    eligible = [scene for scene in candidates if len(scene.counts) >= 3]
    # Scenes with a hidden object were left out; the first caption of an image tells which remained.
    remaining = iter(eligible)
    chosen = [next(s for s in remaining if captions([s])["annotations"][0]["caption"] == text) for text in first]
    assert fingerprint(chosen) == about["fingerprint"]


@pytest.mark.parametrize("n", [0, -3])
def test_a_number_of_images_that_is_not_positive_is_refused(tmp_path, n):
    with pytest.raises(UsageError, match="must be positive"):
        write_dataset(tmp_path / "new", seed=0, n=n)
    assert not (tmp_path / "new").exists()


def test_a_folder_with_files_is_kept_unless_forced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty") as caught:
        write_dataset(tmp_path, seed=0, n=1)
    assert "--force" in caught.value.hint
    write_dataset(tmp_path, seed=0, n=3, force=True)
    write_dataset(tmp_path, seed=0, n=1, force=True)
    assert len(list((tmp_path / "images").iterdir())) == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write"):
        write_dataset(tmp_path / "file" / "inside", seed=0, n=1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="cannot write"):
        write_dataset(tmp_path / "new", seed=0, n=1)


def test_an_unusable_device_is_refused_before_anything_is_removed(tmp_path):
    write_dataset(tmp_path / "old", seed=0, n=1)
    with pytest.raises(UsageError, match="device 'nonsense'"):
        write_dataset(tmp_path / "old", seed=0, n=1, device="nonsense", force=True)
    assert (tmp_path / "old" / "dataset.json").is_file()


def test_the_command_writes_a_data_set(tmp_path):
    result = CliRunner().invoke(app, ["render", "--seed", "9", "--n", "2", "--out", str(tmp_path / "new")])
    assert result.exit_code == 0, result.output
    assert "2 images" in result.output
    assert len(read_rows(tmp_path / "new", "pope")) == 36
