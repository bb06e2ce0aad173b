"""The watched row holds the weights that multiply the values: held to transformers' eager maps and to sums by hand."""

import math

import pytest
import torch
from harness import ACTIVE, NEUTRAL, REFOCUSING, SINK_DIMS, adapter, answers, image, method, request
from observers import Shown

from sinkbench.engine.context import Role, Stage
from sinkbench.engine.observe import observe
from sinkbench.engine.pruning import Kept
from sinkbench.engine.selection import Selected
from sinkbench.engine.watching import acts_on_logits_only, watch
from sinkbench.errors import UsageError
from sinkbench.methods import builtin_names, get_method
from sinkbench.methods.base import Intervention

EVERY = [*ACTIVE, *REFOCUSING]


def asked():
    return request("wide/dog", "<image>\nis there a dog in the image ?", image(0, 60, 30))


def seen(m, step=0, model="llava"):
    """Response and watched row of one method."""
    ((response, watched),) = watch(adapter(model), {m.name: m}, asked(), step).values()
    return response, watched


def row(watched, layer):
    return watched.layers[layer].image


@pytest.fixture(scope="module")
def plain():
    return seen(method("greedy"))[1]


@torch.inference_mode()
def eager():
    """Of the prompt in transformers' own eager attention: maps (H, N, N) of each layer, and inputs (N, d) of each."""
    a = adapter("llava")
    text, _ = a._render(asked())
    pictures = [[picture.load() for picture in asked().images]]
    inputs = a.processor(text=text, images=pictures, return_tensors="pt", add_special_tokens=False)
    hidden, hooks = [], []
    for layer in a.layers:
        hooks.append(layer.register_forward_pre_hook(lambda _, args: hidden.append(args[0][0])))
    a.model.set_attn_implementation("eager")
    try:
        maps = a.model(**inputs, output_attentions=True).attentions
    finally:
        a.model.set_attn_implementation("sdpa")
        for hook in hooks:
            hook.remove()
    return [each[0] for each in maps], hidden


class Scores(Intervention):
    """Keeps the last prompt row's scores before any edit."""

    def observe_attention(self, layer, view, ctx):
        if ctx.emits and ctx.stage is not Stage.DECODE:
            ctx.state[f"scores.{layer}"] = view.scores(ctx.last_row)[:, :, 0]


def roles():
    return adapter("llava").encode(asked()).roles


def test_the_matrix_has_every_method_of_the_registry():
    assert {part for name in EVERY for part in name.partition("-")[0].split("+")} == set(builtin_names())


def test_a_part_of_compositions_alone_is_refused_with_its_use():
    with pytest.raises(UsageError, match="does nothing by itself") as refused:
        seen(get_method("debias", {"debias.trend": [1.0]}))
    assert "fastv+debias" in refused.value.hint


@pytest.mark.parametrize("name", EVERY)
def test_every_method_is_watched_and_answers_as_ever(name):
    m = method(name)
    response, watched = seen(m)
    assert response.text == answers(adapter("llava"), m, [asked()])["wide/dog"]
    assert len(watched.layers) == len(adapter("llava").layers)
    left = [len(layer.numbers) for layer in watched.layers]
    if response.tokens_by_layer:
        assert left == list(response.tokens_by_layer)
    else:
        assert set(left) == {response.visual_tokens_kept}
    for layer in watched.layers:
        assert layer.image.shape == (4, len(layer.numbers))
        assert set(layer.numbers.tolist()) <= set(range(response.visual_tokens))
        torch.testing.assert_close(layer.total, torch.ones(4), atol=1e-5, rtol=0)


def test_a_row_without_edits_is_that_of_eager_attention(plain):
    maps, _ = eager()
    for layer, expected in zip(plain.layers, maps, strict=True):
        torch.testing.assert_close(layer.image, expected[:, -1, roles() == Role.IMAGE], atol=1e-5, rtol=1e-4)
        assert not layer.edited


@pytest.mark.parametrize(
    ("name", "params"),
    [("image_scale", {"factor": 1.0}), ("vaf", {"enh": 1.0, "sup": 1.0}), ("pai", {"alpha": 0.0, "gamma": 1.0})],
)
def test_neutral_parameters_leave_the_row_to_the_bit(name, params):
    """These methods share the plain model's prefix, so that nothing at all differs."""
    methods = {"greedy": get_method("greedy"), name: get_method(name, params)}
    (_, before), (_, after) = watch(adapter("llava"), methods, asked()).values()
    for one, other in zip(before.layers, after.layers, strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.total, other.total)
    assert after.first_edit is None


