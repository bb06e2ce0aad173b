"""What the kernels are told: codes, gains, factors and lengths, with kernels that work by definition on the CPU."""

from types import SimpleNamespace

import pytest
import torch
from harness import ACTIVE, adapter, close, features, forced_tokens, logits, method, open_stream, requests
from torch import Tensor

from sinkbench.engine import attention, kernels, stream
from sinkbench.engine.context import Stage
from sinkbench.engine.grouped import PAD
from sinkbench.engine.keys import LayerKeys
from sinkbench.methods.base import Intervention

CALLS: dict[str, int] = {}


def softmax(scores: Tensor, visible: Tensor) -> Tensor:
    return scores.masked_fill(~visible, torch.finfo(torch.float32).min).softmax(-1)


def mass_of(weights: Tensor, codes: Tensor, n_groups: int) -> Tensor:
    index = codes.long().where(codes != PAD, 0)[:, None, None].expand(weights.shape)
    return torch.zeros(*weights.shape[:3], n_groups).scatter_add(3, index, weights)


def scaled(weights: Tensor, codes: Tensor, factors: Tensor | None) -> Tensor:
    if factors is None:
        return weights
    index = codes.long().where(codes != PAD, 0)[:, None, None].expand(weights.shape)
    return weights * factors.expand(*weights.shape[:3], -1).gather(3, index)


def suffix_weights(query: Tensor, keys: LayerKeys, codes: Tensor, own_length: int, scaling: float) -> Tensor:
    slots = torch.arange(codes.shape[1])
    rows = keys.n_prefix + own_length - query.shape[2] + torch.arange(query.shape[2])
    causal, itself = slots <= rows[:, None], slots == rows[:, None]
    visible = (causal & (codes != PAD)[:, None]) | itself
    return softmax(keys.scores(query, scaling), visible[:, None])


def suffix_attention(query, keys, codes, own_length, scaling, factors=None):
    CALLS["suffix" if factors is None else "suffix, factors"] = 1
    return keys.mix(scaled(suffix_weights(query, keys, codes, own_length, scaling), codes, factors))


def suffix_mass(query, keys, codes, own_length, scaling, n_groups):
    return mass_of(suffix_weights(query, keys, codes, own_length, scaling), codes, n_groups)


def decode_partials(query, keys, codes, own_length, scaling, n_groups=1, gains=None):
    CALLS["decode" if gains is None else "decode, gains"] = 1
    scores = keys.scores(query, scaling)
    if gains is not None:
        gain = gains[codes.long().where(codes != PAD, 0)]
        scores = scores + gain[:, None, None] * scores.abs()
    visible = (codes != PAD) & (torch.arange(codes.shape[1]) < keys.n_prefix + own_length)
    return SimpleNamespace(weights=softmax(scores, visible[:, None, None]), keys=keys, codes=codes, n=n_groups)


def merge(partials):
    return mass_of(partials.weights, partials.codes, partials.n)


def combine(partials, factors=None):
    CALLS["combine" if factors is None else "combine, factors"] = 1
    return partials.keys.mix(scaled(partials.weights, partials.codes, factors))


def use_kernels(monkeypatch) -> None:
    for replacement in (suffix_attention, suffix_mass, decode_partials, merge, combine):
        monkeypatch.setattr(kernels, replacement.__name__, replacement)
    for module in (attention, stream):
        monkeypatch.setattr(module, "has_kernels", lambda _: True)


@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "internvl"])
@pytest.mark.parametrize("name", ACTIVE)
def test_the_kernel_path_equals_explicit_weights(family, name, monkeypatch):
    """Also where a second branch runs along, samples finish, and a prompt has no image."""
    a, asked, m = adapter(family), requests(), method(name)
    forced = forced_tokens(len(asked), 3)
    expected = logits(a, m, asked, forced)
    use_kernels(monkeypatch)
    CALLS.clear()
    close(logits(a, m, asked, forced, static=True), expected)
    # A mask that a method edited in every layer is for no kernel.
    expected_calls = {"decode", "combine"} if name == "mma_mask+var" else {"suffix", "decode", "combine"}
    assert expected_calls <= set(CALLS)
    assert ("decode, gains" in CALLS) == (name in ("dual_stream", "pai", "pai-attention"))
    assert ({"suffix, factors", "combine, factors"} <= set(CALLS)) == (name in ("image_scale", "var"))


class EditsEverything(Intervention):
    """Edits every key of every row, and lets the second branch alone speak."""

    n_groups = 1

    def rows(self, layer, ctx):
        return None if ctx.stage is Stage.PREFIX else ctx.all_rows

    def key_groups(self, layer, ctx):
        return torch.zeros_like(ctx.roles, dtype=torch.int64)

    def score_gains(self, layer):
        return (0.7,)

    def scale_groups(self, layer, mass, ctx):
        return torch.full_like(mass, 0.5)

    def edit_heads(self, layer, heads, ctx):
        return heads * 2 if ctx.stage is Stage.DECODE else heads

    def contrast(self, prompt):
        return prompt.without_images()

    def edit_logits(self, logits, ctx):
        return ctx.contrast_logits


@pytest.mark.parametrize("by_kernels", [False, True])
def test_no_edit_reaches_the_second_branch(by_kernels, monkeypatch):
    a, asked = adapter("llava"), requests()
    prompts, forced = [a.encode(r) for r in asked], forced_tokens(len(asked), 3)
    blind = [prompt.without_images() for prompt in prompts]

    @torch.inference_mode()
    def run(bound, shown, static):
        main = open_stream(a, bound, shown, features(a, asked), 3, static=static)
        return torch.stack([main.prefill(), *(main.step(tokens) for tokens in forced.T)], dim=1)

    plain = run(Intervention(), blind, static=False)
    if by_kernels:
        use_kernels(monkeypatch)
    close(run(EditsEverything(), prompts, static=True), plain)


def test_without_triton_nothing_asks_for_its_kernels(monkeypatch):
    a, asked = adapter("llava"), requests()
    forced = forced_tokens(len(asked), 2)
    for name in ("suffix_attention", "decode_partials"):
        monkeypatch.setattr(kernels, name, None)
    close(logits(a, method("var"), asked, forced, static=True), logits(a, method("var"), asked, forced))
