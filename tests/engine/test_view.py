"""What an observer sees against transformers' own eager attention, float32, however prompts are laid out."""

import pytest
import torch
from harness import (
    FAMILIES,
    adapter,
    answers,
    close,
    count_hooks,
    features,
    forced_tokens,
    logits,
    open_stream,
    requests,
)
from observers import Keeps, Shown, expected, kept

from sinkbench.engine import columns
from sinkbench.engine.columns import Sums
from sinkbench.engine.context import Context, Stage
from sinkbench.engine.kernels import PAD
from sinkbench.engine.keys import LayerKeys
from sinkbench.engine.observe import observe
from sinkbench.engine.prefix import prefill_prefixes
from sinkbench.engine.view import AttentionView
from sinkbench.errors import SinkbenchError
from sinkbench.methods import get_method
from sinkbench.methods.base import Intervention
from sinkbench.methods.composed import ComposedIntervention

LAYERS = 6
families = pytest.mark.parametrize("family", FAMILIES)
some_families = pytest.mark.parametrize("family", ["llava", "qwen3_vl", "internvl"])


def seen(a, asked, probe=None, **options) -> dict[str, dict[str, torch.Tensor]]:
    """What was kept of each request, by its id."""
    prompts = [a.encode(r) for r in asked]
    batches = list(observe(a, probe or Keeps(LAYERS), prompts, **options))
    return {batch.prompts[row].request.id: kept(batch, row) for batch in batches for row in range(len(batch.prompts))}


