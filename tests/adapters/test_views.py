"""Views say where a token looks: changing the picture inside a cell changes this cell's token most."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from harness import FAMILIES, adapter, image, model_folder, request
from PIL import Image

from sinkbench.adapters import load_adapter, resolve_model
from sinkbench.adapters.views import View, sample_views, whole_views
from sinkbench.engine.context import Role
from sinkbench.errors import SampleError
from sinkbench.request import ImageRef

SIZES = [(60, 30), (30, 60), (50, 50), (97, 31)]


@torch.inference_mode()
def tokens_of(a, ref, pixels, folder):
    """Features (n, d) of the image tokens that other pixels become in the place of an image."""
    Image.fromarray(pixels).save(folder / "changed.png")
    features = a.encode_images([a.preprocess(ImageRef(str(folder / "changed.png")))])[0].tokens
    return features[a.image_layout(ref) == Role.IMAGE]


def cells(view: View):
    """Row, column, and the pixels of each cell as slices; cells beyond the picture are left out."""
    left, top, right, bottom = view.box
    rows, columns = view.tokens.shape
    x, y = np.linspace(left, right, columns + 1).round(), np.linspace(top, bottom, rows + 1).round()
    for row, column in np.ndindex(rows, columns):
        area = tuple(slice(*np.maximum(axis, 0).astype(int)) for axis in (y[row : row + 2], x[column : column + 2]))
        yield row, column, area


def hits(a, ref, view, folder):
    """For each cell that shows some of the picture: whether inverting it changes its own token most."""
    pixels = np.asarray(ref.load())
    before = tokens_of(a, ref, pixels, folder)
    found = []
    for row, column, area in cells(view):
        changed = pixels.copy()
        changed[area] = 255 - changed[area]
        if (changed != pixels).any():
            change = (tokens_of(a, ref, changed, folder) - before).norm(dim=1)[torch.from_numpy(view.tokens)]
            found.append(int(change.argmax()) == row * view.tokens.shape[1] + column)
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_views_hold_every_image_token_once(family, size):
    a, ref = adapter(family), image(5, *size)
    views = sample_views(a, a.encode(request("r", "<image> is there a cat ?", ref)))
    indices = np.concatenate([view.tokens.flatten() for view in views])
    assert sorted(indices) == list(range(int((a.image_layout(ref) == Role.IMAGE).sum())))


@pytest.mark.parametrize("size", [(60, 30), (50, 50)])
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "internvl3_5"])
def test_a_cell_covers_what_its_token_sees(family, size, tmp_path):
    a, ref = adapter(family), image(5, *size)
    for view in sample_views(a, a.encode(request("r", "<image> is there a cat ?", ref))):
        found = hits(a, ref, view, tmp_path)
        assert len(found) == view.tokens.size
        assert all(found), view.name


@pytest.mark.parametrize(("size", "rows"), [((56, 28), 2), ((28, 56), 4)])
def test_square_padding_lies_outside_the_picture(size, rows, tmp_path):
    preset = resolve_model(str(model_folder("llava")))
    a, ref = load_adapter(replace(preset, options={"image_padding": "square"}), "cpu", "float32"), image(5, *size)
    (view,) = sample_views(a, a.encode(request("r", "<image> ?", ref)))
    assert view.box == ((0, -14, 56, 42) if size[0] > size[1] else (-14, 0, 42, 56))
    found = hits(a, ref, view, tmp_path)
    assert len(found) == 8
    assert all(found)


@pytest.mark.parametrize("size", [(56, 28), (28, 84)])
def test_a_cropped_picture_is_seen_in_its_middle(size, tmp_path):
    a, ref = load_adapter(resolve_model(str(model_folder("llava"))), "cpu", "float32"), image(5, *size)
    processor = a.processor.image_processor
    processor.size, processor.do_center_crop = type(processor.size)(shortest_edge=28), True
    processor.crop_size = type(processor.crop_size or processor.size)(height=28, width=28)
    (view,) = sample_views(a, a.encode(request("r", "<image> ?", ref)))
    assert view.box == ((14, 0, 42, 28) if size[0] > size[1] else (0, 28, 28, 56))
    assert all(hits(a, ref, view, tmp_path))


@pytest.mark.parametrize("family", ["llava", "llava_onevision", "internvl"])
def test_the_second_image_goes_on_counting(family):
    a, first, second = adapter(family), image(5, 60, 30), image(6, 30, 60)
    prompt = a.encode(request("r", "<image> is there a cat <image> what ?", first, second))
    views = sample_views(a, prompt)
    indices = np.concatenate([view.tokens.flatten() for view in views])
    assert sorted(indices) == list(range(prompt.visual_tokens))
    later = [view.tokens.min() for view in views if view.image == 1]
    assert min(later) > max(view.tokens.max() for view in views if view.image == 0)
    if family == "llava_onevision":
        assert [view.box for view in views] == [(0, -15, 60, 45), (-15, 0, 45, 60)]


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("llava", ("image", "image")),
        ("qwen3_vl", ("image", "image")),
        ("llava_next", ("base", "base")),
        ("llava_onevision", ("image", "image")),
        ("internvl", ("thumbnail", "tiles")),
    ],
)
def test_one_view_of_each_image_shows_all_of_it(family, names):
    """A picture of one tile has no thumbnail, and needs none."""
    a = adapter(family)
    prompt = a.encode(request("r", "<image> is there a cat <image> what ?", image(5, 60, 30), image(6, 20, 20)))
    views = whole_views(a, prompt)
    assert tuple(view.name for view in views) == names
    assert [view.image for view in views] == [0, 1]
    known = {view.tokens.tobytes() for view in sample_views(a, prompt)}
    assert all(view.tokens.tobytes() in known for view in views)


def test_an_image_whose_grid_is_unknown_is_named(monkeypatch):
    a = adapter("llava")
    prompt = a.encode(request("r", "<image> is there a cat ?", image(5, 60, 30)))
    monkeypatch.setattr("sinkbench.adapters.views._FAMILIES", ())
    with pytest.raises(SampleError, match="tokens of image 1"):
        whole_views(a, prompt)


def test_text_has_no_views():
    a = adapter("llava")
    assert sample_views(a, a.encode(request("r", "is there a cat ?"))) == []
