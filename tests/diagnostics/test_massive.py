"""Massive activations are found where they are, measured without copies, and not where all is large."""

import pytest
import torch

from sinkbench.diagnostics import massive
from sinkbench.diagnostics import rows as diagnostics_rows
from sinkbench.diagnostics.massive import is_massive, magnitudes, median_magnitude, top_entries

ALL = torch.ones(2, 10, dtype=torch.bool)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scaling_one_entry_flags_that_entry(dtype):
    hidden = noise(2, 10, 64).to(dtype)
    hidden[1, 4, 17] = -1e5 * hidden[1, 4, 17].abs()
    seen = magnitudes(hidden, ALL)
    assert is_massive(hidden.float().abs(), seen.median[:, None, None]).nonzero().tolist() == [[1, 4, 17]]
    assert is_massive(seen.largest, seen.median[:, None]).nonzero().tolist() == [[1, 4]]
    assert is_massive(seen.values.abs(), seen.median[:, None]).nonzero().tolist() == [[1, 17]]
    assert (seen.dim[1, 4], seen.tokens[1, 17]) == (17, 4)
    assert seen.values[1, 17] == hidden[1, 4, 17]


def test_entries_that_are_all_large_are_not_massive():
    seen = magnitudes(noise(2, 10, 64) * 1e4, ALL)
    assert (seen.largest > 100).all()
    assert not is_massive(seen.largest, seen.median[:, None]).any()


def test_a_large_entry_must_also_exceed_the_floor():
    assert not is_massive(torch.tensor(100.0), torch.tensor(1e-3))
    assert is_massive(torch.tensor(101.0), torch.tensor(0.101))


def test_measures_are_those_of_the_definitions():
    hidden = noise(2, 9, 33)
    seen = magnitudes(hidden, ALL[:, :9])
    torch.testing.assert_close(seen.largest, hidden.abs().amax(-1))
    assert seen.dim.equal(hidden.abs().argmax(-1))
    torch.testing.assert_close(seen.values.abs(), hidden.abs().amax(1))
    assert seen.tokens.equal(hidden.abs().argmax(1))
    torch.testing.assert_close(seen.norms, hidden.norm(dim=-1))
    torch.testing.assert_close(seen.rms, hidden.square().mean(-1).sqrt())
    assert seen.median.equal(hidden.flatten(1).abs().median(1).values)


def test_padding_is_not_seen(valid, spread, states, monkeypatch):
    monkeypatch.setattr(diagnostics_rows, "_CHUNK_ENTRIES", 18 * 64)
    hidden = spread(states, fill=1e6, dim=-2)
    seen = magnitudes(hidden, valid)
    top = top_entries(hidden, seen)
    for row, (real, single) in enumerate(zip(valid, states, strict=True)):
        one = torch.ones(1, len(single), dtype=torch.bool)
        alone = magnitudes(single[None], one)
        slots = real.nonzero()[:, 0]
        assert seen.largest[row, real].equal(alone.largest[0])
        assert seen.largest[row, ~real].eq(0).all()
        assert seen.values[row].equal(alone.values[0])
        assert seen.tokens[row].equal(slots[alone.tokens[0]])
        assert seen.median[row] == alone.median[0]
        assert top.values[row].equal(top_entries(single[None], alone).values[0])


def test_the_top_entries_of_a_tensor():
    hidden = noise(2, 10, 64)
    hidden[0, 3, 5], hidden[0, 3, 6], hidden[0, 8, 5] = 50, -70, 60
    hidden[1, 0, 0] = -9
    top = top_entries(hidden, magnitudes(hidden, ALL))
    assert top.values[0].tolist() == [-70, 60, 50]
    assert top.tokens[0].tolist() == [3, 8, 3]
    assert top.dims[0].tolist() == [6, 5, 5]
    torch.testing.assert_close(top.values.abs(), hidden.flatten(1).abs().topk(3).values)


def test_a_sample_of_one_short_token_has_fewer_top_entries():
    hidden = torch.tensor([[[1.0, -2.0], [9.0, 9.0]]])
    top = top_entries(hidden, magnitudes(hidden, torch.tensor([[True, False]])))
    assert top.values.tolist() == [[-2, 1, 0]]


def test_large_states_are_sampled_evenly(monkeypatch):
    hidden = noise(1, 64, 32) + 5 * torch.arange(32)
    real = torch.arange(64)[None] < 40
    exact = median_magnitude(hidden, real)
    assert exact == hidden[:, :40].flatten().abs().median()
    monkeypatch.setattr(massive, "MEDIAN_ENTRIES", 320)
    assert median_magnitude(hidden, real) == pytest.approx(float(exact), rel=0.03)
    seen = torch.zeros(1, 64, 32)
    for entry in range(320):
        seen[0, entry * 40 // 320, entry % 32] += 1
    assert seen.max() == 1
    assert seen.sum(1).unique().tolist() == [10]
    ordered = hidden[seen.bool()].abs().sort().values
    assert median_magnitude(hidden, real) == ordered[159]


def test_a_sample_without_tokens_has_no_median_and_nothing_massive():
    seen = magnitudes(noise(1, 4, 8) * 1e6, torch.zeros(1, 4, dtype=torch.bool))
    assert seen.median.isnan().all()
    assert not is_massive(seen.largest, seen.median[:, None]).any()
