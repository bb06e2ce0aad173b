"""φ and its bounds, visual sinks per layer, and what heads give them."""

import math

import pytest
import torch

from sinkbench.diagnostics.visual_sinks import (
    image_centric,
    persistence,
    phi,
    portion,
    sink_tokens,
    tau_for,
    visual_count,
)

D = 4096


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_phi_does_not_change_with_scale():
    hidden = noise(3, D) * 10
    torch.testing.assert_close(phi(hidden, [5, 9]), phi(hidden * 50, [5, 9]), atol=1e-5, rtol=1e-5)


def test_phi_is_at_most_the_root_of_the_width_and_one_for_a_constant():
    one_hot = torch.zeros(D)
    one_hot[9] = 1e4
    assert phi(one_hot, [5, 9]) == pytest.approx(math.sqrt(D))
    assert (phi(noise(10, D), range(D)) <= math.sqrt(D)).all()
    assert phi(torch.full((D,), -3.0), [0]) == pytest.approx(1)


def test_half_precision_is_measured_in_float32():
    hidden = noise(4, D).half() * 200
    hidden[1, 7] = 60000
    torch.testing.assert_close(phi(hidden, [7]), phi(hidden.float(), [7]))
    assert phi(hidden, [7])[1] > tau_for(D)


def test_tau_keeps_the_share_of_energy():
    assert tau_for(4096) == 20
    assert tau_for(256) == 5
    for width in (576, 3584):
        assert tau_for(width) ** 2 / width == pytest.approx(400 / 4096)


def test_planted_visual_sinks_are_found_behind_the_first_layers(valid, spread):
    singles = [torch.ones(5, n) for n in valid.sum(1).tolist()]
    for single in singles:
        single[:, 0] = 60
        single[1:4, 6] = 50
        single[3:, 4] = 50
    image = spread([torch.arange(n) >= 4 for n in valid.sum(1).tolist()])
    sinks = sink_tokens(spread(singles, fill=90), valid, tau=20)
    assert not (sinks & ~valid[:, None]).any()
    assert visual_count(sinks, image).tolist() == [[0, 0, 1, 2, 1]] * 3
    assert sinks.sum(-1).tolist() == [[0, 0, 2, 3, 2]] * 3


def test_persistence_is_the_overlap_of_successive_layers():
    sinks = torch.zeros(1, 4, 6, dtype=torch.bool)
    sinks[0, 1, [1, 2]] = sinks[0, 2, [2, 3]] = True
    overlap = persistence(sinks)[0]
    assert overlap[:3].tolist() == pytest.approx([0, 1 / 3, 0])
    assert persistence(torch.zeros(1, 2, 6, dtype=torch.bool)).isnan().all()


def test_image_centric_heads_look_at_the_image_off_its_sinks():
    weights = torch.tensor([[[0.5, 0.1, 0.4], [0.5, 0.4, 0.1], [0.9, 0.0, 0.1], [1.0, 0.0, 0.0], [0.5, 0.25, 0.25]]])
    image, sinks = torch.tensor([[False, True, True]]), torch.tensor([[True, True, False]])
    assert portion(weights, sinks, image)[0].tolist() == pytest.approx([0.2, 0.8, 0, 0, 0.5])
    assert image_centric(weights, sinks, image)[0].tolist() == [True, False, False, False, True]
