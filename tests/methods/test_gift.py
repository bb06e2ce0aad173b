"""GIFT's invariants on random attention maps and tiny models."""

from dataclasses import replace
from math import exp

import pytest
import torch
from harness import adapter, features, image, open_stream, requests
from harness import request as ask

from sinkbench.engine.context import Context, Role, Stage
from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.gift import CONTENT, MAP, Gift, GiftIntervention, saliency_map
from sinkbench.request import Message, Request

HEADS, KEYS = 5, 14
PARAMS = {"saliency_layers": [2], "enhance_layers": [1, 3, 4]}


def model(n_layers: int = 6, name: str = "m") -> ModelInfo:
    return ModelInfo(name, n_layers=n_layers, n_heads=HEADS, n_kv_heads=HEADS, hidden_size=64)


def row(**params) -> tuple[torch.Tensor, torch.Tensor, Context]:
    """A last row (2, H, 1, K) before and after; sample 1 is padded and has no image."""
    generator = torch.Generator().manual_seed(0)
    roles = torch.full((2, KEYS), int(Role.TEMPLATE), dtype=torch.uint8)
    roles[0, 2:8], roles[:, 9:13] = int(Role.IMAGE), int(Role.QUERY)
    roles[1, :3] = int(Role.PAD)
    scores = torch.randn(2, HEADS, 1, KEYS, generator=generator).masked_fill(
        (roles == Role.PAD)[:, None, None], -torch.inf
    )
    given = scores.softmax(-1)
    ctx = Context(Stage.DECODE, roles, 1, step=1)
    alpha = params.get("alpha", 5.0)
    ctx.state[MAP] = saliency_map(torch.rand(2, KEYS, generator=generator), ctx.is_image, alpha)
    return given, Gift(**params).bind(model()).edit_weights(3, given, ctx), ctx


def test_amplified_rows_sum_to_one_and_half_of_the_heads_gain():
    given, edited, ctx = row()
    torch.testing.assert_close(edited.sum(-1), torch.ones(2, HEADS, 1))
    gain = edited[0, :, 0] / given[0, :, 0]
    rest = (ctx.roles[0] == Role.TEMPLATE).nonzero()[:, 0]
    gain = gain / gain[:, rest[:1]]  # Renormalisation scales a whole head: measure against a token nobody amplifies.
    torch.testing.assert_close(gain[:, rest], torch.ones(HEADS, len(rest)))
    visual, textual = gain[:, 2:8], gain[:, 9:13]
    in_visual, in_query = (visual - 1).abs().amax(1) > 1e-5, (textual - 1).abs().amax(1) > 1e-5
    assert in_visual.sum() == in_query.sum() == HEADS // 2
    mass = given[0, :, 0, 2:8].sum(-1)
    assert mass[in_visual].min() >= mass[~in_visual].max()
    torch.testing.assert_close(visual[in_visual], ctx.state[MAP][0, 2:8].expand(int(in_visual.sum()), -1))
    ratio = textual[in_query]
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio))
    kept = given[0, in_visual, 0, 2:8]
    assert ratio[0, 0].item() == pytest.approx(((kept * ctx.state[MAP][0, 2:8]).sum() / kept.sum()).item())
    assert 1 <= ratio[0, 0] <= exp(5)


def test_beta_scales_the_query_and_alpha_zero_leaves_the_row():
    given, edited, _ = row(alpha=0.0)
    torch.testing.assert_close(edited, given)
    _, scaled, _ = row(alpha=0.0, beta=2.0)
    factor = scaled[0, :, 0] / given[0, :, 0]
    factor = (factor / factor[:, :1])[:, 9:13]
    assert sorted(factor.amax(1).round(decimals=4).tolist()) == [1.0] * 3 + [2.0] * 2


def test_without_an_image_nothing_changes_whatever_beta():
    given, edited, _ = row(beta=3.0)
    torch.testing.assert_close(edited[1], given[1])


