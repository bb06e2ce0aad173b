"""IRI: what is injected where, by hand; the norms; its invariants."""

import pytest
import torch

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.iri import Iri

INFO = ModelInfo("m", n_layers=4, n_heads=1, n_kv_heads=1, hidden_size=3)
RATES = (0.1, 0.9, 0.5, 0.3)


def outputs() -> torch.Tensor:
    """(L, B, Q, d) of four attention layers."""
    return torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))


def run(method: Iri, given: torch.Tensor, emits: bool = True, part: str = "attn") -> torch.Tensor:
    ctx = Context(Stage.SUFFIX, torch.ones(2, 3, dtype=torch.uint8), 3, emits=emits)
    bound = method.bind(INFO)
    return torch.stack([bound.edit_hidden(layer, part, hidden, ctx) for layer, hidden in enumerate(given)])


def iri(**params: object) -> Iri:
    return Iri(**{"k_sources": 2, "k_targets": 3, "rates_attn": RATES, "rates_mlp": RATES, **params})


@pytest.mark.parametrize(("part", "strength"), [("attn", 0.26), ("mlp", 0.16)])
def test_injection_by_hand(part, strength):
    """Sources are layers 1 and 2, targets 1, 2 and 3; a layer receives from earlier ones only."""
    given = outputs()
    edited, last = run(iri(), given, part=part), given[:, :, -1]
    assert edited[:2].equal(given[:2])
    for layer, added in ((2, 0.9 * last[1]), (3, 0.9 * last[1] + 0.5 * last[2])):
        mixed = last[layer] + strength * added
        expected = mixed / mixed.norm(dim=-1, keepdim=True) * last[layer].norm(dim=-1, keepdim=True)
        torch.testing.assert_close(edited[layer, :, -1], expected)


def test_norms_stay_and_so_do_all_other_rows():
    given = outputs()
    edited = run(iri(lambda_attn=5.0), given)
    assert not edited.equal(given)
    torch.testing.assert_close(edited.norm(dim=-1), given.norm(dim=-1))
    assert edited[:, :, :-1].equal(given[:, :, :-1])
    assert run(iri(), given, emits=False).equal(given)


def test_a_source_may_give_what_it_received():
    given = outputs()
    raw, received = run(iri(), given), run(iri(record="injected"), given)
    assert raw[2].equal(received[2])
    assert not raw[3].allclose(received[3])


def test_zero_strength_changes_nothing_and_rates_must_fit():
    given = outputs()
    assert run(iri(lambda_attn=0.0), given).equal(given)
    with pytest.raises(UsageError, match="rates_attn: 0 recovery rates for the 4 layers"):
        Iri().bind(INFO)
    with pytest.raises(UsageError, match="layers of both kinds"):
        iri(k_sources=0)
