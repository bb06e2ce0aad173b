"""The seam by itself: masks, untouched rows and layers, causality."""

import pytest
import torch
from harness import adapter

from sinkbench.engine.attention import ExplicitRows, fused_attention, seam
from sinkbench.engine.context import Context, Role, Stage
from sinkbench.engine.keys import Grouping, LayerKeys
from sinkbench.methods.base import Intervention
from sinkbench.methods.greedy import Greedy

B, H, KV, Q, K, D = 3, 4, 2, 5, 9, 8


def context(queries: int = Q, pads: tuple[int, ...] = (0, 2, 4)) -> Context:
    roles = torch.full((B, K), int(Role.TEMPLATE), dtype=torch.uint8)
    for row, count in enumerate(pads):
        roles[row, :count] = int(Role.PAD)
    roles[:, 4:6] = int(Role.IMAGE)
    return Context(Stage.SUFFIX, roles, queries, padded=any(pads))


def tensors(queries: int = Q) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(B, H, queries, D, generator=generator),
        torch.randn(B, KV, K, D, generator=generator),
        torch.randn(B, KV, K, D, generator=generator),
    )


def reference(query, key, value, ctx) -> torch.Tensor:
    """Attention by its definition, one query at a time, float64."""
    out = torch.zeros_like(query, dtype=torch.float64)
    for b in range(query.shape[0]):
        for h in range(query.shape[1]):
            for q in range(query.shape[2]):
                slot = ctx.start + q
                seen = [k for k in range(slot + 1) if ctx.is_valid[b, k] or k == slot]
                keys, values = (x[b, h // 2, seen].double() for x in (key, value))
                out[b, h, q] = (keys @ query[b, h, q].double() * 0.3).softmax(0) @ values
    return out.float()


def in_parts(key: torch.Tensor, value: torch.Tensor, prefix: int) -> LayerKeys:
    """The same keys with the first `prefix` slots as prefixes: samples 0 and 2 share theirs."""
    if prefix == 0:
        return LayerKeys(key, value)
    grouping = Grouping.of([1, 0, 1], 2, torch.device("cpu"))
    parts = [x[:, :, prefix:] for x in (key, value)], [x[[1, 0], :, :prefix] for x in (key, value)]
    return LayerKeys(*parts[0], *parts[1], grouping)


@pytest.mark.parametrize("queries", [1, Q, K])
@pytest.mark.parametrize("pads", [(0, 0, 0), (0, 2, 4)])
@pytest.mark.parametrize("prefix", [0, 4])
def test_fused_and_explicit_rows_equal_the_definition(queries, pads, prefix):
    if queries == K and prefix:
        pytest.skip("queries of a suffix are no prefix slots")
    ctx, (query, key, value) = context(queries, pads), tensors(queries)
    for x in (key, value):
        x[2, :, :prefix] = x[0, :, :prefix]
    expected = reference(query, key, value, ctx)
    keys = in_parts(key, value, prefix)
    torch.testing.assert_close(fused_attention(query, keys, ctx, 0.3), expected, atol=1e-5, rtol=1e-5)
    for rows in (slice(0, queries), slice(queries - 1, queries)):
        explicit = ExplicitRows.of(query[:, :, rows], keys, rows, 0, ctx, Intervention(), 0.3)
        assert not explicit.edits
        torch.testing.assert_close(keys.mix(explicit.edited), expected[:, :, rows], atol=1e-5, rtol=1e-5)


def test_samples_without_a_prefix_take_nothing_from_those_of_others():
    query, key, value = tensors(1)
    keys = in_parts(key, value, 4)
    alone = LayerKeys(keys.own_k[1:2], keys.own_v[1:2])
    grouping = Grouping.of([1, -1, 0], 2, torch.device("cpu"))
    keys = LayerKeys(keys.own_k, keys.own_v, keys.prefix_k, keys.prefix_v, grouping)
    ctx = context(1)
    ctx.roles[1, :4] = int(Role.PAD)
    single = Context(Stage.SUFFIX, ctx.roles[1:2, 4:], 1)
    ours = fused_attention(query, keys, ctx, 0.3)[1:2]
    torch.testing.assert_close(ours, fused_attention(query[1:2], alone, single, 0.3), atol=1e-6, rtol=1e-6)


def test_refuses_to_run_without_a_context():
    module = torch.nn.Module()
    module.layer_idx = 0
    with pytest.raises(RuntimeError, match="outside a context"):
        seam(module, *tensors(), None, 0.3)


class EditsRow(Intervention):
    """Puts all weight of one row of one head on the first visible key of layer 3."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def rows(self, layer, ctx):
        return ctx.last_row if layer == 3 and ctx.stage is Stage.SUFFIX else None

    def edit_weights(self, layer, weights, ctx):
        self.seen.append(weights)
        weights = weights.clone()
        weights[:, 1] = 0
        weights[:, 1, :, 0] = 1
        return weights


def test_only_the_named_rows_heads_and_layers_change():
    from harness import features, open_stream, requests

    a = adapter("llava")
    asked = [requests()[0]]
    outputs: dict[str, list[torch.Tensor]] = {}
    for name, m in (("plain", Intervention()), ("edited", EditsRow())):
        outputs[name] = []
        hooks = [
            layer.self_attn.o_proj.register_forward_pre_hook(
                lambda _m, args, n=name: outputs[n].append(args[0].clone())
            )
            for layer in a.layers
        ]
        with torch.inference_mode():
            open_stream(a, m, [a.encode(r) for r in asked], features(a, asked), 0).prefill()
        for hook in hooks:
            hook.remove()
    n = len(a.layers)
    assert len(outputs["plain"]) == len(outputs["edited"]) == 2 * n
    changed = n + 3  # The second pass is the suffix.
    for index in range(changed):
        assert torch.equal(outputs["plain"][index], outputs["edited"][index])
    before, after = (outputs[name][changed].unflatten(-1, (4, -1)) for name in ("plain", "edited"))
    assert torch.equal(before[:, :-1], after[:, :-1])
    others = [0, 2, 3]
    assert torch.equal(before[:, -1, others], after[:, -1, others])
    assert (before[:, -1, 1] - after[:, -1, 1]).abs().max() > 1e-3


def test_rows_shown_to_a_method_are_causal_and_sum_to_one():
    from harness import answers, requests

    class Looks(EditsRow):
        def rows(self, layer, ctx):
            self.contexts.append(ctx)
            return ctx.all_rows

        def edit_weights(self, layer, weights, ctx):
            b, _, r, k = weights.shape
            valid = ctx.is_valid[:, ctx.start :]
            torch.testing.assert_close(weights.sum(-1), torch.ones(b, weights.shape[1], r), atol=1e-5, rtol=1e-5)
            future = torch.arange(k)[None, :] > torch.arange(ctx.start, k)[:, None]
            assert weights[:, :, future].abs().max() == 0 if future.any() else True
            pad = ~ctx.is_valid[:, None, None, :].expand(weights.shape)
            live = valid[:, None, :, None].expand(weights.shape)
            assert not (weights[pad & live]).any()
            self.checked += 1
            return weights

    looks = Looks()
    looks.contexts, looks.checked = [], 0

    class Shown(Greedy):
        def bind(self, _):
            return looks

    answers(adapter("llava"), Shown(), requests())
    assert looks.checked > 20
    assert {c.stage for c in looks.contexts} == {Stage.PREFIX, Stage.SUFFIX, Stage.DECODE}
