"""ACT: the published map reproduced; sinks, rows and heads by hand; what it must leave alone."""

import pytest
import torch
from harness import adapter, close, forced_tokens, logits, requests
from vectors import load

from sinkbench.engine.context import Context, Role, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.act import Act, column_scores, redistribute, without_first
from sinkbench.methods.facts import ModelInfo

INFO = ModelInfo("m", n_layers=6, n_heads=4, n_kv_heads=4, hidden_size=8)


def context(valid: torch.Tensor, role: Role = Role.QUERY) -> Context:
    roles = torch.where(valid, int(role), int(Role.PAD)).to(torch.uint8)
    return Context(Stage.SUFFIX, roles, roles.shape[1])


def causal(b: int, h: int, n: int, padding: int = 0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (B, h, n, n) and validity (B, n); the last sample's first `padding` tokens are none."""
    valid = torch.ones(b, n, dtype=torch.bool)
    valid[-1, :padding] = False
    scores = torch.randn(b, h, n, n, generator=torch.Generator().manual_seed(seed)) * 2
    visible = torch.ones(n, n).tril().bool() & valid[:, None, None]
    visible = visible | torch.eye(n).bool()
    return scores.masked_fill(~visible, torch.finfo(torch.float32).min).softmax(-1), valid


def test_vectors(request):
    for vector in load(request, "act", "main"):
        valid, plain = vector["attention_mask"].bool(), vector["attn_in"]
        params, n_heads = vector.params, plain.shape[1]
        heads = tuple(f"0.{head}" for head in params["heads"])
        method = Act(beta=params["beta"], tau=params["tau_absolute"], heads=heads, layers=(0,))
        bound = method.bind(ModelInfo("vectors", 1, n_heads, n_heads, 8))
        ctx = context(valid)
        edited = bound.edit_weights(0, plain, ctx)
        both = (valid[:, None, :, None] & valid[:, None, None]).expand_as(plain)
        atol = vector.tolerance["atol"]
        torch.testing.assert_close(edited[both], vector["attn_out"][both], atol=atol, rtol=0)
        scores = column_scores(plain, valid)
        columns = valid[:, None].expand_as(scores)
        torch.testing.assert_close(scores[columns], vector["column_score"][columns], atol=atol, rtol=0)
        every = Act(tau=params["tau_absolute"], all_heads=True, layers=(0,)).bind(
            ModelInfo("v", 1, n_heads, n_heads, 8)
        )
        assert every._sinks(plain, ctx).equal(vector["sink_mask"].bool() & valid[:, None])


def test_columns_are_means_over_the_rows_that_see_them_wherever_padding_lies():
    weights, valid = causal(2, 3, 7, padding=2)
    scores = column_scores(weights, valid)
    assert scores[1, :, :2].eq(0).all()
    for key in range(2, 7):
        torch.testing.assert_close(scores[1, :, key], weights[1, :, key:, key].mean(-1))
    short = column_scores(weights[1:, :, 2:, 2:], valid[1:, 2:])
    torch.testing.assert_close(scores[1:, :, 2:], short)


def test_the_first_sink_of_each_head_is_spared():
    sinks = torch.tensor([[[True, False, True, True], [False, True, False, False], [False] * 4]])
    expected = torch.tensor([[[False, False, True, True], [False] * 4, [False] * 4]])
    assert without_first(sinks).equal(expected)


def test_redistribution_by_hand():
    """0.3 on the sink: 0.18 of it goes to the others, by 0.1 : 0.6."""
    weights = torch.tensor([0.1, 0.3, 0.6]).view(1, 1, 1, 3)
    edited = redistribute(weights, torch.tensor([[[False, True, False]]]), beta=0.4)
    expected = torch.tensor([0.1 + 0.18 / 7, 0.12, 0.6 + 0.18 * 6 / 7])
    torch.testing.assert_close(edited.flatten(), expected)


def test_invariants():
    weights, valid = causal(3, 4, 12, padding=4)
    bound = Act(tau=0.15, heads=("2.0", "2.3"), layers=(2,)).bind(INFO)
    ctx = context(valid)
    edited, sinks = bound.edit_weights(2, weights, ctx), bound._sinks(weights, ctx)
    assert sinks[:, [0, 3]].any()
    assert not edited.equal(weights)
    torch.testing.assert_close(edited.sum(-1), weights.sum(-1), atol=1e-5, rtol=0)
    assert edited[:, 1:3].equal(weights[:, 1:3])
    assert edited[weights == 0].eq(0).all()
    others = ~sinks[:, :, None].expand_as(weights)
    assert (edited >= weights - 1e-7)[others].all()
    row, heads = 11, [0, 3]
    ratio = edited[:, heads, row] / weights[:, heads, row].clamp_min(1e-30)
    for sample in range(3):
        for index, head in enumerate(heads):
            kept = ratio[sample, index][~sinks[sample, head] & valid[sample]]
            torch.testing.assert_close(kept, kept[:1].expand_as(kept))
    order = torch.tensor([2, 0, 1])
    assert bound.edit_weights(2, weights[order], context(valid[order])).equal(edited[order])


def test_thresholds_and_protected_roles():
    weights, valid = causal(1, 4, 20)
    relative = Act(threshold="alpha_over_n", alpha=2.0, all_heads=True).bind(INFO)
    absolute = Act(tau=0.1, all_heads=True).bind(INFO)
    assert relative._sinks(weights, context(valid)).equal(absolute._sinks(weights, context(valid)))
    assert absolute._sinks(weights, context(valid)).any()
    spared = Act(tau=0.1, all_heads=True, protect=("image",)).bind(INFO)
    assert not spared._sinks(weights, context(valid, Role.IMAGE)).any()
    assert spared._sinks(weights, context(valid)).any()


def test_generated_tokens_are_left_alone_unless_asked_for():
    ctx = Context(Stage.DECODE, torch.full((1, 9), int(Role.GENERATED), dtype=torch.uint8), 1)
    assert Act(all_heads=True).bind(INFO).rows(2, ctx) is None
    assert Act(all_heads=True, decode=True).bind(INFO).rows(2, ctx) == slice(0, 1)


def test_default_layers_leave_out_the_first_two_and_the_last():
    bound = Act(all_heads=True).bind(INFO)
    prompt = context(torch.ones(1, 4, dtype=torch.bool))
    assert [layer for layer in range(6) if bound.rows(layer, prompt) is not None] == [2, 3, 4]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "which heads"),
        ({"heads": ("2-0",)}, "is no head"),
        ({"heads": ("2.9",)}, "heads 0 to 3"),
        ({"heads": ("7.0",)}, "layers 0 to 5"),
        ({"all_heads": True, "layers": (9,)}, "layers 0 to 5"),
    ],
)
def test_what_cannot_be_is_told_before_the_model_runs(params, message):
    with pytest.raises(UsageError, match=message):
        Act(**params).bind(INFO)
    with pytest.raises(UsageError, match="no share"):
        Act(beta=1.5)


def test_a_head_alone_changes_the_answer_and_listed_heads_are_all_heads():
    a, asked = adapter("llava"), requests()
    forced = forced_tokens(len(asked))
    plain, every = (logits(a, m, asked, forced) for m in (Act(beta=1.0, all_heads=True), Act(tau=0.02, all_heads=True)))
    n_heads = a.info.n_heads
    listed = tuple(f"{layer}.{head}" for layer in range(2, a.info.n_layers - 1) for head in range(n_heads))
    close(logits(a, Act(tau=0.02, heads=listed), asked, forced), every)
    one = logits(a, Act(tau=0.02, heads=("2.1",)), asked, forced)
    assert (one - plain).abs().amax() > 1e-4
    assert (one - every).abs().amax() > 1e-4
