"""Dual-stream selection: sets by hand, what is done to them, and the spec's invariants."""

import pytest
import torch
from harness import adapter, answers, close, forced_tokens, image, logits, method, preprocessed, request, requests

from sinkbench.engine.context import Context, Role, Stage
from sinkbench.engine.marks import all_marks, mark_images
from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.methods.dual_stream import BOTTOM, GROUPS, TOP, DualStream, outliers, top_share
from sinkbench.methods.facts import ModelInfo

INFO = ModelInfo("m", n_layers=6, n_heads=2, n_kv_heads=2, hidden_size=8, vision_class_tokens=1)
PLAIN = DualStream(gamma=1.0)


def test_the_top_share_rounds_down_and_is_taken_view_by_view():
    scores = torch.tensor([[1.0, 5, 2, 4, 3, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0.1, 0.3, 0.2, 0]])
    assert [row.nonzero().flatten().tolist() for row in top_share(scores, 0.25)] == [[1, 3], [7, 8]]
    assert not top_share(scores, 0.09).any()
    assert top_share(scores, 1.0).all()


def test_outliers_lie_above_the_upper_fence():
    """Of 0 to 8 and 20: Q1 = 2.25, Q3 = 6.75, the fence lies at 13.5; in the other view of 1 to 9 and 13.5 at it."""
    scores = torch.tensor([[*range(9), 20], [*range(9), 13.5]], dtype=torch.float32)
    assert [row.nonzero().flatten().tolist() for row in outliers(scores)] == [[9], []]
    assert not outliers(torch.ones(1, 5)).any()


def weights(*rows) -> torch.Tensor:
    """(1, 1, N, N): the given query rows, zero below."""
    whole = torch.zeros(1, 1, len(rows[0]), len(rows[0]))
    whole[0, 0, : len(rows)] = torch.tensor(rows)
    return whole


FIRST = weights([9.0, 1, 2, 3, 4, 5, 6, 7, 8], [9.0, 0, 0, 0, 0, 0, 0, 0, 0], [0.0, 5, 0, 0, 4, 0, 0, 0, 0])
PENULTIMATE = weights([0.0, 0, 0, 0, 0, 0, 0, 0, 9])


@pytest.mark.parametrize(
    ("params", "groups"),
    [
        # Patches 6 and 7 are looked at most; 7 is an outlier as well and leaves.
        ({}, [0, 0, 0, 0, 0, 0, TOP, BOTTOM]),
        ({"local_ratio": 0.5}, [0, 0, 0, 0, TOP, TOP, TOP, BOTTOM]),
        ({"local_ratio": 0.0}, [0, 0, 0, 0, 0, 0, 0, BOTTOM]),
        # Patches 0 and 3 receive most from patches; what the class token gives does not count.
        ({"spatial_ratio": 0.25}, [TOP, 0, 0, TOP, 0, 0, TOP, BOTTOM]),
        # No class token's row: the outlier of the penultimate layer is looked at by the class token alone.
        ({"queries": "mean"}, [TOP, 0, 0, TOP, 0, 0, 0, 0]),
    ],
)
def test_patches_by_hand(params, groups):
    bound = PLAIN.replace(**params).bind(INFO)
    assert bound.mark_patches([FIRST, PENULTIMATE], 1)[GROUPS].tolist() == [groups]


