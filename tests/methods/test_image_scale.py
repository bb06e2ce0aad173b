"""Image scale: its three modes against their definitions, and what it must leave alone."""

import pytest
import torch
from harness import adapter, features, forced_tokens, logits, method, open_stream, requests

from sinkbench.engine.context import Context, Role, Stage
from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.image_scale import ImageScale

LETTERS = {"_": Role.PAD, "t": Role.TEMPLATE, "i": Role.IMAGE, "q": Role.QUERY}
SAMPLES = ("__tiitqt", "tqiqtiqt", "_tqqqqqt")
ROLES = torch.tensor([[int(LETTERS[letter]) for letter in sample] for sample in SAMPLES], dtype=torch.uint8)
MODES = ("logit_mul", "logit_add_log", "post_softmax_renorm")


def model(n_layers: int = 4) -> ModelInfo:
    return ModelInfo("m", n_layers=n_layers, n_heads=3, n_kv_heads=3, hidden_size=12)


def scores() -> tuple[torch.Tensor, Context]:
    """(3, 3, 2, 8) masked scores of the last two rows."""
    ctx = Context(Stage.SUFFIX, ROLES, 2)
    given = 2 * torch.randn(3, 3, 2, 8, generator=torch.Generator().manual_seed(0))
    return given.masked_fill(~ctx.mask, torch.finfo(torch.float32).min), ctx


def edited(given: torch.Tensor, ctx: Context, **params: object) -> torch.Tensor:
    bound = ImageScale(**params).bind(model())
    return bound.edit_weights(0, bound.edit_scores(0, given, ctx).softmax(-1), ctx)


@pytest.mark.parametrize("factor", [0.3, 1.7, 20.0])
def test_the_modes_do_what_their_names_say(factor):
    given, ctx = scores()
    image = ctx.is_image[:, None, None]
    added = torch.where(image, given + torch.tensor(factor).log(), given).softmax(-1)
    scaled = torch.where(image, factor * given.softmax(-1), given.softmax(-1))
    multiplied = torch.where(image, factor * given, given).softmax(-1)
    for mode, expected in zip(MODES, (multiplied, added, scaled / scaled.sum(-1, keepdim=True)), strict=True):
        found = edited(given, ctx, factor=factor, mode=mode)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found.sum(-1), torch.ones(3, 3, 2))
        assert torch.equal(found[2], given.softmax(-1)[2]), "there is no image"


def test_only_multiplied_scores_can_take_attention_from_the_image():
    ctx = Context(Stage.DECODE, ROLES[:1], 1)
    given = torch.full((1, 1, 1, 8), -3.0).masked_fill(~ctx.is_valid[:, None, None], torch.finfo(torch.float32).min)
    before, of_image = given.softmax(-1), ctx.is_image[0]
    for mode, grows in zip(MODES, (False, True, True), strict=True):
        after = edited(given, ctx, factor=1.5, mode=mode)
        assert (after[..., of_image].sum() > before[..., of_image].sum()) == grows


def test_a_row_that_another_method_shortened_keeps_its_sum():
    given, ctx = scores()
    short = 0.5 * given.softmax(-1)
    found = ImageScale(factor=3.0).bind(model()).edit_weights(0, short, ctx)
    torch.testing.assert_close(found.sum(-1), torch.full((3, 3, 2), 0.5))


@pytest.mark.parametrize("mode", MODES)
def test_rows_and_layers(mode):
    for layers, expected in (((0,), {0}), ((1, 3), {1, 3}), ((), {0, 1, 2, 3})):
        bound = ImageScale(factor=2.0, layers=layers, mode=mode).bind(model())
        for stage, rows in ((Stage.PREFIX, None), (Stage.SUFFIX, slice(0, 2)), (Stage.DECODE, slice(0, 2))):
            ctx = Context(stage, ROLES, 2)
            assert [bound.rows(layer, ctx) for layer in range(4)] == [
                rows if layer in expected else None for layer in range(4)
            ]
    assert ImageScale(factor=1.0, mode=mode).bind(model()).rows(0, Context(Stage.DECODE, ROLES, 1)) is None


def test_weights_need_no_explicit_rows_on_a_gpu():
    assert [ImageScale(mode=mode).bind(model()).is_grouped for mode in MODES] == [False, True, True]


@pytest.mark.parametrize("mode", MODES)
@torch.inference_mode()
def test_before_the_edited_layer_and_without_an_image_nothing_differs(mode):
    a, asked = adapter("llava"), requests()
    forced, m = forced_tokens(len(asked), 2), ImageScale(factor=4.0, layers=(3,), mode=mode)
    caches = []
    for each in (method("greedy"), m):
        stream = open_stream(a, each.bind(a.info), [a.encode(r) for r in asked], features(a, asked), 0)
        stream.prefill()
        caches.append(list(stream.cache.keys.values()))
    equal = [torch.equal(plain, scaled) for plain, scaled in zip(*caches, strict=True)]
    assert equal == [True, True, True, True, False, False]
    scaled, plain = (logits(a, each, asked, forced) for each in (m, method("greedy")))
    assert torch.equal(scaled[-1], plain[-1])
    assert ((scaled - plain)[:-1].abs().amax((1, 2)) > 1e-4).all()


def test_profiles():
    assert get_method("image_scale", {"image_scale.profile": "all-layers"}).params()["layers"] == ()
    assert get_method("image_scale", {"image_scale.profile": "logit-mul"}).params()["mode"] == "logit_mul"
    assert get_method("image_scale").params() == {"factor": 1.2, "layers": (0,), "mode": "logit_add_log"}


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"factor": 0.0}, "image_scale.factor=0.0 scales nothing"),
        ({"factor": float("nan")}, "image_scale.factor=nan"),
        ({"layers": [4]}, r"image_scale.layers=\[4\]: m has layers 0 to 3"),
        ({"mode": "post"}, "image_scale.mode='post' is not 'logit_mul' or 'logit_add_log'"),
    ],
)
def test_mistakes_are_named(params, says):
    with pytest.raises(UsageError, match=says):
        get_method("image_scale", params).bind(model())
