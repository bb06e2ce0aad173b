"""Methods against numbers made with their published code, through the methods' own classes.

All shapes and parameters come from the files, so `pytest --vectors DIR` works on files nobody here has seen.
"""

import dataclasses
from collections.abc import Iterator

import pytest
import torch
import vectors
from harness import open_stream
from torch import Tensor
from vectors import BareLlama, Vector, load, same_as

from sinkbench.engine.context import Context, Role, Stage
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.dual_stream import BOTTOM, GROUPS, TOP, DualStream
from sinkbench.methods.gift import CONTENT, MAP, Gift, GiftIntervention, saliency_map
from sinkbench.methods.pai import Pai, refine_logits
from sinkbench.methods.var import Var, VarIntervention, sink_statistic


@pytest.fixture
def var_maps(request):
    return load(request, "var", "main")


@pytest.fixture
def var_runs(request):
    return load(request, "var", "e2e")


@pytest.fixture
def gift_maps(request):
    return load(request, "gift", "main")


@pytest.fixture
def gift_runs(request):
    return load(request, "gift", "e2e")


@pytest.fixture
def pai_maps(request):
    return load(request, "pai", "main")


@pytest.fixture
def dual_stream_maps(request):
    return load(request, "dual_stream", "main")


@pytest.fixture
def pai_runs(request):
    return load(request, "pai", "e2e")


def passes(roles: Tensor, decode_steps: int) -> Iterator[Context]:
    """The engine's passes over one padded sample (1, K): prefix, suffix, then decode."""
    end = int((roles[0] == Role.IMAGE).nonzero()[-1]) + 1
    prefix = Context(Stage.PREFIX, roles[:, :end], end)
    yield prefix
    state = prefix.state
    yield Context(Stage.SUFFIX, roles, roles.shape[1] - end, state=state)
    for step in range(decode_steps):
        generated = torch.full((1, step + 1), int(Role.GENERATED), dtype=torch.uint8)
        yield Context(Stage.DECODE, torch.cat((roles, generated), dim=1), 1, step=step + 1, state=state)


def var_method(vector: Vector) -> Method:
    p = vector.params
    return Var(tau=p["tau"], rho=p["rho_nonsink_min"], s0=p["s0"], take=p["take"], layers=tuple(p["layers_zero_based"]))


def test_var_maps(var_maps):
    for vector in var_maps:
        p, atol = vector.params, vector.tolerance["atol"]
        layers = p["layers_zero_based"]
        model = vectors.info(max(layers) + 1, sink_dims=tuple(p["sink_dims"]))
        for sample in range(len(vector["attention_mask"])):
            check_var_sample(vector, sample, var_method(vector).bind(model), layers, atol)


def check_var_sample(vector: Vector, sample: int, bound: VarIntervention, layers: list[int], atol: float) -> None:
    valid = vector["attention_mask"][sample].bool()
    roles = vectors.roles(valid[None], vector["image_mask"][sample][None])
    decode_steps = sum(name.startswith("attn_decode") and not name.endswith("out") for name in vector.tensors)
    changed = 0
    for axis, layer in enumerate(layers):
        hidden = vector["hidden_in"][sample, axis]
        torch.testing.assert_close(
            sink_statistic(hidden, bound.sink_dims)[valid], vector["phi"][sample, axis][valid], atol=1e-5, rtol=1e-5
        )
        for ctx in passes(roles, decode_steps):
            if ctx.stage is not Stage.DECODE:
                bound.observe_hidden(layer, hidden[None, ctx.start : ctx.n_keys], ctx)
            rows = bound.rows(layer, ctx)
            if rows is None:
                name, selected, given = "attn_prefill", "selected_prefill", None
                expected = vector[f"{name}_out"][sample, axis][:, : ctx.n_keys, : ctx.n_keys]
                torch.testing.assert_close(expected, vector[name][sample, axis][:, : ctx.n_keys, : ctx.n_keys])
                continue
            if ctx.stage is Stage.SUFFIX:
                assert torch.equal(bound.sinks(layer, ctx)[0], vector["sink_mask"][sample, axis].bool())
                given = vector["attn_prefill"][sample, axis][None, :, ctx.start :]
                expected = vector["attn_prefill_out"][sample, axis][:, ctx.start :]
                selected = vector["selected_prefill"][sample, axis][:, ctx.start :].bool()
            else:
                name = f"attn_decode{ctx.step - 1}"
                given, expected = vector[name][sample, axis][None], vector[f"{name}_out"][sample, axis]
                selected = vector[f"selected_decode{ctx.step - 1}"][sample, axis][:, None].bool()
            edited = bound.edit_weights(layer, given, ctx)[0]
            torch.testing.assert_close(edited, expected, atol=atol, rtol=0)
            moved = (edited - given[0]).abs().amax(-1) > 0
            assert not (moved & ~selected).any()
            changed += int(moved.sum())
    assert changed > 0


