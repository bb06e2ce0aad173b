"""The control: as many crops of the same sizes, anywhere, and the same ones whatever the batch."""

from random import Random

import numpy as np
import pytest
from harness import adapter, answers, image, method, request, requests

from sinkbench.engine.generate import Engine
from sinkbench.errors import UsageError
from sinkbench.methods.crops import RATIOS
from sinkbench.methods.random_crop import RandomCrop, random_box


def test_boxes_have_vicrops_sizes_and_lie_anywhere():
    draw = Random(0)
    found = np.array([random_box(draw, (100, 80), 20, RATIOS) for _ in range(2000)])
    assert set((found[:, 2] - found[:, 0]).tolist()) == {20, 24, 28, 32, 36, 40}
    assert ((found[:, 2] - found[:, 0]) == (found[:, 3] - found[:, 1])).all()
    assert found.min() == 0
    assert (found[:, 2].max(), found[:, 3].max()) == (100, 80)
    small = found[found[:, 2] - found[:, 0] == 20]
    assert small[:, 0].mean() == pytest.approx(40, abs=4)
    assert small[:, 1].mean() == pytest.approx(30, abs=4)


def test_a_box_that_is_too_large_is_cut_to_the_picture():
    left, top, right, bottom = random_box(Random(1), (100, 30), 60, (1.0,))
    assert (top, bottom, right - left) == (0, 30, 60)
    assert random_box(Random(1), (20, 30), 60, (1.0,)) == (0, 0, 20, 30)


def test_the_draw_depends_on_seed_and_id_alone():
    a = adapter("llava")
    asked = [request(f"{i}", "<image>\nwhat do you see ?", image(0, 97, 61)) for i in range(4)]

    def boxes(requests, **params):
        engine = Engine(a, RandomCrop(box=14, **params))
        return {r.id: r.details["boxes"] for batch in engine.answer(requests) for r in batch}

    first = boxes(asked)
    assert first == boxes(asked[::-1])
    assert boxes(asked[2:3]) == {"2": first["2"]}
    assert len({str(own) for own in first.values()}) == 4
    assert boxes(asked, seed=1) != first
    assert [len(own[0]) for own in boxes(asked, crops=3).values()] == [3] * 4


def test_crops_of_several_images_follow_each_image():
    asked = request("r", "<image> is there a cat <image>\nwhat ?", image(0, 60, 30), image(2, 50, 50))
    bound = RandomCrop(box=10, crops=2, ratios=(1.0,)).bind(adapter("llava").info)
    focus = bound.refocus(asked, [], [ref.load() for ref in asked.images])
    assert focus.request.messages[0].text == "<image><image><image> is there a cat <image>\n<image>\n<image>\nwhat ?"
    assert [ref.size() for ref in focus.request.images] == [(60, 30), (10, 10), (10, 10), (50, 50), (10, 10), (10, 10)]
    for picture, own, made in zip((0, 3), focus.details["boxes"], ((1, 2), (4, 5)), strict=True):
        pixels = np.asarray(focus.request.images[picture].load())
        for (left, top, right, bottom), place in zip(own, made, strict=True):
            np.testing.assert_array_equal(
                np.asarray(focus.request.images[place].load()), pixels[top:bottom, left:right]
            )


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl"])
def test_no_crops_are_the_plain_model(family):
    a = adapter(family)
    assert answers(a, RandomCrop(crops=0), requests()) == answers(a, method("greedy"), requests())
    assert answers(a, RandomCrop(crops=1), requests()) != answers(a, method("greedy"), requests())


def test_bad_values():
    with pytest.raises(UsageError, match="crops=-1"):
        RandomCrop(crops=-1)
    with pytest.raises(UsageError, match="ratios"):
        RandomCrop(ratios=())