def test_saliency_map_spans_its_range_clips_outliers_and_is_one_elsewhere():
    scores = torch.cat((torch.linspace(0, 1, 40), torch.tensor([1000.0])))[None].repeat(3, 1)
    image = torch.ones(3, 41, dtype=torch.bool)
    image[0, 40] = False
    image[2] = False
    found = saliency_map(scores, image, 5.0)
    assert found[:2].amin(1).tolist() == [1, 1]
    torch.testing.assert_close(found[:2].amax(1), torch.full((2,), exp(5)))
    assert found[0, 39] == found[0].max()
    assert found[0, 40] == 1
    of_image = scores[1].double()
    clipped = of_image.clamp(max=of_image.mean() + 3 * of_image.std())
    expected = (5 * (clipped - clipped.min()) / (clipped.max() - clipped.min())).exp().float()
    torch.testing.assert_close(found[1], expected, rtol=1e-4, atol=0)
    assert found[2].eq(1).all()


def test_equal_scores_amplify_nothing():
    image = torch.ones(2, 6, dtype=torch.bool)
    image[1, 1:] = False  # One image token has no deviation.
    assert saliency_map(torch.full((2, 6), 0.1), image, 5.0).eq(1).all()


class TwoPass(GiftIntervention):
    """The released form: stage A over a whole prompt, then stage B over the prompt anew, with M given."""

    last_token_alone = False

    def __init__(self, bound: GiftIntervention, amplifies: torch.Tensor | None) -> None:
        super().__init__(bound.method, bound.saliency, bound.enhance)
        self.amplifies = amplifies

    def rows(self, layer, ctx):
        if self.amplifies is None:
            return ctx.all_rows if layer in self.saliency and ctx.stage is not Stage.DECODE else None
        return super().rows(layer, ctx) if ctx.emits else None

    def edit_weights(self, layer, weights, ctx):
        if self.amplifies is None:
            self.observe_shifts(layer, weights, ctx)
            return weights
        ctx.state[MAP] = self.amplifies
        return super().edit_weights(layer, weights, ctx)


@pytest.mark.parametrize("family", ["llava", "llava_next"])
@torch.inference_mode()
def test_one_prefill_equals_two_passes(family):
    a, asked = adapter(family), requests()
    bound = get_method("gift", PARAMS).bind(a.info)
    prompts, seen = [a.encode(r) for r in asked], features(a, asked)
    ours = open_stream(a, bound, prompts, seen, 1)
    actual = ours.prefill()

    first = open_stream(a, TwoPass(bound, None), prompts, seen, 1)
    first.prefill()
    heads = torch.zeros(len(asked), a.info.n_heads, 1, first.context.n_keys)
    found = saliency_map(bound.shift_score(heads, first.context), first.context.is_image, bound.method.alpha)
    torch.testing.assert_close(ours.context.state[MAP], found, rtol=1e-3, atol=1e-4)
    second = open_stream(a, TwoPass(bound, found), prompts, seen, 1)
    torch.testing.assert_close(actual, second.prefill(), rtol=1e-4, atol=2e-4)
    assert found[: len(asked) - 1].amax(1).tolist() == pytest.approx([exp(5)] * (len(asked) - 1))


@torch.inference_mode()
def test_only_the_last_row_of_the_prompt_differs_from_greedy():
    a, asked = adapter("llava"), requests()
    caches = []
    for name, params in (("greedy", {}), ("gift", PARAMS)):
        bound = get_method(name, params).bind(a.info)
        stream = open_stream(a, bound, [a.encode(r) for r in asked], features(a, asked), 0)
        stream.prefill()
        valid = stream.context.is_valid[:, stream.n_prefix :].clone()
        caches.append([keys.transpose(1, 2)[valid] for keys in stream.cache.keys.values()])
    last = valid.sum(1).cumsum(0) - 1
    before_last = torch.ones(int(valid.sum()), dtype=torch.bool).index_fill(0, last, False)
    for plain, edited in zip(*caches, strict=True):
        torch.testing.assert_close(plain[before_last], edited[before_last], atol=2e-5, rtol=1e-4)
    changed = [(plain - edited)[last[:-1]].abs().max() > 1e-3 for plain, edited in zip(*caches, strict=True)]
    assert changed == [False, False, True, True, True, True]  # The first enhanced layer is 1, below the saliency layer.