def run(adapter: BareLlama, method: Method, sink_dims: tuple[int, ...] = (), rows: slice = slice(None)):
    """Greedy decoding of a file's samples by a method."""
    config = adapter.vector.params["config"]
    return run_bound(adapter, method.bind(vectors.info(config["num_hidden_layers"], config, sink_dims)), rows)


def run_bound(adapter: BareLlama, bound: Intervention, rows: slice):
    """Greedy decoding of a file's samples: raw logits, edited scores (B, T, V) and tokens (B, T)."""
    vector = adapter.vector
    prompts, steps = adapter.prompts()[rows], vector.params["new_tokens"]
    logits, scores, tokens, contexts = [], [], [], []
    edit_logits = bound.edit_logits

    def recorded(raw: torch.Tensor, ctx: Context) -> torch.Tensor:
        logits.append(raw)
        contexts.append(ctx)
        return edit_logits(raw, ctx)

    bound.edit_logits = recorded  # type: ignore[method-assign]
    branches = [b for prompt in prompts if (b := bound.contrast(prompt)) is not None]
    for row, branch in zip(range(len(vector["input_ids"]))[rows], branches, strict=False):
        assert torch.equal(adapter.vocabulary_ids(branch.ids), vectors.image_free_ids(vector, row))
    with torch.inference_mode():
        stream = open_stream(adapter, bound, prompts, adapter.features(), steps)
        for step in range(steps):
            scores.append(stream.step(tokens[-1]) if step else stream.prefill())
            tokens.append(scores[-1].argmax(-1))
    return torch.stack(logits, 1), torch.stack(scores, 1), torch.stack(tokens, 1), contexts[-1]


@pytest.mark.parametrize("batched", [True, False])
def test_var_end_to_end(var_runs, batched):
    for vector in var_runs:
        adapter, atol = BareLlama(vector), vector.tolerance["logits_atol"]
        dims = tuple(vector.params["sink_dims"])
        samples = len(vector["input_ids"])
        for rows in [slice(None)] if batched else [slice(i, i + 1) for i in range(samples)]:
            logits, _, tokens, ctx = run(adapter, var_method(vector), dims, rows)
            torch.testing.assert_close(logits, vector["logits"][rows], atol=atol, rtol=0)
            assert torch.equal(tokens, vector["tokens"][rows].long())
            plain, *_ = run(adapter, var_method(vector).replace(take=0.0), dims, rows)
            torch.testing.assert_close(plain, vector["logits_plain"][rows], atol=atol, rtol=0)
            for layer in vector.params["layers_zero_based"]:
                found = ctx.state[f"var.sinks.{layer}"]
                expected = vector["sink_mask"][rows, layer].bool()
                for row, wanted in zip(
                    found[ctx.is_prompt[:, : found.shape[1]]].split(ctx.is_prompt.sum(1).tolist()),
                    expected,
                    strict=True,
                ):
                    assert torch.equal(row, wanted[len(wanted) - len(row) :])


def test_pai_maps(pai_maps):
    for vector in pai_maps:
        p, atol = vector.params, vector.tolerance["attn_atol"]
        bound = Pai(alpha=p["alpha"], gamma=1.0, start=0).bind(vectors.info(1))
        roles = vectors.roles(vector["attention_mask"], vector["image_mask"])
        ctx = Context(Stage.SUFFIX, roles, roles.shape[1])
        scores = vector["scores"].masked_fill(~ctx.mask, torch.finfo(torch.float32).min)
        rows = bound.rows(0, ctx)
        assert rows == slice(roles.shape[1] - 1, roles.shape[1])
        live = ctx.is_valid[:, None, :, None] & ctx.is_valid[:, None, None, :]
        plain = scores.softmax(-1) * live
        torch.testing.assert_close(plain, vector["attn_plain"], atol=atol, rtol=0)
        edited = plain.clone()
        edited[:, :, rows] = bound.edit_scores(0, scores[:, :, rows], ctx).softmax(-1)
        torch.testing.assert_close(edited, vector["attn_out"], atol=atol, rtol=0)
        assert (edited - plain)[:, :, rows].abs().max() > 100 * atol

        refined = refine_logits(vector["cond_logits"], vector["uncond_logits"], p["gamma"], p["cut"])
        same_as(refined, vector["refined_logits"], vector.tolerance["refined_atol"])
        same_as(
            refine_logits(vector["cond_logits"], vector["uncond_logits"], 1.0, p["cut"]),
            vector["log_cond_gamma1"],
            vector.tolerance["refined_atol"],
        )


