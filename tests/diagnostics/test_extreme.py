"""Drained values, peaked residuals, sink heads and heads that rest."""

import math

import pytest
import torch

from sinkbench.diagnostics.extreme import (
    active_dormant,
    column_entropy,
    is_sink_head,
    mean_over_rows,
    residual_peak,
    top_columns,
    value_drain,
)
from sinkbench.diagnostics.sink_metric import first_token, received

T = 32
ALL = torch.ones(1, T, dtype=torch.bool)
FIRST = torch.tensor([0])


def plogp(weights: torch.Tensor) -> torch.Tensor:
    return torch.xlogy(weights, weights).sum(-2)


def row_entropy(weights: torch.Tensor) -> torch.Tensor:
    seen = torch.arange(1, weights.shape[-1] + 1)
    entropy = -torch.xlogy(weights, weights).sum(-1)[..., 1:] / seen[1:].log()
    return mean_over_rows(entropy.sum(-1), torch.full((len(weights),), len(seen) - 1))


def sink_head() -> torch.Tensor:
    weights = torch.eye(T) * 0.05
    weights[:, 0] += 0.95
    return weights[None, None]


def test_a_drained_value_and_a_peaked_state():
    norms = torch.full((1, 2, T), 2.0)
    norms[0, 0, 0] = 0.1
    assert value_drain(norms, FIRST, ALL)[0].tolist() == pytest.approx([0.05, 1])
    norms[0, 1, 0] = 500
    norms[0, 1, 9] = 50
    assert residual_peak(norms, FIRST, ALL)[0].tolist() == pytest.approx([0.05, 10])


def test_other_sinks_can_be_left_out():
    norms = torch.full((1, 2, T), 2.0)
    norms[..., 0], norms[..., 9] = 500, 50
    others = ALL.clone()
    others[0, 9] = False
    assert residual_peak(norms, FIRST, others)[0].tolist() == [250, 250]


def test_a_sink_alone_has_nothing_to_compare_with():
    one = torch.arange(4)[None] == 2
    norms = torch.ones(1, 3, 4)
    assert value_drain(norms, torch.tensor([2]), one).isnan().all()
    assert residual_peak(norms, torch.tensor([2]), one).isnan().all()


def test_means_over_rows():
    total = torch.tensor([[6.0, 3.0], [1.0, 1.0]])
    means = mean_over_rows(total, torch.tensor([3, 0]))
    assert means[0].tolist() == [2, 1]
    assert means[1].isnan().all()


def test_a_column_that_all_rows_share_is_even_and_one_of_a_single_row_is_not():
    weights = sink_head()
    entropy = column_entropy(weights.sum(-2), plogp(weights), ALL)[0, 0]
    assert entropy[0] == pytest.approx(1, abs=1e-3)
    assert entropy[1:].abs().max() < 1e-3


def test_the_column_entropy_is_that_of_its_distribution_over_rows():
    scores = torch.randn(1, 2, T, T, generator=torch.Generator().manual_seed(0))
    weights = scores.masked_fill(~torch.ones(T, T).tril().bool(), -torch.inf).softmax(-1)
    entropy = column_entropy(weights.sum(-2), plogp(weights), ALL)
    for key in (0, 5, T - 2):
        p = weights[0, 1, key:, key].double()
        p = p / p.sum()
        assert entropy[0, 1, key] == pytest.approx(float(-(p * p.log()).sum()) / math.log(T - key), abs=1e-5)
    assert entropy[0, 1, T - 1] == 0
    assert ((entropy >= 0) & (entropy <= 1)).all()


def test_a_sink_head_has_few_keys_a_row_and_one_key_for_all_rows():
    local, even = torch.eye(T)[None, None], torch.ones(T, T).tril()[None, None]
    even = even / even.sum(-1, keepdim=True)
    heads = torch.cat([sink_head(), local, even], dim=1)
    columns = column_entropy(heads.sum(-2), plogp(heads), ALL)
    assert is_sink_head(row_entropy(heads), columns, ALL, low=0.3, high=0.9).tolist() == [[True, False, False]]


def test_the_top_columns_leave_out_keys_that_few_rows_see():
    alpha = torch.zeros(1, 1, T)
    alpha[0, 0, 0], alpha[0, 0, 7], alpha[0, 0, -1] = 0.5, 0.3, 1
    values, slots = top_columns(alpha, ALL)
    assert values[0, 0].tolist() == pytest.approx([0.5, 0.3])
    assert slots.tolist() == [[[0, 7]]]
    short = torch.arange(T)[None] < 8
    assert top_columns(alpha, short)[1].tolist() == [[[0, -1]]]


def test_padding_changes_nothing(valid, spread, attention):
    mass = spread([weights.sum(-2) for weights in attention], fill=2.0)
    logs = spread([plogp(weights) for weights in attention], fill=-2.0)
    entropy = column_entropy(mass, logs, valid)
    slots = top_columns(received(mass, valid), valid, 1)[1]
    norms = spread([weights[:, 0].exp() + weights[:, -1] for weights in attention], fill=1e5)
    for row, (real, weights) in enumerate(zip(valid, attention, strict=True)):
        one = torch.ones(1, weights.shape[-1], dtype=torch.bool)
        alone = column_entropy(weights.sum(-2)[None], plogp(weights)[None], one)
        torch.testing.assert_close(entropy[row][:, real], alone[0])
        assert entropy[row][:, ~real].eq(0).all()
        top = top_columns(received(weights.sum(-2)[None], one), one, 1)[1]
        assert slots[row].equal(real.nonzero()[:, 0][top[0]])
        single = norms[row : row + 1, :, real]
        for measure in (value_drain, residual_peak):
            torch.testing.assert_close(measure(norms, first_token(valid), valid)[row], measure(single, FIRST, one)[0])


def test_heads_that_rest_in_one_domain_only():
    rest = torch.tensor([[[0.9, 0.9, 0.5]], [[0.8, 1.0, 0.5]]])
    work = torch.tensor([[[0.1, 0.9, 0.1]], [[0.3, 0.9, 0.1]], [[0.2, 0.9, 0.1]]])
    found = active_dormant(rest, work)
    assert found.switches.tolist() == [[True, False, False]]
    assert found.delta[0].tolist() == pytest.approx([0.65, 0.05, 0.4], abs=1e-6)
    assert found.ranking.tolist() == [[0, 0], [0, 2], [0, 1]]
