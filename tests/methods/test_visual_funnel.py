"""Visual Funnel: the published boxes, and how they follow the map."""

import numpy as np
import pytest
import torch
from harness import image, request
from vectors import load

from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.looks import Seen
from sinkbench.methods.visual_funnel import VisualFunnel, as_distribution, normalised_entropy, portfolio
from sinkbench.request import Message

INFO = ModelInfo("m", n_layers=32, n_heads=4, n_kv_heads=4, hidden_size=16)


def boxes_of(values, size, base):
    shares = as_distribution(np.asarray(values, dtype=float))
    scales = VisualFunnel().scales(normalised_entropy(shares))
    return portfolio(shares, (0, 0, *size), size, base, scales)


def test_vectors(request):
    for vector in load(request, "visual_funnel", "main"):
        method = VisualFunnel(scale1=tuple(vector.params["a1"]), scale2=tuple(vector.params["a2"]))
        for row, (rows, columns) in enumerate(vector["grid_rows_cols"].tolist()):
            size = tuple(vector["image_wh"][row].tolist())
            shares = as_distribution(vector["att"][row, :rows, :columns].double().numpy())
            entropy = normalised_entropy(shares)
            assert entropy == pytest.approx(float(vector["entropy"][row]), abs=vector.tolerance["entropy"])
            scales = method.scales(entropy)
            assert scales == pytest.approx(vector["alphas"][row].tolist(), abs=vector.tolerance["alphas"])
            found = portfolio(shares, (0, 0, *size), size, int(vector["base"][row]), scales)
            assert [list(box) for box in found] == vector["boxes"][row].tolist(), row


def test_uniform_and_delta_maps():
    uniform, delta = np.ones((6, 8)), np.zeros((6, 8))
    delta[1, 5] = 3
    assert normalised_entropy(as_distribution(uniform)) == pytest.approx(1)
    assert normalised_entropy(as_distribution(delta)) == 0
    assert VisualFunnel().scales(1.0) == pytest.approx((1.8, 2.8))
    assert VisualFunnel().scales(0.0) == (1.2, 1.6)
    focal, middle, wide = boxes_of(uniform, (400, 300), 100)
    assert [focal, middle, wide] == [(150, 100, 250, 200), (110, 60, 290, 240), (60, 10, 340, 290)]
    # The cell's centre is (275, 75); boxes of 20, 24 and 32 pixels.
    assert boxes_of(delta, (400, 300), 20) == [(265, 65, 285, 85), (263, 63, 287, 87), (259, 59, 291, 91)]


def test_what_is_no_weight_counts_nothing():
    strange = [[np.nan, np.inf, -1.0], [0.0, 3.0, 1.0]]
    np.testing.assert_allclose(as_distribution(np.array(strange)), [[0, 0, 0], [0, 0.75, 0.25]])
    np.testing.assert_allclose(as_distribution(np.zeros((2, 2))), np.full((2, 2), 0.25))
    assert normalised_entropy(np.ones((1, 1))) == 0


@pytest.mark.parametrize("seed", range(8))
def test_invariants(seed):
    noise = np.random.RandomState(seed)
    size = (int(noise.randint(60, 400)), int(noise.randint(60, 400)))
    values = noise.rand(noise.randint(3, 24), noise.randint(3, 24)) ** 8
    found = boxes_of(values, size, 40)
    assert found == boxes_of(values * 1e6, size, 40)
    for left, top, right, bottom in found:
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
    widths = [right - left for left, _, right, _ in found]
    assert widths == sorted(widths)
    for box, (left, top, right, bottom) in zip(boxes_of(values[:, ::-1], size, 40), found, strict=True):
        assert np.abs(np.subtract(box, (size[0] - right, top, size[0] - left, bottom))).max() <= 1


def test_the_second_centre_is_that_of_the_focal_box():
    """A far bright cell moves the first centre, and the next ones only where their region holds it."""
    values = np.zeros((10, 10))
    values[2, 2], values[2, 3] = 3, 1
    first, second, _ = boxes_of(values, (100, 100), 20)
    assert first == (18, 15, 38, 35)
    assert (second[0] + second[2]) / 2 == pytest.approx(28, abs=1)
    values[9, 9] = 2
    first, second, _ = boxes_of(values, (100, 100), 20)
    # First the centroid of all, (50, 48.3), around which there is nothing: the box's own centre stays.
    assert first == (40, 38, 60, 58)
    assert (second[0] + second[2]) / 2 == pytest.approx(50, abs=1)


def test_padding_around_the_picture_does_not_draw_the_boxes():
    maps = torch.zeros(1, 1, 8, 8)
    maps[..., 0, 0] = 100
    maps[..., 4, 6] = 1
    bound = VisualFunnel(layer=0, box=10).bind(INFO)
    asked = request("r", "<image>\nwhat ?", image(0, 80, 40))
    focus = bound.refocus(asked, [[Seen(maps, (0, -20, 80, 60))]], [asked.images[0].load()])
    assert focus.details["boxes"][0][0] == [60, 20, 70, 30]
    assert [ref.size() for ref in focus.request.images] == [(80, 40), (10, 10), (12, 12), (16, 16)]
    assert focus.request.messages[0].text == "<image>\n<image>\n<image>\n<image>\nwhat ?"


def test_the_look_asks_where():
    bound = get_method("visual_funnel", {"layer": 5}).bind(INFO)
    ending = "Answer the question using a single word or phrase."
    asked = request("r", f"<image>\nwhat color is the cat ?\n{ending}", image(0))
    (look,) = bound.looks(asked)
    assert look.layers == (5,)
    assert look.request.generation.max_new_tokens == 1
    assert look.request.messages == (
        Message("user", "<image>\nTo answer 'what color is the cat ?', where in the image should I look?"),
    )


def test_bad_values():
    assert get_method("visual_funnel").bind(INFO).layer == 14
    with pytest.raises(UsageError, match=r"visual_funnel.layer=\[32\]"):
        get_method("visual_funnel", {"layer": 32}).bind(INFO)
    with pytest.raises(UsageError, match="scale2"):
        VisualFunnel(scale2=(1.0,))
    with pytest.raises(UsageError, match="no length"):
        VisualFunnel(box=-3)