def same(actual: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Equal up to rounding, which is that of the largest values."""
    assert actual.keys() == wanted.keys()
    for name, values in wanted.items():
        error = (actual[name] - values).abs().max() / values.abs().max().clamp_min(1)
        assert error < 1e-4, name


@families
def test_a_batch_of_ragged_prompts_shows_what_transformers_computes(family):
    """Shared and own images, two images in a prompt, none; X[L] is the input of the final norm."""
    a, asked = adapter(family), requests()
    ours = seen(a, asked)
    for request in asked:
        same(ours[request.id], expected(a, request))


@some_families
@pytest.mark.parametrize(
    "options",
    [{"share": False}, {"batch_size": 1}, {"pass_tokens": 1}, {"probe": Keeps(LAYERS, last_token_alone=True)}],
    ids=["unshared", "singles", "passes", "last token alone"],
)
def test_the_layout_of_a_batch_is_irrelevant(family, options):
    a, asked = adapter(family), requests()
    ours, others = seen(a, asked), seen(a, asked, **options)
    for request in asked:
        same(others[request.id], ours[request.id])


def test_text_alone_is_one_pass():
    a, asked = adapter("llava"), requests()[-1:]
    same(seen(a, asked)["text"], expected(a, asked[0]))


def sums_by_definition(query, keys, codes, own_length, scaling):
    """What the column kernels compute, of what they are told."""
    slots = torch.arange(keys.n_prefix + own_length)
    rows = slots[-query.shape[2] :]
    valid = codes != PAD
    visible = (slots <= rows[:, None]) & valid[:, None] | (slots == rows[:, None])
    scores, counted = keys.scores(query, scaling), valid[:, None, rows, None]
    weights = scores.masked_fill(~visible[:, None], -torch.inf).softmax(-1) * counted
    plogp = torch.xlogy(weights, weights)
    score_sums = scores.where(visible[:, None] & counted, 0).sum(3)
    return Sums(weights.sum(2), plogp.sum(2), -plogp.sum(3), score_sums)


@some_families
def test_what_the_column_kernels_are_told(family, monkeypatch):
    a, asked = adapter(family), requests()
    ours = seen(a, asked)
    monkeypatch.setattr(columns, "has_kernels", lambda _: True)
    monkeypatch.setattr(columns, "kernel_sums", sums_by_definition)
    monkeypatch.setattr(columns, "plain_sums", None)
    by_kernels = seen(a, asked)
    for request in asked:
        same(by_kernels[request.id], ours[request.id])


class SeesBoth(Intervention):
    """Compares the sums with the explicit weights that edits are shown."""

    def __init__(self) -> None:
        self.checked: list[Stage] = []

    def rows(self, layer, ctx):
        return ctx.all_rows

    def edit_weights(self, layer, weights, ctx):
        self.weights = weights
        return weights

    def observe_attention(self, layer, view, ctx):
        counted = self.weights * ctx.valid_rows[:, None, :, None]
        torch.testing.assert_close(view.columns().mass, counted.sum(2))
        torch.testing.assert_close(view.columns().plogp, torch.xlogy(counted, counted).sum(2))
        torch.testing.assert_close(view.rows(ctx.all_rows), self.weights)
        heads = view.keys.mix(self.weights).transpose(1, 2)
        torch.testing.assert_close(view.heads[ctx.valid_rows], heads[ctx.valid_rows], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(view.value_norms(), view.new_values.norm(dim=-1))
        scores = view.scores(ctx.all_rows)
        if ctx.stage is Stage.DECODE:
            others = ctx.is_valid.clone()
            others[torch.arange(len(others)), ctx.first_slot] = False
            mean = (scores[:, :, 0] * others[:, None]).sum(-1) / others.sum(-1, keepdim=True)
            first = scores[:, :, 0].gather(-1, ctx.first_slot[:, None, None].expand(-1, scores.shape[1], 1))[..., 0]
            gap, rows = view.logit_gap()
            torch.testing.assert_close(gap, first - mean)
            assert rows.tolist() == [1] * len(rows)
        self.checked.append(ctx.stage)


@some_families
@pytest.mark.parametrize("static", [False, True])
def test_decode_passes_show_their_row(family, static):
    """Also where slots are still empty, as on a GPU."""
    a, asked, both = adapter(family), requests(), SeesBoth()
    forced = forced_tokens(len(asked), 3)
    logits(a, Shown(both), asked, forced, static=static)
    passes = {stage: both.checked.count(stage) // LAYERS for stage in Stage}
    assert passes == {Stage.VISION: 0, Stage.PREFIX: 1, Stage.SUFFIX: 1, Stage.DECODE: 3}


class NotesNew(Intervention):
    """Keeps the keys that each pass shows as its own."""

    def observe_attention(self, layer, view, ctx):
        if layer == 3 and ctx.stage is Stage.DECODE:
            before = ctx.state.get("new")
            new = view.new_keys[:, :, 0].flatten(1)
            ctx.state["new"] = new[..., None] if before is None else torch.cat((before, new[..., None]), dim=-1)


def test_new_keys_are_those_of_the_token_in_flight():
    a, asked = adapter("llava"), requests()
    forced = forced_tokens(len(asked), 3)
    noted = []
    for static in (False, True):
        stream = open_stream(a, NotesNew(), [a.encode(r) for r in asked], features(a, asked), 3, static=static)
        with torch.inference_mode():
            stream.prefill()
            for tokens in forced.T:
                stream.step(tokens)
        noted.append(stream.state["new"])
        length = stream.suffix.ids.shape[1]
        cached = stream.cache.keys[3][:, :, length:].permute(0, 1, 3, 2).flatten(1, 2)
        torch.testing.assert_close(noted[-1], cached)
    torch.testing.assert_close(*noted)


@families
def test_an_observer_changes_no_logit_and_no_answer(family):
    a, asked = adapter(family), requests()
    forced = forced_tokens(len(asked))
    plain, watched = (logits(a, m, asked, forced) for m in (Shown(Intervention()), Shown(Keeps(LAYERS))))
    assert torch.equal(plain, watched)
    assert answers(a, Shown(Keeps(LAYERS)), asked) == answers(a, get_method("greedy"), asked)


@some_families
def test_a_composition_shows_its_parts_everything(family):
    a, asked = adapter(family), requests()
    prompts, forced = [a.encode(r) for r in asked], forced_tokens(len(asked), 2)
    var = get_method("var", {"tau": 1.2, "rho": 0.2, "s0": 0.05, "take": 0.9}, a.preset.name)
    both = ComposedIntervention([var.bind(a.info), Keeps(LAYERS)])
    assert both.observes_attention
    assert both.observes_mlp
    assert not both.capturable
    close(logits(a, Shown(both), asked, forced), logits(a, var, asked, forced))
    edited = next(observe(a, both, prompts))
    plain = next(observe(a, Keeps(LAYERS), prompts))
    assert set(plain.state) < set(edited.state)
    close(edited.state["mass.2"], plain.state["mass.2"])
    assert (edited.state["heads.2"] - plain.state["heads.2"]).abs().max() > 1e-3
    idle = ComposedIntervention([var.bind(a.info)])
    assert not idle.observes_attention
    assert not idle.observes_mlp


def test_methods_that_share_a_prefix_each_see_it():
    a, asked = adapter("llava"), requests()
    prompts = [a.encode(r) for r in asked]

    def prefixes(*names):
        methods = {name: Keeps(LAYERS) for name in names}
        with torch.inference_mode():
            return prefill_prefixes(a, methods, prompts, features(a, asked)).states

    alone, together = prefixes("one")["one"], prefixes("one", "two")
    for name, values in alone.items():
        assert torch.equal(together["one"][name], values)
        assert torch.equal(together["two"][name], values)


@pytest.mark.parametrize("hook", ["observe_hidden", "observe_attention", "observe_mlp"])
def test_hooks_leave_with_an_exception(hook):
    a, prompts = adapter("qwen3_vl"), [adapter("qwen3_vl").encode(r) for r in requests()]
    before = count_hooks(a.model)
    probe = Keeps(LAYERS)

    def explode(layer, *_):
        if layer == 2:
            raise ZeroDivisionError

    setattr(probe, hook, explode)
    with pytest.raises(ZeroDivisionError):
        list(observe(a, probe, prompts))
    assert count_hooks(a.model) == before
    assert a.language_model.config._attn_implementation == "sdpa"


def test_a_model_without_the_modules_is_refused(monkeypatch):
    a, prompts = adapter("llava"), [adapter("llava").encode(requests()[0])]
    before = count_hooks(a.model)
    monkeypatch.delitem(a.layers[4].mlp._modules, "up_proj")
    with pytest.raises(SinkbenchError, match=r"LlamaMLP has no module 'up_proj'"):
        list(observe(a, Keeps(LAYERS), prompts))
    assert count_hooks(a.model) == before


def test_output_norms_of_a_head_that_loses_dimensions():
    """A pruned head maps everything to 0, and a head of low rank what lies outside it; rounding breaks neither."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 3 * 8, generator=generator)
    weight[:, 8:16] = 0
    weight[:, 17:24] = weight[:, 16:17]
    values = torch.randn(2, 3, 5, 8, generator=generator)
    values[0, 2, 0] = torch.tensor([1.0, -1, 0, 0, 0, 0, 0, 0])
    ctx = Context(Stage.SUFFIX, torch.ones(2, 5, dtype=torch.uint8), 5)
    view = AttentionView(values, LayerKeys(values, values), 1.0, ctx, values, values, values, weight)
    norms = view.output_norms()
    exact = torch.einsum("ohd,bhqd->bhqo", weight.view(24, 3, 8), values).norm(dim=-1)
    torch.testing.assert_close(norms, exact, atol=1e-4, rtol=1e-5)
    assert norms[0, 2, 0] < 1e-4
