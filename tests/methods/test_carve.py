"""CARVE: the published maps, masks, boxes and pixels; what follows from the equations; the two profiles."""

import numpy as np
import pytest
import torch
from harness import image, request
from PIL import Image
from vectors import load

from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.methods.carve import Carve, bounding_box, contrast_maps, keep_regions, on_pixels, refined
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.looks import Seen
from sinkbench.methods.regions import label_regions

INFO = ModelInfo("m", n_layers=32, n_heads=4, n_kv_heads=4, hidden_size=16)
VERSIONS = {"v1": ("first", "none"), "v2": ("first", "area"), "v3": ("first", "attention"), "v4": ("all", "attention")}


def test_vectors(request):
    for vector in load(request, "carve", "main"):
        p = vector.params
        size = tuple(p["image_wh"])
        question, general = (
            vector[f"attn_{name}"].unflatten(-1, p["grid_rows_cols"]) for name in ("question", "general")
        )
        picture = Image.fromarray(vector["image"].numpy())
        for version, (steps, rank) in VERSIONS.items():
            values = on_pixels(contrast_maps(question, general, steps, p["lam"]), (0, 0, *size), size)
            expected = vector["S_all" if steps == "all" else "S_first"].numpy()
            np.testing.assert_allclose(values, expected, rtol=vector.tolerance["S_rtol"])
            mask = keep_regions(values, p["top_percent"], p["min_keep_regions"], "least", rank)
            np.testing.assert_array_equal(mask, vector[f"mask_{version}"].bool().numpy())
            assert list(bounding_box(mask)) == vector[f"bbox_{version}"].tolist()
            made = refined(picture, mask)
            assert list(made.size) == vector[f"crop_size_{version}"].tolist()
        np.testing.assert_array_equal(np.asarray(made), vector["crop_v4"].numpy())


def test_regions_by_hand():
    mask = np.array(
        [
            [1, 0, 1, 1, 0, 1],
            [1, 0, 0, 1, 0, 1],
            [1, 1, 1, 1, 0, 0],
            [0, 0, 0, 0, 1, 1],
        ],
        dtype=bool,
    )
    labels, count = label_regions(mask)
    assert count == 3
    assert labels.tolist() == [[1, 0, 1, 1, 0, 2], [1, 0, 0, 1, 0, 2], [1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 3, 3]]
    assert label_regions(np.ones((3, 2), dtype=bool))[1] == 1
    assert label_regions(np.zeros((3, 2), dtype=bool))[1] == 0


@pytest.mark.parametrize("seed", range(6))
def test_regions_are_those_of_a_flood(seed):
    mask = np.random.RandomState(seed).rand(23, 31) < 0.55
    labels, count = label_regions(mask)
    expected, found = np.zeros(mask.shape, dtype=int), 0
    for start in zip(*np.nonzero(mask), strict=True):
        if expected[start]:
            continue
        found, edge = found + 1, [start]
        while edge:
            y, x = edge.pop()
            if 0 <= y < 23 and 0 <= x < 31 and mask[y, x] and not expected[y, x]:
                expected[y, x] = found
                edge += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
    assert count == found
    np.testing.assert_array_equal(labels, expected)


