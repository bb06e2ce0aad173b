"""ViCrop: the published boxes and blocks, the map, and what the box does when the map does something."""

import numpy as np
import pytest
import torch
from harness import adapter, answers, image, request
from vectors import load

from sinkbench.engine.generate import Engine
from sinkbench.errors import UsageError
from sinkbench.methods import get_method, vicrop
from sinkbench.methods.crops import RATIOS
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.looks import Seen
from sinkbench.methods.vicrop import Vicrop, adaptive_box, blocks, relative_attention
from sinkbench.request import Message

INFO = ModelInfo("m", n_layers=36, n_heads=4, n_kv_heads=4, hidden_size=16)


def box_of(values, size, base=30, ratios=RATIOS):
    return adaptive_box(values, (0, 0, *size), size, base, ratios)


def test_boxes_of_the_vectors(request):
    for vector in load(request, "vicrop", "main"):
        ratios = vector.params["ratios"]
        for row, (rows, columns) in enumerate(vector["grid_rows_cols"].tolist()):
            size = tuple(vector["image_wh"][row].tolist())
            values = vector["att"][row, :rows, :columns].double().numpy()
            found = box_of(values, size, int(vector["base"][row]), ratios)
            assert list(found) == vector["bbox"][row].int().tolist(), row


def test_blocks_of_the_vectors(request):
    for vector in load(request, "vicrop", "main"):
        for width, height, rows, columns, count, across, down in vector["split"].tolist():
            shape, boxes = blocks((width, height))
            assert (shape, len(boxes)) == ((rows, columns), count)
            assert boxes[0] == (0, 0, across, down)


@pytest.mark.parametrize("size", [(3930, 1383), (513, 3193), (701, 712), (40, 30), (4096, 1024)])
def test_blocks_cover_the_picture_and_are_of_one_size(size):
    """Among them are sizes for which the released code divides by zero."""
    (rows, columns), boxes = blocks(size)
    assert len({(right - left, bottom - top) for left, top, right, bottom in boxes}) == 1
    covered = np.zeros((size[1], size[0]), dtype=int)
    for left, top, right, bottom in boxes:
        covered[top:bottom, left:right] += 1
    assert covered.min() == 1
    assert covered.sum() <= covered.size + max(size) * (rows + columns)
    assert boxes[-1][2:] == size


def test_the_map_is_a_ratio_and_0_where_nothing_can_be_told():
    question, general = torch.tensor([[0.2, 0.3, 0.0, 0.1]]).double(), torch.tensor([[0.1, 0.6, 0.0, 0.0]]).double()
    np.testing.assert_allclose(relative_attention(question, general), [[2.0, 0.5, 0.0, 0.0]])
    assert (relative_attention(general, general) == [[1, 1, 0, 0]]).all()


def test_a_box_by_hand():
    """Cells of 10 pixels, windows of 3 or more cells; the smallest that holds the bright cell is the sharpest."""
    values = np.zeros((10, 20))
    values[4, 11] = 1
    left, top, right, bottom = box_of(values, (200, 100))
    assert (right - left, bottom - top) == (30, 30)
    # The leftmost window, and of these the topmost: columns 9 to 11, rows 2 to 4.
    assert (left, top, right, bottom) == (90, 20, 120, 50)


def test_a_plateau_gets_a_larger_box_than_a_peak():
    """A small window on a plateau hardly differs from its neighbours."""
    y, x = np.mgrid[:21, :21] - 10.0
    peak, plateau = np.exp(-(x**2 + y**2) / 2), np.exp(-((x**2 + y**2) ** 2) / 2000)
    assert box_of(peak, (210, 210)) == (90, 90, 120, 120)
    left, top, right, bottom = box_of(plateau, (210, 210))
    assert (right - left, bottom - top) == (60, 60)
    assert abs(left - 75) <= 5
    assert abs(top - 75) <= 5


@pytest.mark.parametrize("seed", range(8))
def test_invariants(seed):
    noise = np.random.RandomState(seed)
    size, shape = (
        (int(noise.randint(60, 400)), int(noise.randint(60, 400))),
        (noise.randint(4, 24), noise.randint(4, 24)),
    )
    values = noise.rand(*shape)
    box = box_of(values, size)
    assert box == box_of(values * 1024, size)
    left, top, right, bottom = box
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]
    delta = np.zeros(shape)
    row, column = noise.randint(shape[0]), noise.randint(shape[1])
    delta[row, column] = 1
    left, top, right, bottom = box_of(delta, size, base=60)
    assert left <= (column + 0.5) * size[0] / shape[1] <= right
    assert top <= (row + 0.5) * size[1] / shape[0] <= bottom
    # Integer cells and an even box leave no rounding: mirrors are exact.
    left, top, right, bottom = box_of(values, (10 * shape[1], 10 * shape[0]), base=40)
    mirrored = box_of(values[:, ::-1], (10 * shape[1], 10 * shape[0]), base=40)
    assert mirrored == (10 * shape[1] - right, top, 10 * shape[1] - left, bottom)