@pytest.mark.parametrize("name", ["act", "gift", "sparc", "var-take", "var-tau", "vhr", "fastv", "divprune"])
def test_other_neutral_parameters_leave_it_up_to_rounding(name, plain):
    _, watched = seen(method(name, NEUTRAL))
    for one, other in zip(plain.layers, watched.layers, strict=True):
        torch.testing.assert_close(one.image, other.image, atol=1e-5, rtol=1e-3)


def test_image_scale_multiplies_and_restores_the_sum(plain):
    """f·w over 1 + (f − 1)·s, where s is the share of the image before."""
    _, watched = seen(get_method("image_scale", {"factor": 3.0, "layers": [0]}))
    before = row(plain, 0)
    share = before.sum(-1, keepdim=True)
    torch.testing.assert_close(row(watched, 0), 3 * before / (1 + 2 * share), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(row(watched, 0).sum(-1), 3 * share[:, 0] / (1 + 2 * share[:, 0]), atol=1e-6, rtol=1e-5)
    assert [layer.edited for layer in watched.layers] == [True] + 5 * [False]


def test_pai_raises_scores_by_their_size():
    """Softmax of s + alpha·|s| on the image, in the first amplified layer, whose input no edit has touched."""
    a = adapter("llava")
    (batch,) = observe(a, Scores(), [a.encode(asked())])
    scores = batch.cut(batch.state["scores.2"], 0)
    is_image = roles() == Role.IMAGE
    raised = torch.where(is_image, scores + 0.8 * scores.abs(), scores)
    _, watched = seen(get_method("pai", {"alpha": 0.8, "gamma": 1.0}))
    torch.testing.assert_close(row(watched, 2), raised.softmax(-1)[:, is_image], atol=1e-5, rtol=1e-4)
    assert watched.layers[2].edited
    assert not watched.layers[1].edited


def test_var_moves_a_share_of_the_sinks_mass_to_the_rest_of_the_image():
    """Head by head and token by token, from eager maps and hidden states (VAR, spec §2)."""
    maps, hidden = eager()
    tau, rho, s0, take = 2.0, 0.5, 0.05, 0.9
    settings = {"tau": tau, "rho": rho, "s0": s0, "take": take, "layers": [4], "sink_dims": list(SINK_DIMS)}
    _, watched = seen(get_method("var", settings))
    is_image = (roles() == Role.IMAGE).tolist()
    sizes = [max(abs(float(x[d])) for d in SINK_DIMS) / math.sqrt(float((x * x).mean())) for x in hidden[4]]
    sinks = [size > tau for size in sizes]
    assert any(s and i for s, i in zip(sinks, is_image, strict=True))
    edited = 0
    for head in range(4):
        weights = maps[4][head, -1].tolist()
        on_sinks = sum(w for w, s in zip(weights, sinks, strict=True) if s)
        visual = sum(w for w, i in zip(weights, is_image, strict=True) if i)
        rest = sum(w for w, i, s in zip(weights, is_image, sinks, strict=True) if i and not s)
        expected = weights
        if visual >= s0 and rest / visual >= rho:
            edited += 1
            gain = 1 + take * on_sinks / rest
            expected = [
                w * (1 - take) if s else w * gain if i else w for w, i, s in zip(weights, is_image, sinks, strict=True)
            ]
        on_image = torch.tensor([w for w, i in zip(expected, is_image, strict=True) if i])
        torch.testing.assert_close(row(watched, 4)[head], on_image, atol=1e-5, rtol=1e-4)
    assert edited == 2


def test_gift_amplifies_by_the_map_of_gaze_shifts():
    """Row by row from eager maps: shifts of the query's rows, their map, the gain in the seeing and asking heads."""
    maps, _ = eager()
    alpha, beta = 2.0, 1.3
    settings = {"alpha": alpha, "beta": beta, "content": "all", "saliency_layers": [2], "enhance_layers": [1]}
    _, watched = seen(get_method("gift", settings))
    is_image, is_query = roles() == Role.IMAGE, roles() == Role.QUERY
    assert not is_query[-1]
    words = is_query.nonzero()[:, 0].tolist()
    looks = maps[2][:, :, is_image]
    shifts = sum((looks[:, i] - looks[:, i - 1]).clamp_min(0) for i in words)
    best = shifts.sum(-1).argsort(descending=True)[:2]
    scores = shifts[best].sum(0) / (2 * len(words))
    low, high = (scores.mean() + side * 3 * scores.std() for side in (-1, 1))
    scores = scores.clamp(low, high)
    gain = (alpha * (scores - scores.min()) / (scores.max() - scores.min())).exp()

    weights = maps[1][:, -1]
    seeing = weights[:, is_image].sum(-1).argsort(descending=True)[:2]
    asking = weights[:, is_query].sum(-1).argsort(descending=True)[:2]
    enhanced = weights.clone()
    for head in seeing.tolist():
        enhanced[head, is_image] = weights[head, is_image] * gain
    ratio = beta * enhanced[seeing][:, is_image].sum() / weights[seeing][:, is_image].sum()
    for head in asking.tolist():
        enhanced[head, is_query] = enhanced[head, is_query] * ratio
    enhanced = enhanced / enhanced.sum(-1, keepdim=True)
    torch.testing.assert_close(row(watched, 1), enhanced[:, is_image], atol=1e-5, rtol=1e-4)
    assert watched.layers[1].edited


def test_sparc_amplifies_in_rows_of_generated_tokens_only():
    """Layer 0's row depends on the tokens alone: there the weights are those before, times alpha for each selection."""
    m = method("sparc")
    assert seen(m)[1].first_edit == 2
    (_, before), (_, after) = (seen(each, step=2) for each in (method("greedy"), m))
    ratio = row(after, 0) / row(before, 0)
    counts = ratio.log() / math.log(3.0)
    torch.testing.assert_close(counts, counts.round(), atol=1e-3, rtol=0)
    assert set(counts.round()[0].int().tolist()) == {0, 1}
    assert bool((after.layers[0].total > 1.01).any())
    torch.testing.assert_close(after.layers[0].total - before.layers[0].total, (row(after, 0) - row(before, 0)).sum(-1))


class Selects(Intervention):
    """Leaves the language model image tokens 7, 3 and 11, in this order."""

    def select_tokens(self, images):
        return [Selected(torch.tensor([7, 3, 11])) for _ in images]


class Drops(Intervention):
    """Drops image tokens 0, 1 and 5 at layer 2, then of what is left the first two at layer 4."""

    whole_prompt = True
    prunes_at = (2, 4)

    def keep_tokens(self, entry, ctx):
        gone = ctx.is_image[0].nonzero()[:, 0][[0, 1, 5] if entry.layer == 2 else [0, 1]]
        keep = ctx.is_valid.clone()
        keep[:, gone] = False
        return Kept.of(keep)


def test_selected_tokens_are_known_by_their_numbers():
    _, watched = seen(Shown(Selects()))
    assert [numbers.tolist() for numbers in watched.selected] == [[7, 3, 11]]
    assert {len(layer.numbers) for layer in watched.layers} == {3}


def test_dropped_tokens_are_known_by_their_numbers(plain):
    _, watched = seen(Shown(Drops()))
    whole = list(range(16))
    first = [n for n in whole if n not in (0, 1, 5)]
    assert [layer.numbers.tolist() for layer in watched.layers] == [whole, whole, first, first, first[2:], first[2:]]
    torch.testing.assert_close(row(watched, 1), row(plain, 1), atol=1e-5, rtol=1e-4)


def test_the_method_keeps_nothing_of_being_watched():
    a, m = adapter("llava"), method("pai")
    before = answers(a, m, [asked()])
    seen(m)
    assert answers(a, m, [asked()]) == before


def test_what_acts_behind_the_last_layer_is_told_apart():
    bound = {name: method(name).bind(adapter("llava").info) for name in ACTIVE}
    behind = {name for name in ACTIVE if acts_on_logits_only(bound[name])}
    assert behind == {"beam", "dola", "greedy", "icd", "m3id", "opera", "sample", "sample+vcd", "vcd"}
