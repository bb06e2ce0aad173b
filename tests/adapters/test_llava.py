"""What only LLaVA has: square padding, tiles with separators, and OneVision's two ways to see an image."""

import numpy as np
import pytest
import torch
from harness import adapter, image, request
from PIL import Image

from sinkbench.adapters.llava import pad_to_square
from sinkbench.engine.context import Role
from sinkbench.errors import UsageError

tiled = pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])


@tiled
def test_separators_are_no_image_tokens(family):
    a = adapter(family)
    ref = image(0, 60, 30)
    tokens = a.encode_images([a.preprocess(ref)])[0].tokens
    separators = a.image_layout(ref) == Role.TEMPLATE
    assert separators.any()
    assert torch.equal((tokens == a.model.model.image_newline).all(-1), separators)


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [((28, 28), 4, 4), ((60, 30), 4, 8), ((31, 97), 8, 2), ((50, 50), 5, 5), ((97, 31), 3, 9), ((80, 50), 4, 6)],
)
def test_onevision_interpolates_the_features_of_many_tiles(size, rows, columns):
    a = adapter("llava_onevision")
    layout = a.image_layout(image(7, *size))
    assert len(layout) == 16 + rows * (columns + 1)
    assert (layout == Role.TEMPLATE).sum() == rows


@torch.inference_mode()
def test_onevision_sees_one_of_several_images_as_a_whole():
    a = adapter("llava_onevision")
    wide, square = image(0, 60, 30), image(2, 50, 50)
    several = a.encode(request("r", "<image> is there a cat <image> what ?", wide, square)).images
    alone = a.encode(request("r", "<image> is there a cat ?", wide)).images
    assert len({ref.key for ref in (*several, *alone)}) == 3
    inputs = [a.preprocess(ref) for ref in (*alone, *several, *alone)]
    features = a.encode_images(inputs)
    assert [len(one.tokens) for one in features] == [16 + 4 * 9, 17, 17, 16 + 4 * 9]
    for one, own in zip(features, inputs, strict=True):
        torch.testing.assert_close(one.tokens, a.encode_images([own])[0].tokens)
    whole = a.processor.image_processor(images=[[wide.load(), square.load()]], return_tensors="pt")
    assert torch.equal(torch.cat([one.tensors["pixel_values"] for one in inputs[1:3]]), whole["pixel_values"])


@tiled
def test_max_tiles(family, load):
    a = load(family, max_tiles=2)
    for size in [(28, 28), (60, 30), (50, 50), (97, 31)]:
        inputs = a.preprocess(image(7, *size))
        assert inputs.tensors["pixel_values"].shape[1] <= 3
        assert len(a.encode_images([inputs])[0].tokens) == len(inputs.roles)
    assert load(family).preprocess(image(7, 50, 50)).tensors["pixel_values"].shape[1] == 5


def test_max_tiles_leaves_a_grid(load):
    with pytest.raises(UsageError, match="no grid has as few as 1 tiles"):
        load("llava_next", max_tiles=1)


@pytest.mark.parametrize(("size", "top", "left"), [((60, 30), 15, 0), ((31, 60), 0, 14), ((33, 33), 0, 0)])
def test_padding_centres_the_image_on_the_mean_colour(size, top, left):
    picture = image(8, *size).load()
    square = np.asarray(pad_to_square(picture, (0.48145466, 0.4578275, 0.40821073)))
    width, height = size
    assert square.shape == (max(size), max(size), 3)
    assert np.array_equal(square[top : top + height, left : left + width], np.asarray(picture))
    outside = np.ones(square.shape[:2], dtype=bool)
    outside[top : top + height, left : left + width] = False
    assert (square[outside] == (122, 116, 104)).all()


def test_square_padding_keeps_what_cropping_loses(load):
    """A wide image with a white left edge: cropping loses the edge, padding shows it between grey bars."""
    pixels = np.zeros((30, 90, 3), dtype=np.uint8)
    pixels[:, :20] = 255
    ref = image(9, 90, 30)
    Image.fromarray(pixels).save(ref.path)
    cropping = load("llava")
    cropping.processor.image_processor.do_center_crop = True
    cropping.processor.image_processor.size = {"shortest_edge": 28}
    cropping.processor.image_processor.crop_size = {"height": 28, "width": 28}
    cropped = cropping.preprocess(ref).tensors["pixel_values"]
    padded = load("llava", image_padding="square").preprocess(ref).tensors["pixel_values"]
    assert cropped.shape == padded.shape
    assert cropped.unique().numel() <= 3  # One colour: the three channels of black.
    assert (padded[0, :, 14, 2] > 1.5).all()  # White.
    assert (padded[0, :, 1, :].abs() < 0.02).all()  # The mean colour becomes 0.


def test_an_encoder_without_class_token_does_not_fit_a_processor_with_one():
    a = adapter("llava")
    a.processor.num_additional_image_tokens = 0
    with pytest.raises(UsageError, match="processor's number of class tokens is 0, the model's is 1"):
        type(a)(a.preset, a.model, a.processor)
    a.processor.num_additional_image_tokens = 1