def test_a_base_box_as_large_as_the_picture_is_the_picture():
    assert box_of(np.eye(4), (40, 30), base=40) == (0, 0, 40, 30)
    assert box_of(np.eye(4), (40, 30), base=1) != (0, 0, 40, 30)


def test_padding_around_the_picture_does_not_draw_the_box():
    """A wide picture in a square grid: the brightest cells are padding, of which nothing can be cut out."""
    bound = Vicrop(layer=0, box=20).bind(INFO)
    question = torch.full((1, 1, 8, 8), 0.01)
    question[..., 0, :] = 1
    question[..., 4, 6] = 0.5
    seen = [[Seen(maps, (0, -20, 80, 60))] for maps in (question, torch.full((1, 1, 8, 8), 0.01))]
    asked = request("r", "<image>\nwhat ?", image(0, 80, 40))
    focus = bound.refocus(asked, seen, [ref.load() for ref in asked.images])
    ((left, top, right, bottom),) = focus.details["boxes"][0]
    assert left <= 65 <= right
    assert top <= 25 <= bottom


def test_looks_are_the_question_and_the_general_instruction():
    asked = request("r", "<image>\nwhat do you see ?", image(0))
    bound = get_method("vicrop", {"layer": 3}).bind(INFO)
    question, general = bound.looks(asked)
    assert question.layers == general.layers == (3,)
    ending = "Answer the question using a single word or phrase."
    assert question.request.messages == (Message("user", f"<image>\nwhat do you see ? {ending}"),)
    assert general.request.messages == (
        Message("user", f"<image>\nWrite a general description of the image. {ending}"),
    )
    assert question.request.generation.max_new_tokens == general.request.generation.max_new_tokens == 1
    (again, _) = bound.looks(question.request)
    assert again.request.messages == question.request.messages


def test_layers_and_boxes_of_models():
    assert get_method("vicrop", model="llava").params()["box"] == 336
    assert get_method("vicrop", model="llava").bind(ModelInfo("m", 32, 4, 4, 16)).layer == 14
    assert get_method("vicrop", model="qwen2.5-vl-3b").bind(INFO).layer == 22
    assert get_method("vicrop").bind(INFO).layer == 15
    with pytest.raises(UsageError, match=r"vicrop.layer=\[36\]"):
        get_method("vicrop", {"layer": 36}).bind(INFO)
    with pytest.raises(UsageError, match=r"vicrop.layer=\[-2\]"):
        get_method("vicrop", {"layer": -2}).bind(INFO)
    with pytest.raises(UsageError, match="no length"):
        Vicrop(box=-1)
    with pytest.raises(UsageError, match="ratios"):
        Vicrop(ratios=(0.5,))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava"])
def test_high_resolution_maps_are_those_of_blocks_side_by_side(family, monkeypatch):
    """A picture of 2 × 4 blocks; the box lies where a run on each block alone sees the largest ratio."""
    monkeypatch.setattr(vicrop, "BLOCK", 32)
    a, asked = adapter(family), request("r", "<image>\nwhat do you see ?", image(7, 120, 60))
    tiled = Vicrop(high=True, box=20, ratios=(1.0,)).bind(a.info)
    seen = []
    monkeypatch.setattr(
        vicrop, "adaptive_box", lambda values, *rest: (seen.append(values), adaptive_box(values, *rest))[1]
    )
    engine = Engine(a, Vicrop(high=True, box=20, ratios=(1.0,)))
    ((response,),) = engine.answer([asked])
    assert not response.error
    ((left, top, right, bottom),) = response.details["boxes"][0]
    assert (right - left, bottom - top) == (20, 20)
    parts = []
    for look in tiled.looks(asked)[::2]:
        alone = Engine(a, Vicrop(box=4, ratios=(1.0,)))
        block = request("b", "<image>\nwhat do you see ?", *look.request.images)
        ((one,),) = alone.answer([block])
        assert not one.error
        parts.append(seen[-1])
    assert len(parts) == 8
    np.testing.assert_allclose(np.block([parts[:4], parts[4:]]), seen[0], rtol=1e-4)
    small = request("r", "<image>\nwhat ?", image(1, 30, 28))
    assert tiled.looks(small)[0].request.images == small.images


def test_without_the_original_only_the_crop_is_seen():
    a, asked = adapter("llava"), request("r", "<image>\nwhat do you see ?", image(0, 60, 30))
    ((response,),) = Engine(a, Vicrop(box=14, keep_original=False)).answer([asked])
    assert response.visual_tokens == 16
    assert answers(a, Vicrop(box=1000, keep_original=False), [asked]) == answers(a, get_method("greedy"), [asked])
