"""The sink metric's known values, its caveats, and its indifference to padding."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

from sinkbench.diagnostics.sink_metric import (
    EPSILONS,
    argmax_class,
    counts,
    first_token,
    is_sink,
    largest,
    received,
    scannable,
    set_mass,
    sink_rate,
)

T = 64
ALL = torch.ones(1, T, dtype=torch.bool)


def alpha_of(weights: torch.Tensor, valid: torch.Tensor = ALL) -> torch.Tensor:
    return received(weights.sum(-2), valid)


def uniform() -> torch.Tensor:
    rows = torch.ones(T, T).tril()
    return (rows / rows.sum(-1, keepdim=True)).expand(1, 2, T, T)


def test_uniform_causal_rows():
    alpha = alpha_of(uniform())[0, 0]
    assert alpha[0] == pytest.approx(0.074123, abs=1e-6)
    assert alpha[-1] == pytest.approx(1 / 64)
    assert not is_sink(alpha, 0.3).any()


def test_all_mass_on_the_first_token():
    weights = torch.zeros(1, 2, T, T)
    weights[..., 0] = 1
    alpha = alpha_of(weights)
    assert alpha[0, 0].tolist() == [1.0] + [0.0] * (T - 1)
    assert sink_rate(alpha[:, None, :, 0], 0.3).tolist() == [100.0]


def test_self_attention_makes_sinks_of_the_last_three_which_a_scan_leaves_out():
    alpha = alpha_of(torch.eye(T).expand(1, 2, T, T))
    assert is_sink(alpha[0, 0], 0.3).nonzero()[:, 0].tolist() == [61, 62, 63]
    assert scannable(ALL)[0].nonzero()[-1] == T - 8
    assert largest(alpha, ALL, ALL).tolist() == [[0.125, 0.125]]


def test_the_threshold_is_strict_and_applies_to_each_sequence():
    assert not is_sink(torch.tensor(0.5), 0.5)
    alpha = torch.tensor([[[0.9, 0.1]], [[0.25, 0.35]]])
    assert sink_rate(alpha, 0.3).tolist() == [50, 50]


def test_rates_are_percentages_that_fall_with_the_threshold():
    alpha = torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(0))
    rates = torch.stack([sink_rate(alpha, eps) for eps in EPSILONS])
    assert ((rates >= 0) & (rates <= 100)).all()
    assert (rates.diff(dim=0) <= 0).all()
    assert rates[0].sum() > rates[-1].sum()


def test_counts_are_of_real_queries_at_or_behind_a_key():
    valid = torch.tensor([[False, True, True, False, True]])
    assert counts(valid).tolist() == [[0, 3, 2, 0, 1]]
    assert first_token(valid).tolist() == [1]


def test_padding_and_order_of_the_batch_change_nothing(valid, spread, attention):
    mass = spread([weights.sum(-2) for weights in attention], fill=3.0)
    alpha = received(mass, valid)
    for row, real, weights in zip(alpha, valid, attention, strict=True):
        alone = alpha_of(weights[None], torch.ones(1, len(weights[0])).bool())[0]
        torch.testing.assert_close(row[:, real], alone)
        assert (row[:, ~real] == 0).all()
    order = [2, 0, 1]
    assert received(mass[order], valid[order]).equal(alpha[order])
    first = alpha.take_along_dim(first_token(valid)[:, None, None], -1)[..., 0]
    assert first.tolist() == [pytest.approx(weights[:, :, 0].mean(-1).tolist()) for weights in attention]


def test_the_mass_of_one_key_is_its_alpha_and_of_all_keys_one(valid, spread, attention):
    mass = spread([weights.sum(-2) for weights in attention], fill=3.0)
    one = torch.zeros_like(valid).scatter(1, torch.tensor([[10], [3], [12]]), True)
    torch.testing.assert_close(set_mass(mass, one, valid), (received(mass, valid) * one[:, None]).sum(-1))
    torch.testing.assert_close(set_mass(mass, torch.ones_like(valid), valid), torch.ones(3, 4))
    assert (set_mass(mass, torch.zeros_like(valid), valid) == 0).all()


def test_the_class_of_the_key_attended_to_most():
    weights = torch.zeros(1, 4, T, T)
    for head, key in enumerate((0, 20, 40)):
        weights[0, head, :, key] = 1
    weights[0, 3] = torch.eye(T)
    keys = torch.arange(T)
    classes = torch.stack([keys == 0, (keys > 9) & (keys < 30), keys >= 60])[:, None]
    assert argmax_class(alpha_of(weights), classes, ALL).tolist() == [[0, 1, -1, -1]]


def test_a_short_prompt_has_no_scannable_key():
    valid = torch.ones(1, 7, dtype=torch.bool)
    alpha = alpha_of(torch.eye(7).expand(1, 2, 7, 7), valid)
    assert largest(alpha, valid, valid).tolist() == [[0, 0]]
    assert argmax_class(alpha, valid[None], valid).tolist() == [[-1, -1]]


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=20, num_hidden_layers=3, initializer_range=0.3, **sizes)
    config._attn_implementation = "eager"
    return LlamaForCausalLM(config).eval()


def first_alphas(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """(L, B, H) α of the first token."""
    with torch.inference_mode():
        layers = model(ids, output_attentions=True).attentions
    return torch.stack([alpha_of(weights, ALL.expand(len(ids), T))[..., 0] for weights in layers])


def test_one_token_repeated_without_positions_is_seen_evenly(model, monkeypatch):
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", lambda query, key, *_, **__: (query, key))
    harmonic = sum(1 / i for i in range(1, T + 1))
    alphas = first_alphas(model, torch.full((2, T), 7))
    torch.testing.assert_close(alphas, torch.full_like(alphas, harmonic / T))
    varied = first_alphas(model, torch.randint(20, (2, T), generator=torch.Generator().manual_seed(0)))
    assert (varied - harmonic / T).abs().max() > 1e-3


def test_one_token_repeated_with_rotary_positions_makes_no_sink(model):
    alphas = first_alphas(model, torch.full((2, T), 7))
    assert alphas.max() < 0.2
    assert sink_rate(alphas.movedim(1, 0), EPSILONS[0]).tolist() == [0, 0]
