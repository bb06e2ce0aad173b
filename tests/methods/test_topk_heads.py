"""Top-k heads: the released router's own numbers, and its invariants on tiny models."""

import pytest
import torch
import vectors
from harness import adapter, features, open_stream, requests
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from sinkbench.engine.attention import Pass
from sinkbench.engine.cache import SlotCache
from sinkbench.engine.context import Context, Role, Stage
from sinkbench.engine.keys import LayerKeys
from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.methods.base import Intervention
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.topk_heads import TopkHeads, routed_heads


def model(n_heads: int = 8) -> ModelInfo:
    return ModelInfo("m", n_layers=4, n_heads=n_heads, n_kv_heads=2, hidden_size=64)


def context(stage: Stage = Stage.SUFFIX, n_queries: int = 3) -> Context:
    return Context(stage, torch.full((2, n_queries), int(Role.QUERY), dtype=torch.uint8), n_queries)


def test_published_router(request):
    folder = request.config.getoption("--vectors")
    found = vectors.find(folder, "moh", "main")
    if not found:
        pytest.skip(f"{folder} has no moh vectors")
    for vector in map(vectors.read, found):
        p = vector.params["llama"]
        heads, kv_heads, hidden = p["heads"], p["kv_heads"], vector["llama_hidden"]
        b, t, width = hidden.shape
        config = LlamaConfig(
            hidden_size=width, num_attention_heads=heads, num_key_value_heads=kv_heads, rope_theta=p["rope_theta"]
        )
        by_head = {
            name: (hidden @ vector[f"llama_{name}_proj.weight"].T).view(b, t, -1, width // heads).transpose(1, 2)
            for name in "qkv"
        }
        turned = LlamaRotaryEmbedding(config)(hidden, torch.arange(t)[None])
        query, key = apply_rotary_pos_emb(by_head["q"], by_head["k"], *turned)
        assert torch.equal(
            routed_heads(by_head["q"], heads - p["shared"], p["routed_active"]), vector["llama_active"] > 0
        )

        keep = (p["shared"] + p["routed_active"]) / heads
        bound = TopkHeads(keep=keep).bind(vectors.info(1, {"num_attention_heads": heads}))
        ctx = Context(Stage.SUFFIX, torch.full((b, t), int(Role.QUERY), dtype=torch.uint8), t, padded=False)
        keys = LayerKeys(key, by_head["v"])
        edited, plain = (
            Pass(((method, ctx),), SlotCache(b, t)).attend(0, query, keys, (width // heads) ** -0.5)
            for method in (bound, Intervention())
        )
        on = edited.abs().amax(-1) > 0
        assert torch.equal(on, vector["llama_active"] > 0)
        atol = vector.tolerance["atol"]
        out = edited.flatten(2) @ vector["llama_o_proj.weight"].T
        torch.testing.assert_close(out, vector["llama_out"], atol=atol, rtol=0)
        assert (plain.flatten(2) @ vector["llama_o_proj.weight"].T - out).abs().max() > 100 * atol


@pytest.mark.parametrize(
    ("n_heads", "keep", "on"), [(32, 0.75, 24), (32, 0.9, 29), (8, 0.5, 4), (8, 1.0, 8), (7, 0.75, 5), (7, 0.5, 4)]
)
def test_so_many_heads_are_on(n_heads, keep, on):
    query = torch.randn(2, n_heads, 3, 4, generator=torch.Generator().manual_seed(0))
    bound, ctx = TopkHeads(keep=keep).bind(model(n_heads)), context()
    bound.observe_query(1, query, ctx)
    edited = bound.edit_heads(1, torch.ones(2, 3, n_heads, 4), ctx)
    assert edited.sum(2).eq(on).all()
    assert edited[:, :, : n_heads - n_heads // 2].eq(1).all()


def test_the_longest_queries_win_token_by_token():
    lengths = torch.tensor([[[9.0, 1, 2, 3], [9, 3, 1, 2]]]).transpose(
        1, 2
    )  # (1, H, Q): the first two heads are shared
    direction = torch.nn.functional.normalize(torch.randn(1, 4, 2, 6), dim=-1)
    found = routed_heads(lengths[..., None] * direction, pool=2, active=1)
    assert found.tolist() == [[[True, True, False, True], [True, True, False, True]]]
    longer = routed_heads(50 * lengths[..., None] * direction, pool=3, active=2)
    assert longer.tolist() == [[[True, False, True, True], [True, True, False, True]]]


def test_each_layer_has_its_own_choice_and_only_named_layers_any():
    bound, ctx = TopkHeads(keep=0.5, layers=(1,)).bind(model()), context()
    heads, query = torch.ones(2, 3, 8, 4), torch.randn(2, 8, 3, 4)
    for layer in range(4):
        bound.observe_query(layer, query, ctx)
        assert torch.equal(bound.edit_heads(layer, heads, ctx), heads) == (layer != 1)
    every, ctx = TopkHeads(keep=0.75).bind(model()), context()
    for layer, given in enumerate((query, query.flip(1))):
        every.observe_query(layer, given, ctx)
    assert not every.edit_heads(0, heads, ctx).equal(every.edit_heads(1, heads, ctx))


@torch.inference_mode()
def test_keys_and_values_of_the_first_layer_are_those_of_greedy():
    a, asked = adapter("llava"), requests()
    caches = []
    for name in ("greedy", "topk_heads"):
        m = get_method(name)
        prompts = [a.encode(request) for request in asked]
        stream = open_stream(a, m.bind(a.info), prompts, features(a, asked), 0, edits=name != "greedy")
        stream.prefill()
        caches.append([(stream.cache.prefix.keys[layer], stream.cache.keys[layer]) for layer in range(2)])
    (plain_0, plain_1), (routed_0, routed_1) = caches
    assert all(torch.equal(*pair) for pair in zip(plain_0, routed_0, strict=True))
    assert not any(torch.allclose(*pair) for pair in zip(plain_1, routed_1, strict=True))


def test_profiles():
    assert get_method("topk_heads", {"topk_heads.profile": "code"}) == TopkHeads()
    assert get_method("topk_heads", {"topk_heads.profile": "mild"}).params()["keep"] == 0.9


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"keep": 0.4}, "topk_heads.keep=0.4: the first half of the heads is always on"),
        ({"keep": 1.1}, "topk_heads.keep=1.1"),
        ({"layers": [4]}, r"topk_heads.layers=\[4\]: m has layers 0 to 3"),
    ],
)
def test_mistakes_are_named(params, says):
    with pytest.raises(UsageError, match=says):
        get_method("topk_heads", params).bind(model())
