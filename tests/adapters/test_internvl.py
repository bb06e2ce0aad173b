"""What only InternVL has: tiles and a thumbnail, and wrapper tokens around each image."""

import pytest
import torch
from harness import adapter, image, request

from sinkbench.engine.context import Role
from sinkbench.errors import SampleError
from sinkbench.request import ImageRef


@pytest.mark.parametrize(
    ("size", "tiles"),
    [((28, 28), 1), ((60, 30), 3), ((30, 60), 3), ((97, 31), 4), ((50, 50), 5), ((45, 31), 1), ((31, 45), 3)],
)
def test_several_tiles_come_with_a_thumbnail(size, tiles):
    a = adapter("internvl")
    ref = image(7, *size)
    pixels = a.preprocess(ref).tensors["pixel_values"]
    assert len(pixels) == tiles
    assert len(a.image_layout(ref)) == tiles * a.processor.image_seq_length
    whole = a.processor.image_processor(images=[ref.load()], return_tensors="pt", crop_to_patches=False)
    torch.testing.assert_close(pixels[-1], whole["pixel_values"][0], atol=0.02, rtol=0)


def test_the_wrapper_is_template_and_every_feature_an_image_token():
    a = adapter("internvl")
    prompt = a.encode(request("r", "<image> is there a cat <image> what ?", image(0, 60, 30), image(1, 28, 28)))
    tokens = a.tokenizer.convert_ids_to_tokens(prompt.ids.tolist())
    assert [t for t in tokens if t.startswith(("<img", "</img"))] == ["<img>", "</img>"] * 2
    assert [t == "<IMG_CONTEXT>" for t in tokens] == (prompt.roles == Role.IMAGE).tolist()
    assert prompt.visual_tokens == (3 + 1) * a.processor.image_seq_length
    assert tokens[prompt.prefix_length - 1 : prompt.prefix_length + 1] == ["<IMG_CONTEXT>", "</img>"]


def test_without_its_image_a_prompt_is_a_text_prompt():
    a = adapter("internvl")
    bare = a.encode(request("r", "<image>\nis there a cat ?", image(0, 60, 30))).without_images()
    assert torch.equal(bare.ids, a.encode(request("r", "is there a cat ?")).ids)


def test_tiles_of_a_batch_go_back_to_their_images():
    a = adapter("internvl")
    inputs = [a.preprocess(image(9, *size)) for size in [(50, 50), (28, 28), (60, 30)]]
    for together, alone in zip(a.encode_images(inputs), inputs, strict=True):
        torch.testing.assert_close(together.tokens, a.encode_images([alone])[0].tokens)


def test_the_layout_needs_the_header_only(tmp_path):
    a = adapter("internvl")
    path = tmp_path / "cut.png"
    image(3, 60, 30).load().save(path)
    whole = a.image_layout(ImageRef(str(path)))
    path.write_bytes(path.read_bytes()[:200])
    assert torch.equal(a.image_layout(ImageRef(str(path))), whole)
    with pytest.raises(SampleError, match=r"none\.png"):
        a.image_layout(ImageRef(str(tmp_path / "none.png")))


@pytest.mark.parametrize(("most", "tiles"), [(1, 1), (2, 3), (4, 5)])
def test_max_tiles(most, tiles, load):
    a = load("internvl", max_tiles=most)
    ref = image(7, 50, 50) if most == 4 else image(7, 60, 30)
    assert len(a.preprocess(ref).tensors["pixel_values"]) == tiles
    assert len(a.image_layout(ref)) == tiles * a.processor.image_seq_length