def test_heads_are_summed_and_an_encoder_without_class_token_has_patches_only():
    bound = PLAIN.replace(queries="mean", local_ratio=0.5).bind(INFO)
    first = torch.tensor([[[0.0, 1, 3, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]])
    other = torch.tensor([[[0.0, 0, 0, 0], [0, 0, 0, 0], [0, 2.5, 0, 0], [2, 0, 0, 0]]])
    seen = torch.stack((first, other), dim=1)
    assert bound.looked_at(seen, 0).tolist() == [[0.5, 0.875, 0.75, 0]]
    assert bound.mark_patches([seen, torch.zeros_like(seen)], 0)[GROUPS].tolist() == [[0, TOP, TOP, 0]]


LOW, HIGH = torch.tensor([0.25, 0.75]), torch.tensor([0.75, 0.25])
"""Quartiles of 16 values lie at 3.75 and 11.25: weights of the neighbours."""

ROLES = torch.tensor([[0, 1, 2, 2, 2, 3], [1, 2, 2, 2, 2, 1]], dtype=torch.uint8)
SETS = torch.tensor([[0, 0, TOP, BOTTOM, 0, 0], [0, TOP, 0, 0, BOTTOM, 0]])


def context(stage: Stage) -> Context:
    """A pass that emits; in decode passes the generated token stands behind the prompt."""
    roles = ROLES
    if stage is Stage.DECODE:
        roles = torch.cat((ROLES, torch.full((2, 1), int(Role.GENERATED), dtype=torch.uint8)), dim=1)
    ctx = Context(stage, roles, 1)
    ctx.state[GROUPS] = SETS
    return ctx


@pytest.mark.parametrize("stage", [Stage.SUFFIX, Stage.DECODE])
def test_scores_grow_by_set(stage):
    ctx, bound = context(stage), PLAIN.bind(INFO)
    scores = torch.randn(2, 2, 1, ctx.n_keys, generator=torch.Generator().manual_seed(0))
    gains = torch.nn.functional.pad(0.7 * (SETS == TOP) + 0.4 * (SETS == BOTTOM), (0, ctx.n_keys - 6))
    torch.testing.assert_close(bound.edit_scores(2, scores, ctx), scores + gains[:, None, None] * scores.abs())
    assert bound.is_grouped
    assert bound.capturable


def test_sensitive_heads_by_hand():
    """Head 0 gives the image e/(e+1), head 1 gives it half: its alpha is ½·(e+1)/e of head 0's."""
    roles = torch.tensor([[int(Role.IMAGE), int(Role.IMAGE), int(Role.QUERY)]], dtype=torch.uint8)
    ctx = Context(Stage.DECODE, roles, 1)
    ctx.state[GROUPS] = torch.tensor([[TOP, BOTTOM, 0]])
    half = float(torch.tensor(0.5).log())
    scores = torch.tensor([[[[1 + half, 1 + half, 0]], [[half, half, 0]]]])
    bound = PLAIN.replace(heads="sensitive", alpha=0.8, beta=0.3).bind(INFO)
    share = 0.5 * (torch.e + 1) / torch.e
    gains = torch.tensor([[[[0.8, 0.3, 0]], [[0.8 * share, 0.3, 0]]]])
    torch.testing.assert_close(bound.edit_scores(2, scores, ctx), scores + gains * scores.abs())
    assert not bound.is_grouped
    blind = Context(Stage.DECODE, torch.full((1, 3), int(Role.QUERY), dtype=torch.uint8), 1)
    assert torch.equal(bound.edit_scores(2, scores, blind), scores)


def test_rows_layers_and_the_quirk():
    suffix, decode = context(Stage.SUFFIX), context(Stage.DECODE)
    last = slice(0, 1)
    for params, first in (
        ({"gamma": 1.0}, last),
        ({"gamma": 1.1}, None),
        ({"gamma": 1.1, "first_token": "always"}, last),
    ):
        bound = DualStream(**params).bind(INFO)
        assert [bound.rows(layer, decode) for layer in range(6)] == [None, None, last, last, last, last]
        assert [bound.rows(layer, suffix) for layer in range(6)] == [None, None, first, first, first, first]
        prefix = Context(Stage.PREFIX, ROLES, 6, emits=False)
        assert bound.rows(3, prefix) is None


def groups_of(a, m, asked) -> list[torch.Tensor]:
    """(n,) groups of each prompt's image tokens."""
    prompts, bound = [a.encode(r) for r in asked], m.bind(a.info)
    marks = all_marks(bound, prompts, mark_images(a, bound, prompts, preprocessed(a, prompts)))
    return [own[GROUPS][prompt.roles == Role.IMAGE] for own, prompt in zip(marks, prompts, strict=True)]


@pytest.mark.parametrize("family", ["llava", "llava_next", "internvl", "internvl3_5"])
@torch.inference_mode()
def test_sets_depend_on_the_image_alone(family):
    """Families with a class token run with the defaults."""
    a, asked = adapter(family), requests()
    wide, same, again, tall, square, both, text = groups_of(a, PLAIN, asked)
    assert torch.equal(wide, same)
    assert torch.equal(wide, again)
    assert torch.equal(both, torch.cat((wide, square)))
    assert not len(text)
    for groups in (wide, tall, square):
        assert (groups == TOP).any()
        assert not (groups == TOP).all()


@torch.inference_mode()
def test_sets_are_those_of_the_encoders_own_attention():
    """LLaVA's patches are its tokens: the sets by definition, from eager attention of the first and last but one."""
    a, found = adapter("llava"), set()
    asked = [request(f"{seed}", "<image> is there a cat ?", image(seed, 50, 40)) for seed in range(8)]
    for one, groups in zip(asked, groups_of(a, PLAIN, asked), strict=True):
        a.vision.set_attn_implementation("eager")
        pixels = a.preprocess(one.images[0]).tensors["pixel_values"]
        attentions = a.vision(pixels, output_attentions=True).attentions
        a.vision.set_attn_implementation("sdpa")
        first, penultimate = (attentions[layer][0, :, 0, 1:].sum(0) for layer in (0, len(attentions) - 2))
        low, high = (float(penultimate.sort().values[at : at + 2] @ w) for at, w in ((3, LOW), (11, HIGH)))
        bottom = {patch for patch in range(16) if penultimate[patch] > high + 1.5 * (high - low)}
        top = set(first.argsort(descending=True)[:4].tolist()) - bottom
        expected = [BOTTOM if patch in bottom else TOP if patch in top else 0 for patch in range(16)]
        assert groups.tolist() == expected
        found |= set(expected)
    assert found == {0, TOP, BOTTOM}


@pytest.mark.parametrize("family", ["llava", "llava_onevision", "internvl", "qwen2_5_vl"])
def test_equal_gains_on_everything_are_pais(family):
    """Spec §8: with alpha = beta = a and every patch in a set it is PAI's first part; and both parts with gamma."""
    a, asked, forced = adapter(family), requests(), forced_tokens(len(requests()))
    for gamma in (1.0, 1.4):
        both = {"alpha": 0.6, "gamma": gamma}
        m = get_method("dual_stream", {**both, "beta": 0.6, "local_ratio": 1.0, "queries": "mean"})
        close(logits(a, m, asked, forced), logits(a, get_method("pai", both), asked, forced))
        assert answers(a, m, asked) == answers(a, get_method("pai", both), asked)


def test_each_part_counts():
    """The top set, the outliers and the heads each change the logits, the first row only where the quirk lets it."""
    a, forced = adapter("internvl"), forced_tokens(1, 2)
    asked = [request("r", "<image>\nwhat do you see ?", image(3, 97, 31))]
    base = {"queries": "mean", "gamma": 1.0, "alpha": 0.0, "beta": 0.0}
    plain = logits(a, method("greedy"), asked, forced)
    (groups,) = groups_of(a, get_method("dual_stream", base), asked)
    assert set(groups.tolist()) == {0, TOP, BOTTOM}, "the image was chosen so"

    def change(**params) -> list[float]:
        found = logits(a, get_method("dual_stream", {**base, **params}), asked, forced)
        return (found.log_softmax(-1) - plain.log_softmax(-1)).abs().amax((0, 2)).tolist()

    assert change() == [0, 0, 0]
    assert min(change(alpha=1.5)) > 1e-3
    assert min(change(beta=1.5)) > 1e-3
    assert min(change(alpha=1.5, heads="sensitive")) > 1e-3
    assert change(alpha=1.5, heads="sensitive") != change(alpha=1.5)


def test_an_encoder_without_class_token_is_refused_with_a_way_out():
    a = adapter("qwen2_5_vl")
    assert a.info.vision_class_tokens == 0
    assert adapter("llava").info.vision_class_tokens == adapter("internvl").info.vision_class_tokens == 1
    with pytest.raises(UsageError, match="has no class token") as caught:
        DualStream().bind(a.info)
    assert "--set dual_stream.queries=mean" in caught.value.hint
    DualStream(queries="mean").bind(a.info)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"local_ratio": 1.2}, "dual_stream.local_ratio=1.2"),
        ({"spatial_ratio": -0.1}, "dual_stream.spatial_ratio=-0.1"),
        ({"cut": 0.0}, "dual_stream.cut=0.0"),
        ({"queries": "all"}, "'cls' or 'mean'"),
    ],
)
def test_bad_values(params, says):
    with pytest.raises(UsageError, match=says):
        get_method("dual_stream", params)


def test_layers_out_of_range_and_profiles():
    with pytest.raises(UsageError, match="dual_stream amplifies layers 2 to 9") as caught:
        DualStream(end=9).bind(INFO)
    assert "dual_stream.end" in caught.value.hint
    assert get_method("dual_stream", {"dual_stream.profile": "code"}) == DualStream(beta=0.3)
    assert get_method("dual_stream", {"dual_stream.profile": "results"}) == DualStream()
    with pytest.raises(UsageError, match="each contrast"):
        get_method("dual_stream+pai")
    assert get_method("dual_stream+pai", {"pai.gamma": 1.0}).contrasts
