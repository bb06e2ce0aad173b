"""VAF: which scores are multiplied, by hand; its rows and layers; its neutral parameters."""

import pytest
import torch
from harness import adapter, features, forced_tokens, logits, method, open_stream, requests

from sinkbench.engine.context import Context, Role, Stage
from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.vaf import Vaf, system_tokens

LETTERS = {"_": Role.PAD, "t": Role.TEMPLATE, "i": Role.IMAGE, "q": Role.QUERY}
SAMPLES = (
    "__ttitiqt",  # Padding, system prompt, image with a row separator, question, template behind it.
    "tqtiqti_q",  # The user speaks before the first of two images.
    "_ttqqqqqt",  # No image.
)
ROLES = torch.tensor([[int(LETTERS[letter]) for letter in sample] for sample in SAMPLES], dtype=torch.uint8)
FACTORS = torch.tensor(
    [
        [1, 1, 0.5, 0.5, 3, 1, 3, 1, 1],
        [0.5, 1, 0.5, 3, 1, 1, 3, 1, 1],
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
)


def model(n_layers: int = 6) -> ModelInfo:
    return ModelInfo("m", n_layers=n_layers, n_heads=2, n_kv_heads=2, hidden_size=8)


@pytest.mark.parametrize("stage", [Stage.SUFFIX, Stage.DECODE])
def test_scores_are_multiplied_by_role(stage):
    ctx = Context(stage, ROLES, n_queries=1 if stage is Stage.DECODE else 2)
    scores = torch.randn(3, 2, ctx.n_queries, 9, generator=torch.Generator().manual_seed(0))
    edited = Vaf(enh=3.0, sup=0.5).bind(model()).edit_scores(2, scores, ctx)
    torch.testing.assert_close(edited, scores * FACTORS[:, None, None])


def test_a_negative_score_falls_as_in_the_released_code():
    ctx = Context(Stage.DECODE, ROLES[:1], 1)
    scores = torch.full((1, 1, 1, 9), -2.0)
    edited = Vaf(enh=1.15, sup=0.95).bind(model()).edit_scores(2, scores, ctx)[0, 0, 0]
    torch.testing.assert_close(edited[[2, 4, 7]], torch.tensor([-1.9, -2.3, -2.0]))


def test_masked_keys_get_no_weight():
    ctx = Context(Stage.SUFFIX, ROLES, 2)
    scores = torch.zeros(3, 2, 2, 9).masked_fill(~ctx.mask, torch.finfo(torch.float32).min)
    weights = Vaf(enh=4.0, sup=0.25).bind(model()).edit_scores(2, scores, ctx).softmax(-1)
    assert weights.masked_select(~ctx.mask.expand_as(weights)).eq(0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 2))


def test_the_system_prompt_ends_at_the_first_image_token():
    found = system_tokens(Context(Stage.SUFFIX, ROLES, 2))
    assert found.nonzero().tolist() == [[0, 2], [0, 3], [1, 0], [1, 2]]


def test_rows_are_all_of_suffix_and_decode_and_none_of_the_prefix():
    bound = Vaf(layers=(1, 3)).bind(model())
    for stage, n_queries, expected in (
        (Stage.PREFIX, 4, None),
        (Stage.SUFFIX, 4, slice(0, 4)),
        (Stage.DECODE, 1, slice(0, 1)),
    ):
        ctx = Context(stage, ROLES, n_queries)
        assert [bound.rows(layer, ctx) for layer in range(4)] == [None, expected, None, expected]


@pytest.mark.parametrize(
    ("n_layers", "layers"), [(32, range(9, 15)), (40, range(11, 19)), (6, [2]), (4, [1]), (1, [0])]
)
def test_default_layers_follow_the_depth_of_the_model(n_layers, layers):
    assert Vaf().bind(model(n_layers)).layers == set(layers)


def test_published_values():
    published = get_method("vaf", model="llava")
    assert published.params() == {"enh": 1.15, "sup": 0.95, "layers": (9, 10, 11, 12, 13, 14)}
    assert get_method("vaf", {"vaf.profile": "code"}) == Vaf()
    assert published.bind(model(32)).layers == Vaf().bind(model(32)).layers


def test_argparse_defaults_ask_for_no_rows():
    bound = Vaf(enh=1.0, sup=1.0).bind(model())
    assert all(bound.rows(layer, Context(Stage.DECODE, ROLES, 1)) is None for layer in range(6))


def test_each_factor_acts_alone_and_text_alone_is_left():
    a, asked = adapter("llava"), requests()
    forced = forced_tokens(len(asked), 2)
    plain = logits(a, method("greedy"), asked, forced)
    for params in ({"enh": 3.0, "sup": 1.0}, {"enh": 1.0, "sup": 0.3}):
        edited = logits(a, Vaf(layers=(1, 2), **params), asked, forced)
        changed = (edited - plain).abs().amax((1, 2)) > 1e-4
        assert changed.tolist() == [True] * 6 + [False]
        assert torch.equal(edited[-1], plain[-1])


@torch.inference_mode()
def test_layers_before_the_first_edited_one_see_nothing_of_it():
    a, asked = adapter("llava"), requests()[:3]
    prompts = [a.encode(request) for request in asked]
    caches = []
    for m in (method("greedy"), Vaf(enh=3.0, layers=(3,))):
        stream = open_stream(a, m.bind(a.info), prompts, features(a, asked), 0)
        stream.prefill()
        caches.append(list(stream.cache.keys.values()))
    equal = [torch.equal(plain, edited) for plain, edited in zip(*caches, strict=True)]
    assert equal == [True, True, True, True, False, False]


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"enh": -1.0}, "vaf.enh=-1.0 would turn scores round"),
        ({"sup": float("nan")}, "vaf.sup=nan"),
        ({"enh": float("inf")}, "vaf.enh=inf"),
        ({"layers": [6]}, r"vaf.layers=\[6\]: m has layers 0 to 5"),
    ],
)
def test_mistakes_are_named(params, says):
    with pytest.raises(UsageError, match=says):
        get_method("vaf", params).bind(model())
