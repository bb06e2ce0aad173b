"""Words of looks, and grids cut to the picture."""

import numpy as np
import pytest
from harness import image, request

from sinkbench.methods.crops import inside, with_images
from sinkbench.methods.looks import about_images, at_depth, with_ending, with_words, words
from sinkbench.request import Message, Request


def test_words_of_a_dialogue():
    first, second = image(0), image(2)
    asked = Request(
        "r",
        (
            Message("system", "be short"),
            Message("user", "<image>\nwhat ?"),
            Message("assistant", "a dog"),
            Message("user", "and <image>\nhere ?"),
        ),
        (first, second),
    )
    assert words(asked) == "and here ?"
    ended = with_ending(asked, "Now.", 1)
    assert [m.text for m in ended.messages] == ["be short", "<image>\nwhat ?", "a dog", "and <image>\nhere ? Now."]
    assert with_ending(ended, "Now.", 1) == ended
    assert with_words(asked, "Where?", 3).messages[-1] == Message("user", "<image>\nWhere?")
    general = about_images(asked, "Describe.", 2)
    assert general.messages == (Message("system", "be short"), Message("user", "<image>\n<image>\nDescribe."))
    assert general.images == asked.images
    assert general.generation.max_new_tokens == 2
    more = with_images(asked, [[first], []], keep_original=False)
    assert more.messages == asked.messages
    more = with_images(asked, [[second, first], [first]], keep_original=True)
    assert [m.text for m in more.messages[1::2]] == [
        "<image>\n<image>\n<image>\nwhat ?",
        "and <image>\n<image>\nhere ?",
    ]
    assert more.images == (first, second, first, second, first)


def test_only_cells_whose_centres_lie_in_the_picture_are_left():
    maps = np.arange(64.0).reshape(1, 8, 8)
    cut, area = inside(maps, (0, -20, 80, 60), (80, 40))
    assert area == (0, 0, 80, 40)
    np.testing.assert_array_equal(cut, maps[:, 2:6])
    # The last centre, 67.5 + 5 - 3 = 72, lies outside; the first one, 2, inside.
    assert inside(maps, (-3, 0, 77, 80), (70, 80))[1] == (-3, 0, 67, 80)
    assert inside(maps, (10, 5, 30, 25), (40, 30))[1] == (10, 5, 30, 25)
    np.testing.assert_array_equal(inside(maps, (0, 0, 33, 21), (33, 21))[0], maps)


@pytest.mark.parametrize(("n_layers", "layer"), [(32, 14), (28, 12), (36, 15), (6, 2), (1, 0)])
def test_a_layer_in_proportion(n_layers, layer):
    assert at_depth(14, n_layers) == layer


def test_a_request_without_words_can_be_looked_at():
    assert with_ending(request("r", "<image>", image(0)), "Now.", 1).messages[0].text == "<image> Now."