def maps(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_contrast_by_hand():
    question = torch.tensor([[[[2.0, 4.0]]], [[[6.0, 3.0]]], [[[9.0, 9.0]]]])
    general = torch.tensor([[[[1.0, 2.0]]], [[[2.0, 3.0]]]])
    assert contrast_maps(question, general, "first", 1e-12) == pytest.approx(np.array([[2.0, 2.0]]))
    assert contrast_maps(question, general, "last", 1e-12) == pytest.approx(np.array([[3.0, 1.0]]))
    assert contrast_maps(question, general, "all", 1e-12) == pytest.approx(np.array([[8.0, 4.0]]))
    two_layers = torch.cat((question, question), dim=1), torch.cat((general, general), dim=1)
    assert contrast_maps(*two_layers, "all", 1e-12) == pytest.approx(np.array([[16.0, 8.0]]))


def test_equal_texts_give_a_constant_map_and_everything_stays():
    same = maps(2, 3, 4, 5) + 0.01
    values = on_pixels(contrast_maps(same, same, "all", 1e-30), (0, 0, 50, 40), (50, 40))
    np.testing.assert_allclose(values, 9.0)
    assert keep_regions(np.full((40, 50), 9.0), 0.2, 3, "least", "attention").all()


def test_scaling_the_question_scales_the_map_and_leaves_the_mask():
    question, general = maps(3, 2, 5, 6), maps(4, 2, 5, 6, seed=1) + 0.1
    one, four = (contrast_maps(q, general, "all", 1e-8) for q in (question, question * 4))
    np.testing.assert_allclose(four, 4 * one)
    area, size = (0, 0, 60, 50), (60, 50)
    masks = [keep_regions(on_pixels(m, area, size), 0.3, 2, "most", "attention") for m in (one, four)]
    np.testing.assert_array_equal(*masks)
    assert 0 < masks[0].mean() <= 0.3 + 1e-9


def test_a_share_of_1_is_the_image():
    picture = Image.fromarray(np.random.RandomState(0).randint(0, 255, (40, 50, 3), dtype=np.uint8))
    mask = keep_regions(np.random.RandomState(1).rand(40, 50), 1.0, 1, "most", "attention")
    assert mask.all()
    np.testing.assert_array_equal(np.asarray(refined(picture, mask)), np.asarray(picture))


def test_kept_pixels_stay_and_the_rest_is_black():
    """A mask as wide as the picture: nothing is resized."""
    pixels = np.random.RandomState(0).randint(1, 255, (40, 50, 3), dtype=np.uint8)
    mask = np.zeros((40, 50), dtype=bool)
    mask[10:20], mask[20:30, 7] = True, True
    made = np.asarray(refined(Image.fromarray(pixels), mask))
    assert made.shape == (40, 100, 3)
    mask[0], mask[39] = True, True
    made = np.asarray(refined(Image.fromarray(pixels), mask))
    np.testing.assert_array_equal(made[mask], pixels[mask])
    assert not made[~mask].any()


def test_how_many_regions_stay():
    """Four bright islands of falling size and rising brightness."""
    values = np.zeros((20, 40))
    for index, (width, bright) in enumerate(((8, 1.0), (6, 1.1), (4, 1.3), (2, 5.0))):
        values[5:7, 10 * index : 10 * index + width] = bright
    share = 40 / 800

    def kept(*rules):
        mask = keep_regions(values, share, *rules)
        return [bool(mask[5, 10 * index]) for index in range(4)]

    assert kept(1, "most", "attention") == [False, False, False, True]
    assert kept(2, "most", "area") == [True, True, False, False]
    assert kept(3, "least", "attention") == [True, True, False, True]
    assert kept(1, "least", "none") == [True] * 4
    assert kept(9, "most", "area") == [True] * 4


def test_a_grid_that_is_not_the_picture_lies_where_it_lies():
    values = on_pixels(np.array([[1.0, 2.0], [3.0, 4.0]]), (10, 0, 30, 20), (40, 10))
    assert values.shape == (10, 40)
    assert not values[:, :10].any()
    assert not values[:, 30:].any()
    np.testing.assert_allclose(values[0, [10, 29]], [1, 2])
    assert values[9, 10] < 3


def test_the_request_of_each_profile():
    asked = request("r", "<image>\nwhat ?", image(0, 60, 40))
    pictures = [ref.load() for ref in asked.images]
    seen = [[Seen(maps(2, 1, 4, 6, seed=seed) + 0.01, (0, 0, 60, 40))] for seed in (1, 2)]
    code, paper = (get_method("carve", {"profile": name, "layers": [3]}).bind(INFO) for name in ("code", "paper"))
    focus = code.refocus(asked, seen, pictures)
    assert focus.request.messages[0].text == "<image>\n<image>\nwhat ?"
    assert focus.request.images[0] == asked.images[0]
    assert 0 < focus.details["kept"][0] <= 0.21
    focus = paper.refocus(asked, seen, pictures)
    assert focus.request.messages == asked.messages
    (made,) = focus.request.images
    assert made.key != asked.images[0].key
    width, height = made.size()
    assert width >= 60 - 1
    assert height >= 40 - 1


def test_looks_and_bad_values():
    bound = get_method("carve").bind(INFO)
    asked = request("r", "<image>\nwhat ?", image(0))
    question, general = bound.looks(asked)
    assert question.layers == (20, 21, 22, 23, 24, 25)
    assert question.request.generation.max_new_tokens == general.request.generation.max_new_tokens == 32
    assert "general description" in general.request.messages[0].text
    assert get_method("carve").bind(ModelInfo("m", 6, 4, 4, 16)).layers == (3,)
    with pytest.raises(UsageError, match=r"carve\.layers"):
        get_method("carve", model="llava").bind(ModelInfo("m", 24, 4, 4, 16))
    for bad in ({"share": 0.0}, {"regions": 0}, {"tokens": 0}, {"lam": 0.0}):
        with pytest.raises(UsageError, match="carve"):
            Carve(**bad)
