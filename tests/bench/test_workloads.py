"""What is asked: how many, about what, how long."""

from collections import Counter

import pytest
from PIL import Image

from sinkbench.bench.workloads import MIXED_TOKENS, caption, growth, mixed, pope, write_images


def test_images_are_jpeg_files_of_a_photographs_size(tmp_path):
    (image,) = write_images(tmp_path, [(640, 480)])
    with Image.open(image.path) as file:
        assert (file.format, file.size) == ("JPEG", (640, 480))
    assert 50_000 < (tmp_path / "0-0.jpg").stat().st_size < 250_000
    assert write_images(tmp_path / "again", [(640, 480)])[0].sha256 == image.sha256


def test_pope_asks_different_questions_about_each_image(images):
    requests = pope(images, 18).requests
    assert Counter(request.images[0].key for request in requests) == {image.key: 18 for image in images}
    assert len({(request.images[0].key, request.messages[0].text) for request in requests}) == len(requests) == 90
    assert {request.generation.max_new_tokens for request in requests} == {1}


def test_captions_have_an_image_each(images):
    requests = caption(images, 512).requests
    assert len({request.images[0].key for request in requests}) == len(requests) == len(images)
    assert all(request.generation.ignore_eos and request.generation.max_new_tokens == 512 for request in requests)


def test_mixed_is_ragged_in_every_way(images):
    requests = mixed(images).requests
    counts = Counter(request.images[0].key for request in requests)
    assert len(set(counts.values())) > 1
    assert max(counts.values()) <= 18
    assert {request.generation.max_new_tokens for request in requests} == set(MIXED_TOKENS)
    assert len({len(request.messages[0].text) for request in requests}) > 5
    assert [r.id for r in mixed(images).requests] == [r.id for r in requests]


def test_growth_varies_one_thing_at_a_time(images):
    parameters = [workload.parameters for workload in growth(images, (64, 512))]
    seen = [(p["images_per_prompt"], p["questions_per_image"], p["new_tokens"]) for p in parameters]
    expected = [(1, 1, 1), (1, 6, 1), (1, 18, 1), (5, 1, 1), (5, 6, 1), (5, 18, 1), (1, 1, 64), (1, 1, 512)]
    assert seen == expected


@pytest.mark.parametrize("workload", [1, 4])
def test_growth_asks_every_group_of_images(images, workload):
    built = growth(images, ())[workload]
    groups = Counter(tuple(image.key for image in request.images) for request in built.requests)
    assert set(groups.values()) == {built.parameters["questions_per_image"]}
    assert len(groups) == built.parameters["groups"] == len(images)
