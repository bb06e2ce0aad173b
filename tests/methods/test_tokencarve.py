"""TokenCarve: singular shares against a plain SVD, ranks and merges by hand, what layers hold."""

import pytest
import torch
from harness import adapter, image, request, requests, stream

from sinkbench.engine.context import Context, Role, Stage
from sinkbench.engine.generate import Engine
from sinkbench.errors import UsageError
from sinkbench.methods.pruning.tokencarve import SCORE, TokenCarve, carve, singular_shares


def states(n: int, d: int) -> torch.Tensor:
    hidden = torch.randn(n, d, generator=torch.Generator().manual_seed(n + d))
    hidden[:, 1] *= 300  # a massive activation, beside which all other singular values are small
    return hidden


@pytest.mark.parametrize(("n", "d"), [(12, 40), (40, 12), (16, 16)])
def test_singular_shares_are_those_of_the_svd(n, d):
    left, values, _ = torch.linalg.svd(states(n, d).double(), full_matrices=False)
    expected = (left * values).abs().sum(1)
    torch.testing.assert_close(singular_shares(states(n, d)), expected, rtol=1e-4, atol=1e-5)


def test_ranks_are_fused_and_ties_go_to_the_earlier():
    """By attention 3 2 1 0, by singular values 0 1 2 3 (orthogonal rows: U S is their norm): all tie at λ = ½."""
    attention = torch.tensor([0.1, 0.2, 0.3, 0.4])
    hidden = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    assert carve(attention, hidden, 1, 1.0)[0].tolist() == [3]
    assert carve(attention, hidden, 1, 0.0)[0].tolist() == [0]
    assert carve(attention, hidden, 1, 0.5)[0].tolist() == [0]
    # Attention alone: 3 and 2 are left and 1 is merged into one of them.
    tokens, left = carve(attention, hidden, 2, 1.0)
    assert tokens.tolist() == [2, 3]
    assert left[1].tolist() == [0, 1.5, 0, 0.5]
    assert left[0].tolist() == [0, 0, 2, 0]


def test_the_likest_of_the_worse_half_are_averaged_into_the_better():
    """Six of six tokens are selected for M = 4: A = 0 1 2, B = 3 4 5; 4 and 5 are merged, both into 1."""
    attention = torch.tensor([0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    hidden = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 1.0, 0], [0, 4.0, 0.1], [0, 8.0, 0]])
    tokens, left = carve(attention, hidden, 4, 1.0)
    assert tokens.tolist() == [0, 1, 2, 3]
    expected = torch.tensor([[1.0, 0, 0], [0, 13 / 3, 0.1 / 3], [0, 0, 1.0], [1.0, 1.0, 0]])
    torch.testing.assert_close(left, expected)


def test_what_is_not_selected_leaves_no_trace():
    generator = torch.Generator().manual_seed(1)
    attention, hidden = torch.rand(20, generator=generator), torch.randn(20, 8, generator=generator)
    tokens, left = carve(attention, hidden, 6, 1.0)
    selected = attention.argsort(descending=True)[:9]
    assert {*tokens.tolist()} <= {*selected.tolist()}
    assert {*selected[:5].tolist()} <= {*tokens.tolist()}
    assert len(tokens) == 6
    assert tokens.equal(tokens.sort().values)
    unchanged = (left == hidden[tokens]).all(1)
    assert 3 <= int(unchanged.sum()) < 6


def test_all_but_image_tokens_goes_on_as_it_is():
    roles = torch.tensor([[1, 2, 2, 2, 2, 3, 3], [0, 1, 2, 2, 3, 3, 3], [0, 0, 0, 0, 1, 3, 3]], dtype=torch.uint8)
    hidden = torch.randn(3, 7, 8, generator=torch.Generator().manual_seed(0))
    ctx = Context(Stage.SUFFIX, roles, 7)
    ctx.scratch[SCORE] = torch.rand(3, 7, generator=torch.Generator().manual_seed(0))

    class Seen:
        """What is looked at of an `Entry`."""

        def __init__(self):
            self.hidden = hidden

    bound = TokenCarve(keep=2).bind(adapter("llava").info)
    kept = bound.keep_tokens(Seen(), ctx)
    # Two of four, two of two, none of none: rows of five, five and three tokens.
    assert kept.ragged
    assert kept.index[1].tolist() == [1, 2, 3, 4, 5, 6]
    assert kept.index[2].tolist() == [-1, -1, -1, 4, 5, 6]
    assert kept.index[0, [0, 1, 4, 5]].tolist() == [-1, 0, 5, 6]
    assert kept.hidden[1].equal(hidden[1, 1:])
    assert kept.hidden[0, [1, 4, 5]].equal(hidden[0, [0, 5, 6]])
    tokens, merged = carve(ctx.scratch[SCORE][0, 1:5], hidden[0, 1:5], 2, 0.5)
    assert kept.index[0, 2:4].equal(1 + tokens)
    assert kept.hidden[0, 2:4].equal(merged)
    assert TokenCarve(keep=4).bind(adapter("llava").info).keep_tokens(Seen(), ctx) is None


@pytest.mark.parametrize("reindex", [True, False])
def test_layers_hold_the_budget_and_earlier_ones_everything(reindex):
    a, method = adapter("llava"), TokenCarve(keep=6, layer=3, reindex=reindex)
    answers = {r.id: r for batch in Engine(a, method).answer(requests()) for r in batch}
    assert answers["wide/dog"].tokens_by_layer == (16, 16, 16, 6, 6, 6)
    assert answers["two"].tokens_by_layer == (32, 32, 32, 6, 6, 6)
    main = stream(a, method, [request("r", "<image>\nis there a dog ?", image(0))], 2)
    with torch.inference_mode():
        main.prefill()
    (group,) = main.pruning.groups
    assert int((group.roles == Role.IMAGE).sum()) == 6
    assert (None if group.behind is None else group.behind.tolist()) == ([10] if reindex else None)


def test_mistakes_are_named():
    with pytest.raises(UsageError, match=r"tokencarve\.layer=0"):
        TokenCarve(layer=0).bind(adapter("llava").info)
    with pytest.raises(UsageError, match=r"tokencarve\.balance=1\.5"):
        TokenCarve(balance=1.5)
    with pytest.raises(UsageError, match=r"tokencarve\.keep=0 is no budget"):
        TokenCarve(keep=0)
