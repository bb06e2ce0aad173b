"""Passes in which tokens are dropped: by hand, against masks that hide them, and in what is counted and stored."""

import pytest
import torch
from harness import CORE_FAMILIES, FAMILIES, adapter, answers, close, features, logits, method, requests, stream

from sinkbench.engine.context import Context, Role, Stage
from sinkbench.engine.generate import Engine
from sinkbench.engine.pruning import Entry, Kept, gather
from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.methods.base import Intervention
from sinkbench.methods.pruning.budget import kept_count, scaled_ratios, top_tokens

LOWEST = torch.finfo(torch.float32).min
families = pytest.mark.parametrize("family", FAMILIES)


def context(*samples: str) -> Context:
    letters = {"_": Role.PAD, "t": Role.TEMPLATE, "i": Role.IMAGE, "q": Role.QUERY}
    roles = torch.tensor([[int(letters[letter]) for letter in sample] for sample in samples], dtype=torch.uint8)
    return Context(Stage.SUFFIX, roles, roles.shape[1])


def test_samples_that_keep_less_are_padded_on_the_left():
    kept = Kept.of(torch.tensor([[1, 0, 1, 1], [0, 0, 0, 1], [1, 1, 0, 1]]) > 0)
    assert kept.index.tolist() == [[0, 2, 3], [-1, -1, 3], [0, 1, 3]]
    assert kept.ragged
    assert not Kept.of(torch.tensor([[1, 0, 1], [0, 1, 1]]) > 0).ragged


def test_merged_tokens_stand_behind_the_last_image_token():
    ctx = context("tiiiqq", "_tiiqq")
    hidden = torch.arange(12.0).view(2, 6, 1)
    entry = Entry(2, hidden, ctx, torch.nn.Identity(), (hidden, hidden))
    keep = torch.tensor([[1, 0, 1, 0, 1, 1], [0, 1, 1, 0, 1, 1]]) > 0
    merged = torch.tensor([[[50.0], [51.0]], [[60.0], [61.0]]])
    at, present = torch.tensor([[1, 3], [3, 0]]), torch.tensor([[True, True], [True, False]])
    kept = Kept.merging(keep, entry, merged, at, present)
    assert kept.index.tolist() == [[0, 2, 1, 3, 4, 5], [-1, 1, 2, 3, 4, 5]]
    assert kept.hidden is not None
    assert kept.hidden[0, :, 0].tolist() == [0, 2, 50, 51, 4, 5]
    assert kept.hidden[1, 1:, 0].tolist() == [7, 8, 60, 10, 11]


def test_gathering_padding_takes_the_first_row():
    assert gather(torch.tensor([[[1.0], [2.0]]]), torch.tensor([[-1, 1]])).flatten().tolist() == [1, 2]


@pytest.mark.parametrize(
    ("keep", "n", "expected"),
    [
        (0.25, 576, 144),
        (0.098, 96, 9),
        (1.0, 7, 7),
        (0.001, 7, 1),
        (0.5, 5, 2),
        (128, 576, 128),
        (128, 60, 60),
        (0.3, 0, 0),
    ],
)
def test_budgets(keep, n, expected):
    assert kept_count(keep, torch.tensor(n)) == expected


def test_top_tokens_by_sample_and_the_earlier_of_equal_ones():
    scores = torch.tensor([[9.0, 1.0, 3.0, 3.0, 2.0], [9.0, 5.0, 5.0, 5.0, 1.0]])
    among = torch.tensor([[0, 1, 1, 1, 1], [0, 1, 1, 1, 1]]) > 0
    chosen = top_tokens(scores, among, torch.tensor([3, 2]))
    assert chosen.int().tolist() == [[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]]