def counted(a, text: str, *images, **params) -> list[str]:
    bound = get_method("gift", params).bind(a.info)
    prompt = a.encode(ask("r", text, *images))
    return a.tokenizer.convert_ids_to_tokens(prompt.ids[bound.token_marks(prompt)[CONTENT]].tolist())


def test_the_rows_that_count():
    a, picture = adapter("llava"), image(0)
    question = "<image>\nhow many red dog do you see in the dog image ?"
    assert counted(a, question, picture) == ["how", "many", "red", "dog", "see", "dog", "image"]
    assert counted(a, question, picture, dedupe_words=True) == ["how", "many", "red", "see", "dog", "image"]
    assert counted(a, question, picture, content="all") == question.split()[1:]
    assert counted(a, "<image>\nyou , is in the .", picture) == ["you", ",", "is", "in", "the", "."]
    assert counted(a, "is there a cat <image> and a dog <image> ?", picture, picture) == ["is", "cat", "dog"]


def test_the_last_token_never_counts():
    """Stage B edits its row, so stage A cannot look at it; it can be the user's where a template adds nothing."""
    a = adapter("llava")
    prompt = a.encode(Request("r", (Message("user", "<image>\nred dog"),), (image(0),)))
    bound = get_method("gift").bind(a.info)
    end = int((prompt.roles == Role.QUERY).nonzero()[-1]) + 1
    cut = replace(prompt, ids=prompt.ids[:end], roles=prompt.roles[:end], positions=prompt.positions[:, :end])
    marks = bound.token_marks(cut)[CONTENT]
    assert a.tokenizer.convert_ids_to_tokens(cut.ids[marks].tolist()) == ["red"]


@pytest.mark.parametrize(
    ("n_layers", "saliency", "enhance"),
    [(32, (11,), tuple(range(12, 23))), (6, (2,), (3, 4)), (2, (1,), None), (4, (1,), (2, 3))],
)
def test_default_layers_follow_the_depth_of_the_model(n_layers, saliency, enhance):
    if enhance is None:
        with pytest.raises(UsageError, match="m has layers 0 to 1"):
            Gift().bind(model(n_layers))
        return
    bound = Gift().bind(model(n_layers))
    assert (bound.saliency, bound.enhance) == (saliency, enhance)


def test_published_layers_of_the_models():
    assert get_method("gift", model="llava").bind(model(32)).enhance == tuple(range(12, 23))
    larger = get_method("gift", model="llava-13b").bind(model(40))
    assert (larger.saliency, larger.enhance) == ((10,), tuple(range(14, 21)))
    assert get_method("gift", {"gift.profile": "code"}, model="llava-13b").params()["dedupe_words"]
    assert get_method("gift", {"gift.profile": "paper"}, model="llava-13b").params()["saliency_layers"] == (10,)
    tiny = get_method("gift", model="tiny-llava")
    assert (tiny.params()["saliency_layers"], tiny.params()["enhance_layers"]) == ((3,), (4, 5, 6))


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"alpha": -1.0}, "GIFT only amplifies"),
        ({"beta": 0.0}, "GIFT only amplifies"),
        ({"saliency_layers": [6]}, r"gift.saliency_layers=\[6\]: m has layers 0 to 5"),
        ({"enhance_layers": [2, 9]}, r"gift.enhance_layers=\[2, 9\]: m has layers 0 to 5"),
        ({"content": "nouns"}, "gift.content='nouns' is not 'pos' or 'all'"),
    ],
)
def test_mistakes_are_named(params, says):
    with pytest.raises(UsageError, match=says):
        get_method("gift", params).bind(model())


def test_without_the_tagger_only_pos_is_refused(monkeypatch):
    monkeypatch.setattr("sinkbench.methods.content_words.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="textblob is not installed"):
        Gift().bind(model())
    a = adapter("llava")
    monkeypatch.setattr("sinkbench.methods.gift.content_words", lambda *_: pytest.fail("asked for content words"))
    assert counted(a, "<image>\nred dog ?", image(0), content="all") == ["red", "dog", "?"]
