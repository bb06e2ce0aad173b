"""Values of patches as values of tokens: a token has those of the patches whose pixels it shows.

Which ones these are is found out from the model itself: with the vision encoder's attention taken out, a patch's pixels
reach nothing but the features that are made of it.
"""

from contextlib import ExitStack, contextmanager

import pytest
import torch
from harness import FAMILIES, adapter, image, request

from sinkbench.adapters.base import ImageInputs
from sinkbench.adapters.llava import largest_read
from sinkbench.engine.context import Role

SIZES = [(60, 30), (30, 60), (50, 50), (97, 31)]


@contextmanager
def blind(a):
    """Within it, no patch sees another."""

    def nothing(_module, _args, output):
        return (torch.zeros_like(output[0]), *output[1:]) if isinstance(output, tuple) else torch.zeros_like(output)

    with ExitStack() as stack:
        for module in a._vision_attention:
            stack.callback(module.register_forward_hook(nothing).remove)
        yield


def patches_of(a, inputs) -> tuple[int, int]:
    """V and P of an image."""
    weights = a.vision_attention([inputs], 0)[0]
    return weights.shape[0], weights.shape[-1] - a.class_tokens


def repainted(a, inputs: ImageInputs, view: int, patch: int) -> ImageInputs:
    """The image with other pixels in one patch."""
    pixels = inputs.tensors["pixel_values"].clone()
    if pixels.ndim == 2:  # Qwen-VL: a row of pixels for each patch.
        pixels[patch] = 1 - pixels[patch].roll(7)
    else:
        vision = a.model.config.vision_config
        side = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
        row, column = divmod(patch, pixels.shape[-1] // side)
        views = pixels.view(-1, *pixels.shape[-3:])
        area = views[view, :, row * side : (row + 1) * side, column * side : (column + 1) * side]
        area.copy_(1 - area.roll(3, dims=1))
    return ImageInputs({**inputs.tensors, "pixel_values": pixels}, inputs.roles)


def check_every_patch(a, inputs) -> int:
    """Marks one patch after the other; returns how many are features' own."""
    views, patches = patches_of(a, inputs)
    found = 0
    with blind(a):
        before = a.encode_images([inputs])[0].tokens
        for view, patch in ((view, patch) for view in range(views) for patch in range(patches)):
            after = a.encode_images([repainted(a, inputs, view, patch)])[0].tokens
            shows = (after - before).abs().amax(1) > 1e-5
            for kind in (torch.bool, torch.float32, torch.int64):
                values = torch.zeros(views, patches, dtype=kind)
                values[view, patch] = 1
                marks = a.patch_values_to_tokens(values, inputs)
                assert marks.dtype == kind
                assert torch.equal(marks.bool(), shows), (view, patch)
            found += bool(shows.any())
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_one_patch_marks_the_tokens_that_show_it(family, size):
    a = adapter(family)
    found = check_every_patch(a, a.preprocess(image(5, *size)))
    assert found >= 8


@torch.inference_mode()
def test_one_of_several_images_of_onevision_is_one_view():
    a = adapter("llava_onevision")
    prompt = a.encode(request("r", "<image> is there a cat <image> what ?", image(0, 60, 30), image(2, 50, 50)))
    for ref in prompt.images:
        assert check_every_patch(a, a.preprocess(ref)) == 16


@torch.inference_mode()
def test_a_class_token_that_the_projector_keeps_has_no_value():
    a = adapter("llava")
    a.model.config.vision_feature_select_strategy = "full"
    try:
        inputs = ImageInputs(a.preprocess(image(5, 50, 50)).tensors, a.layout_of_size(50, 50))
        marks = a.patch_values_to_tokens(torch.arange(1.0, 17)[None], inputs)
        assert marks.tolist() == list(range(17))
        assert len(a.encode_images([inputs])[0].tokens) == 17
    finally:
        a.model.config.vision_feature_select_strategy = "default"


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_a_token_has_the_largest_value_of_its_patches(family):
    a, g = adapter(family), torch.Generator().manual_seed(0)
    inputs = a.preprocess(image(5, 50, 50))
    values = torch.rand(patches_of(a, inputs), generator=g)
    alone = torch.zeros(len(inputs.roles))
    for index in range(values.numel()):
        one = torch.zeros(values.numel())
        one[index] = values.flatten()[index]
        alone = torch.maximum(alone, a.patch_values_to_tokens(one.view_as(values), inputs))
    assert torch.equal(a.patch_values_to_tokens(values, inputs), alone)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_a_mean_is_over_the_patches_of_a_token(family, size):
    """Linear in the patches, with weights that are positive where a patch is shown and add up to one."""
    a = adapter(family)
    inputs = a.preprocess(image(5, *size))
    views, patches = patches_of(a, inputs)
    one_hot = torch.eye(views * patches).view(views, patches, -1)
    weights = a.patch_values_to_tokens(one_hot, inputs, mean=True)
    assert torch.equal(weights > 1e-6, a.patch_values_to_tokens(one_hot, inputs) > 0)
    is_image = (inputs.roles == Role.IMAGE).float()
    torch.testing.assert_close(weights.sum(1), is_image)
    values = torch.randn(views, patches, 3, generator=torch.Generator().manual_seed(0))
    found = a.patch_values_to_tokens(values, inputs, mean=True)
    torch.testing.assert_close(found, weights @ values.flatten(0, 1))
    if "onevision" not in family:
        shares = weights[weights > 0]
        torch.testing.assert_close(shares, shares[:1].expand_as(shares))


def test_what_bilinear_interpolation_reads():
    """Seven cells become three, read at 2/3, 3 and 16/3: cell 3 alone in the middle, cells 2 and 4 not at all."""
    values = torch.eye(7)
    read = largest_read(values, 7, 3)
    assert [row.nonzero().flatten().tolist() for row in read.T] == [[0, 1], [3], [5, 6]]
    assert torch.equal(largest_read(values, 3, 7), read.T)
    assert torch.equal(largest_read(values, 7, 7), values)
    for before, after in ((9, 7), (12, 4), (40, 17)):
        picture = torch.eye(before)[None]
        wide = torch.nn.functional.interpolate(picture[None], (before, after), mode="bilinear")[0, 0]
        assert torch.equal(largest_read(picture[0], before, after) > 0, wide > 1e-5)
