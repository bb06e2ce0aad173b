"""Random heads: how many are drawn and for whom, what is scaled, and what is left."""

import pytest
import torch
from harness import adapter, features, forced_tokens, logits, method, open_stream, requests

from sinkbench.engine.context import Context, Role, Stage
from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.random_heads import RandomHeads


def model(n_layers: int = 4, n_heads: int = 8) -> ModelInfo:
    return ModelInfo("m", n_layers=n_layers, n_heads=n_heads, n_kv_heads=2, hidden_size=64)


def context(stage: Stage = Stage.SUFFIX, n_queries: int = 3, emits: bool = True) -> Context:
    return Context(stage, torch.full((2, 6), int(Role.QUERY), dtype=torch.uint8), n_queries, emits=emits)


def factors(method: RandomHeads, n_heads: int = 8) -> torch.Tensor:
    """(L, H) by which the last row's heads grow."""
    bound = method.bind(model(n_heads=n_heads))
    heads = torch.ones(2, 3, n_heads, 5)
    edited = torch.stack([bound.edit_heads(layer, heads, context()) for layer in range(4)])
    assert edited[:, :, :-1].eq(1).all(), "only the last row"
    assert edited[:, 1].equal(edited[:, 0]), "every sample alike"
    assert edited.equal(edited[..., :1].expand_as(edited)), "whole heads"
    return edited[:, 0, -1, :, 0]


@pytest.mark.parametrize("n_heads", [8, 7, 2])
def test_half_of_the_heads_of_each_edited_layer_are_scaled(n_heads):
    found = factors(RandomHeads(alpha=3.0, layers=(1, 3)), n_heads)
    assert found[[0, 2]].eq(1).all()
    assert found[[1, 3]].eq(3).sum(1).tolist() == [n_heads // 2] * 2
    assert found[[1, 3]].eq(1).sum(1).tolist() == [n_heads - n_heads // 2] * 2


def test_the_draw_depends_on_seed_and_layer_alone():
    every = {"layers": (0, 1, 2, 3)}
    assert factors(RandomHeads(seed=1, **every)).equal(factors(RandomHeads(seed=1, **every)))
    assert factors(RandomHeads(seed=1, layers=(2,)))[2].equal(factors(RandomHeads(seed=1, **every))[2])
    draws = {tuple(row.tolist()) for seed in range(8) for row in factors(RandomHeads(seed=seed, **every))}
    assert len(draws) > 16
    mean = torch.stack([factors(RandomHeads(seed=seed, **every)) for seed in range(200)]).mean((0, 1))
    torch.testing.assert_close(mean, torch.full((8,), 1.5), atol=0.08, rtol=0)


def test_only_the_row_of_the_next_token():
    bound = RandomHeads(layers=(1,)).bind(model())
    heads = torch.randn(2, 3, 8, 5)
    for ctx in (context(emits=False), context(Stage.PREFIX, emits=False)):
        assert bound.edit_heads(1, heads, ctx) is heads
    one = bound.edit_heads(1, heads[:, -1:], context(Stage.DECODE, n_queries=1))
    assert one.equal(bound.edit_heads(1, heads, context())[:, -1:])
    assert not one.equal(heads[:, -1:])


def test_half_types_stay_what_they_are():
    heads = torch.randn(2, 1, 8, 5).bfloat16()
    edited = RandomHeads(alpha=1.3, layers=(0,)).bind(model()).edit_heads(0, heads, context(Stage.DECODE, 1))
    assert edited.dtype is torch.bfloat16
    scaled = edited != heads
    torch.testing.assert_close(edited[scaled], (1.3 * heads[scaled].float()).bfloat16(), rtol=0, atol=0)


@torch.inference_mode()
def test_of_the_prompt_only_the_last_row_differs_from_greedy():
    a, asked = adapter("llava"), requests()
    caches = []
    for m in (method("greedy"), RandomHeads(layers=(2, 3))):
        stream = open_stream(a, m.bind(a.info), [a.encode(r) for r in asked], features(a, asked), 0)
        stream.prefill()
        caches.append(list(stream.cache.keys.values()))
    differs = [(plain - scaled).abs().amax((0, 1, 3)) > 1e-4 for plain, scaled in zip(*caches, strict=True)]
    assert not any(slots[:-1].any() for slots in differs)
    assert [bool(slots[-1]) for slots in differs] == [False, False, False, True, True, True]


def test_text_alone_is_edited_too():
    a, asked = adapter("llava"), requests()
    forced = forced_tokens(len(asked), 2)
    scaled, plain = (logits(a, m, asked, forced) for m in (RandomHeads(), method("greedy")))
    assert ((scaled - plain).abs().amax(-1) > 1e-3).all()


@pytest.mark.parametrize(("n_layers", "first"), [(32, 18), (40, 22), (6, 3), (1, 0)])
def test_default_layers_follow_the_depth_of_the_model(n_layers, first):
    assert RandomHeads().bind(model(n_layers)).layers == set(range(first, n_layers))
    assert get_method("random_heads", model="llava").params()["layers"] == tuple(range(18, 32))


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"alpha": -2.0}, "random_heads.alpha=-2.0 would turn heads round"),
        ({"alpha": float("nan")}, "random_heads.alpha=nan"),
        ({"seed": -1}, "random_heads.seed=-1 is no seed"),
        ({"layers": [4]}, r"random_heads.layers=\[4\]: m has layers 0 to 3"),
    ],
)
def test_mistakes_are_named(params, says):
    with pytest.raises(UsageError, match=says):
        get_method("random_heads", params).bind(model())


def test_a_single_head_cannot_be_halved():
    with pytest.raises(UsageError, match="m has one"):
        RandomHeads().bind(model(n_heads=1))