def with_class_row(row: Tensor) -> Tensor:
    """(B, H, N + 1, N + 1) weights of which only the class token's, on the patches, are known: (B, H, N)."""
    whole = row.new_full((*row.shape[:2], row.shape[2] + 1, row.shape[2] + 1), float("nan"))
    whole[:, :, 0, 1:] = row
    return whole


def test_dual_stream_maps(dual_stream_maps):
    for vector in dual_stream_maps:
        p, atol = vector.params, vector.tolerance["attn_atol"]
        method = DualStream(
            alpha=p["alpha"],
            beta=p["beta"],
            local_ratio=p["local_ratio"],
            spatial_ratio=float(p["spatial_ratio"]),
            gamma=1.0,
            start=0,
        )
        bound = method.bind(dataclasses.replace(vectors.info(1), vision_class_tokens=1))
        attention = [with_class_row(vector[name]) for name in ("cls_attn_first", "cls_attn_penultimate")]
        groups = bound.mark_patches(attention, 1)[GROUPS]
        assert torch.equal(groups == TOP, vector["top_mask"].bool())
        assert torch.equal(groups == BOTTOM, vector["bottom_mask"].bool())
        assert torch.equal((groups == BOTTOM).sum(1), vector["outliers"].long())

        image = vector["image_mask"].bool()
        ctx = Context(Stage.SUFFIX, vectors.roles(torch.ones_like(image), image), 1)
        ctx.state[GROUPS] = torch.zeros(image.shape, dtype=torch.int64).masked_scatter(image, groups)
        scores = vector["scores_last"][:, :, None]
        edited = bound.edit_scores(0, scores, ctx).softmax(-1)
        torch.testing.assert_close(edited[:, :, 0], vector["attn_last_out"], atol=atol, rtol=0)
        assert (edited - scores.softmax(-1)).abs().max() > 100 * atol


@pytest.mark.parametrize("setting", ["plain", "attn", "cfg", "both"])
@pytest.mark.parametrize("batched", [True, False])
def test_pai_end_to_end(pai_runs, setting, batched):
    for vector in pai_runs:
        p, adapter, atol = vector.params, BareLlama(vector), vector.tolerance["logits_atol"]
        method = Pai(
            alpha=p["alpha"] if setting in ("attn", "both") else 0.0,
            gamma=p["gamma"] if setting in ("cfg", "both") else 1.0,
            cut=p["cut"],
            start=p["layers_start"],
            end=p["layers_end"],
            first_token="code",
        )
        samples = len(vector["input_ids"])
        for rows in [slice(None)] if batched else [slice(i, i + 1) for i in range(samples)]:
            logits, scores, tokens, _ = run(adapter, method, rows=rows)
            assert torch.equal(tokens, vector[f"tokens_{setting}"][rows].long())
            torch.testing.assert_close(logits, vector[f"cond_logits_{setting}"][rows], atol=atol, rtol=0)
            same_as(scores, vector[f"scores_{setting}"][rows], atol)


def gift_method(vector: Vector) -> Gift:
    """The file's hyper-parameters; `saliency_layers` is a list in some files and a count in others."""
    p = vector.params
    layers = p["saliency_layers"]
    return Gift(
        alpha=p["alpha"],
        beta=p["beta"],
        saliency_layers=tuple(range(layers) if isinstance(layers, int) else layers),
        enhance_layers=tuple(p.get("enhance_layers", [0])),
        content="all",
    )