def test_ratios_are_scaled_to_a_mean_over_all_layers():
    ratios = scaled_ratios("x", 128 / 576, (2, 10, 20), (0.32, 0.16, 0.08), 32)
    assert ratios == pytest.approx((0.32, 0.16, 0.08), abs=2e-3)
    assert (2 + 8 * ratios[0] + 10 * ratios[1] + 12 * ratios[2]) / 32 == pytest.approx(128 / 576)
    assert scaled_ratios("x", 0.9, (1, 2), (0.5, 0.25), 4)[0] == 1.0
    with pytest.raises(UsageError, match="layers before the first drop") as error:
        scaled_ratios("x", 0.2, (8, 16, 24), (0.5, 0.25, 0.125), 32)
    assert "layers=[2, 4, 6]" in error.value.hint


@pytest.mark.parametrize("keep", [0, -1, 1.5, float("nan")])
def test_what_is_no_budget(keep):
    with pytest.raises(UsageError, match=r"fastv\.keep"):
        get_method("fastv", {"keep": keep})


class Hides(Intervention):
    """FastV's other form: nothing is dropped, later layers' rows do not see what it would have dropped."""

    whole_prompt = True

    def __init__(self, bound):
        self.bound, self.layer = bound, bound.prunes_at[0]

    def observe_attention(self, layer, view, ctx):
        self.bound.observe_attention(layer, view, ctx)

    def edit_mask(self, layer, mask, ctx):
        if layer < self.layer:
            return mask
        if "kept" not in ctx.scratch:
            ctx.scratch["kept"] = self.bound.keep_tokens(None, ctx).index
        index = ctx.scratch["kept"]
        seen = (
            torch.zeros_like(ctx.roles, dtype=torch.int64).scatter_add_(1, index.clamp_min(0), (index >= 0).long()) > 0
        )
        own = torch.eye(mask.shape[-1], dtype=torch.bool)[-mask.shape[2] :]
        return torch.where(seen[:, None, None] | own, mask, LOWEST)


@pytest.mark.parametrize("layer", [1, 3])
@families
def test_dropping_equals_hiding(family, layer):
    """Of M-RoPE, of features for deeper layers and of ragged batches nothing may be lost with the tokens."""
    a, asked = adapter(family), requests()
    bound = get_method("fastv", {"keep": 0.4, "layer": layer}).bind(a.info)
    dropped, hidden = (first_logits(a, each, asked) for each in (bound, Hides(bound)))
    close(dropped, hidden)
    assert (dropped - first_logits(a, Intervention(), asked)).abs().max() > 1e-3


@torch.inference_mode()
def first_logits(a, bound, asked):
    from harness import open_stream

    return open_stream(a, bound, [a.encode(r) for r in asked], features(a, asked, bound), 1).prefill()