def test_gift_maps(gift_maps):
    for vector in gift_maps:
        method = gift_method(vector)
        layers = method.saliency_layers
        bound = method.bind(vectors.info(max(layers) + 1, {"num_attention_heads": vector.params["heads"]}))
        roles = vectors.roles(vector["attention_mask"], vector["image_mask"], vector["query_mask"])
        n, content = roles.shape[1], vector["content_mask"].bool()
        for cut in (n - 1, int((roles == Role.IMAGE).nonzero()[:, 1].max()) + 1):
            ctx = observe(bound, vector, roles, content, cut)
            last = vector["attn_last"][:, :, None]
            score = bound.shift_score(last, ctx)
            torch.testing.assert_close(score, vector["shift_score"], atol=vector.tolerance["shift_score"], rtol=0)
            found = saliency_map(vector["shift_score"], ctx.is_image, method.alpha)
            torch.testing.assert_close(found, vector["M"], rtol=vector.tolerance["M_rtol"], atol=0)
            edited = bound.edit_weights(0, last, ctx)
            torch.testing.assert_close(ctx.state[MAP], vector["M"], rtol=vector.tolerance["M_rtol"], atol=0)
            torch.testing.assert_close(
                edited, vector["attn_last_out"][:, :, None], atol=vector.tolerance["M_rtol"], rtol=0
            )
        check_gift_rows(vector, bound, roles)


def observe(bound: GiftIntervention, vector: Vector, roles: Tensor, content: Tensor, cut: int) -> Context:
    """Stage A on the rows [0, cut) and [cut, n − 1) as two passes; returns the context of the last row's pass."""
    n = roles.shape[1]
    ctx = Context(Stage.PREFIX, roles[:, :0], 0, emits=False)
    for stage, start, end in ((Stage.PREFIX, 0, cut), (Stage.SUFFIX, cut, n - 1)):
        if start == end:
            continue
        ctx = Context(stage, roles[:, :end], end - start, state=ctx.state, emits=False)
        ctx.state[CONTENT] = content[:, :end]
        for axis, layer in enumerate(bound.saliency):
            rows = bound.rows(layer, ctx)
            assert rows is not None
            weights = vector["attn_saliency"][:, axis, :, start:end, :end][:, :, rows]
            assert torch.equal(bound.edit_weights(layer, weights, ctx), weights)
    last = Context(Stage.SUFFIX, roles, 1, state=ctx.state)
    last.state[CONTENT] = content
    return last


def check_gift_rows(vector: Vector, bound: GiftIntervention, roles: Tensor) -> None:
    """Stage B on the last prompt row and on a decode row, with the file's own M."""
    generated = torch.cat((roles, torch.full((len(roles), 1), int(Role.GENERATED), dtype=torch.uint8)), dim=1)
    for name, stage, keys in (("attn_last", Stage.SUFFIX, roles), ("attn_decode", Stage.DECODE, generated)):
        ctx = Context(stage, keys, 1)
        ctx.state[MAP] = vector["M"]
        given = vector[name][:, :, None]
        edited = bound.edit_weights(0, given, ctx)
        torch.testing.assert_close(
            edited, vector[f"{name}_out"][:, :, None], atol=vector.tolerance["attn_atol"], rtol=0
        )
        assert (edited - given).abs().max() > 100 * vector.tolerance["attn_atol"]


class GivenRows(GiftIntervention):
    """GIFT with the content rows of a file, whose prompts hold no text to find them in."""

    def __init__(self, vector: Vector) -> None:
        config = vector.params["config"]
        bound = gift_method(vector).bind(vectors.info(config["num_hidden_layers"], config))
        super().__init__(bound.method, bound.saliency, bound.enhance)
        self.vector = vector

    def token_marks(self, prompt):
        sample = int(prompt.request.id)
        return {CONTENT: self.vector["content_mask"][sample][self.vector["attention_mask"][sample].bool()].bool()}


@pytest.mark.parametrize("batched", [True, False])
def test_gift_end_to_end(gift_runs, batched):
    for vector in gift_runs:
        adapter, atol = BareLlama(vector), vector.tolerance["logits_atol"]
        samples = len(vector["input_ids"])
        for rows in [slice(None)] if batched else [slice(i, i + 1) for i in range(samples)]:
            logits, _, tokens, ctx = run_bound(adapter, GivenRows(vector), rows)
            torch.testing.assert_close(logits, vector["logits"][rows], atol=atol, rtol=0)
            assert torch.equal(tokens, vector["tokens"][rows].long())
            plain, _, plain_tokens, _ = run_bound(adapter, Intervention(), rows)
            torch.testing.assert_close(plain, vector["logits_plain"][rows], atol=atol, rtol=0)
            assert torch.equal(plain_tokens, vector["tokens_plain"][rows].long())
            seen = ctx.is_image[:, : ctx.state[MAP].shape[1]]
            expected = vector["M"][rows][vector["image_mask"][rows].bool()]
            torch.testing.assert_close(ctx.state[MAP][seen], expected, rtol=vector.tolerance["M_rtol"], atol=0)
            assert ctx.state[MAP][~seen].eq(1).all()