@families
def test_what_was_planned_is_what_was_kept(family):
    a, asked = adapter(family), requests()
    n_layers = a.info.n_layers
    counts = {r.id: a.encode(r).visual_tokens for r in asked}
    fastv = {r.id: r for batch in Engine(a, get_method("fastv", {"keep": 0.25})).answer(asked) for r in batch}
    for key, n in counts.items():
        kept = int(kept_count(0.25, torch.tensor(n)))
        assert fastv[key].tokens_by_layer == (n,) * 2 + (kept,) * (n_layers - 2)
        assert (fastv[key].visual_tokens, fastv[key].visual_tokens_kept) == (n, kept)
    name = {"layers": [1, 4], "ratios": [0.5, 0.25]}
    pdrop = {r.id: r for batch in Engine(a, get_method("pyramiddrop", name)).answer(asked) for r in batch}
    for key, n in counts.items():
        assert pdrop[key].tokens_by_layer == (n, n // 2, n // 2, n // 2, n // 4, n // 4)
    selected = {r.id: r for batch in Engine(a, get_method("uniform", {"keep": 3})).answer(asked) for r in batch}
    for key, n in counts.items():
        images = len(next(r for r in asked if r.id == key).images)
        assert (selected[key].visual_tokens, selected[key].visual_tokens_kept) == (n, 3 * images)


def test_a_run_records_its_budget():
    a, asked = adapter("llava"), requests()[:3]
    n = a.encode(asked[0]).visual_tokens
    engine = Engine(a, get_method("fastv", {"keep": 0.5}))
    list(engine.answer(asked))
    stats = engine.stats()
    text = sum(len(a.encode(r)) - n for r in asked) / len(asked)
    assert stats["visual_tokens_in"] == n
    assert stats["visual_tokens_by_layer"] == [n, n, *[n / 2] * 4]
    assert stats["visual_tokens_kept"] == n / 2
    assert stats["visual_tokens_mean"] == pytest.approx((2 * n + 4 * n / 2) / 6)
    per_token = stats["kv_bytes_per_token"] / 6
    assert stats["prompt_kv_bytes"] == pytest.approx(per_token * (6 * text + 2 * n + 4 * n / 2))
    plain = Engine(a, method("greedy"))
    list(plain.answer(asked))
    assert stats["prefill_macs_image"] < plain.stats()["prefill_macs_image"]
    assert plain.stats()["visual_tokens_mean"] == n


@pytest.mark.parametrize("family", CORE_FAMILIES)
@pytest.mark.parametrize("static", [False, True])
def test_the_cache_holds_no_slots_for_what_was_dropped(family, static):
    a, asked = adapter(family), requests()[:3]
    main = stream(a, get_method("fastv", {"keep": 0.25, "layer": 2}), asked, 3, static=static)
    with torch.inference_mode():
        main.prefill()
        main.step(torch.tensor([5, 6, 7]))
    n = a.encode(asked[0]).visual_tokens
    dropped = n - int(kept_count(0.25, torch.tensor(n)))
    slots = [main.cache.keys[layer].shape[2] for layer in range(a.info.n_layers)]
    assert slots[0] == slots[1]
    assert slots[2:] == [slots[0] - dropped] * (a.info.n_layers - 2)


def test_layers_before_the_drop_are_those_of_the_plain_model():
    a, asked = adapter("llava"), requests()[:1]
    streams = [stream(a, m, asked, 1) for m in (get_method("fastv", {"keep": 0.25}), Whole())]
    with torch.inference_mode():
        for each in streams:
            each.prefill()
    for layer in range(2):
        assert torch.equal(streams[0].cache.keys[layer], streams[1].cache.keys[layer])


class Whole(type(get_method("greedy"))):  # type: ignore[misc]
    """Plain decoding, prompts run whole."""

    class Bound(Intervention):
        whole_prompt = True

    def bind(self, model):
        return self.Bound()


def test_beams_go_on_from_a_pruned_prompt():
    a, asked = adapter("llava"), requests()
    found = answers(a, get_method("fastv+beam", {"fastv.keep": 0.4, "beam.beams": 3}), asked)
    assert found == answers(a, get_method("fastv+beam", {"fastv.keep": 0.4, "beam.beams": 3}), asked, batch_size=1)
    assert found != answers(a, get_method("fastv", {"keep": 0.4}), asked)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("fastv+pyramiddrop", "both drop image tokens"),
        ("divprune+random", "both drop image tokens"),
        ("fastv+var", "counts on where they stood"),
        ("fastv+vcd", "another part edits how they are read"),
        ("fastv+m3id", "counts on where they stood"),
        ("pyramiddrop+pai", "counts on where they stood"),
    ],
)
def test_compositions_that_cannot_be(name, why):
    with pytest.raises(UsageError, match=why):
        get_method(name)


def test_a_layer_that_is_not_there():
    for name, params in (("fastv", {"layer": 0}), ("fastv", {"layer": 6}), ("pyramiddrop", {"layers": [2, 9, 12]})):
        with pytest.raises(UsageError):
            get_method(name, params).bind(adapter("llava").info)
    with pytest.raises(UsageError, match="do not rise, one for each of 3 ratios"):
        get_method("pyramiddrop", {"layers": [3, 2, 4]}).bind(adapter("llava").info)


@pytest.mark.parametrize("family", CORE_FAMILIES)
def test_neutral_budgets_run_the_same_prompt(family):
    a, asked = adapter(family), requests()
    forced = torch.zeros(len(asked), 0, dtype=torch.int64)
    whole = logits(a, Whole(), asked, forced)
    assert torch.equal(logits(a, get_method("fastv", {"keep": 1.0}), asked, forced), whole)
