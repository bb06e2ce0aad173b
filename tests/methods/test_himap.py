"""HiMAP: which rows rank in which stage, what each stage leaves, and that the second does not see the question."""

import pytest
import torch
from harness import adapter, image, request, requests, stream
from maps import Maps

from sinkbench.engine.context import Context, Role, Stage
from sinkbench.engine.generate import Engine
from sinkbench.engine.pruning import Entry
from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.methods.base import Intervention
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.pruning.himap import TEXT, HiMap

INFO = ModelInfo("m", n_layers=32, n_heads=2, n_kv_heads=2, hidden_size=64)
ROLES = torch.tensor([[Role.TEMPLATE, *[Role.IMAGE] * 4, Role.QUERY, Role.QUERY]], dtype=torch.uint8)
"""One prompt of a template token, four image tokens and two words."""


def whole() -> Context:
    ctx = Context(Stage.SUFFIX, ROLES, 7, padded=False)
    ctx.state[TEXT] = ROLES == Role.QUERY
    return ctx


def kept(bound, layer: int, ctx: Context) -> list[int]:
    entry = Entry(layer, torch.zeros(1, ctx.n_queries, 1), ctx, None, None)  # type: ignore[arg-type]
    return bound.keep_tokens(entry, ctx).index[0].tolist()


def maps(rows: dict[int, list[float]]) -> Maps:
    """Two heads; the second looks nowhere, the first from some rows at the four image tokens as given."""
    weights = torch.zeros(1, 2, 7, 7)
    for row, values in rows.items():
        weights[0, 0, row, 1:5] = torch.tensor(values)
    return Maps(weights)


def test_the_text_ranks_first_and_the_image_later():
    bound = HiMap(keep=3, keep_image=0.25, layers=(2, 5)).bind(INFO)
    ctx = whole()
    # The last word alone would drop the first token, the image the last: the sum over both words counts.
    shown = maps({5: [0.5, 0.0, 0.2, 0.1], 6: [0.0, 0.2, 0.2, 0.3], 4: [0.0, 0.9, 0.0, 0.0]})
    bound.observe_attention(1, shown, ctx)
    assert kept(bound, 2, ctx) == [0, 1, 3, 4, 5, 6]
    # In the image stage the words have no say.
    shown = maps({5: [0.9, 0.9, 0.0, 0.0], 3: [0.1, 0.1, 0.2, 0.0], 4: [0.2, 0.1, 0.0, 0.15]})
    bound.observe_attention(4, shown, ctx)
    assert kept(bound, 5, ctx) == [0, 1, 5, 6]


def test_other_layers_and_decode_passes_rank_nothing():
    bound = HiMap(layers=(2, 5)).bind(INFO)
    ctx = whole()
    for layer in (0, 2, 3, 5):
        bound.observe_attention(layer, maps({5: [1.0] * 4}), ctx)
    assert not ctx.scratch
    step = Context(Stage.DECODE, ROLES, 1, step=1)
    bound.observe_attention(1, maps({0: [1.0] * 4}), step)
    assert not step.scratch


class Reversed(Intervention):
    """Stands for a part of a composition that turns the ranking round."""

    def weigh_tokens(self, scores, ctx):
        return -scores


def test_other_parts_weigh_the_text_stage_only():
    bound = HiMap(keep=0.25, keep_image=0.25, layers=(2, 5)).bind(INFO)
    bound.weighing = Reversed()
    ctx = whole()
    bound.observe_attention(1, maps({6: [0.4, 0.3, 0.1, 0.2]}), ctx)
    assert kept(bound, 2, ctx) == [0, 3, 5, 6]
    bound.observe_attention(4, maps({4: [0.4, 0.3, 0.1, 0.2]}), ctx)
    assert kept(bound, 5, ctx) == [0, 1, 5, 6]


def slots_by_stage(m: HiMap, asked) -> list[set[int]]:
    """The image tokens that each stage keeps of the one image, by their number in it."""
    a = adapter("llava")
    main = stream(a, m, [asked], 1)
    keep, stages, slots = main.method.keep_tokens, [], None

    def record(entry, ctx):
        nonlocal slots
        result = keep(entry, ctx)
        if slots is None:
            slots = torch.where(ctx.is_image[0], ctx.is_image[0].cumsum(0) - 1, -1)
        slots = slots[result.index[0]]
        stages.append({number for number in slots.tolist() if number >= 0})
        return result

    main.method.keep_tokens = record
    with torch.inference_mode():
        main.prefill()
    return stages


def test_the_image_stage_depends_on_the_question_through_the_text_stage_only():
    seen = image(0, 60, 30)
    asked = [
        request("a", "<image>\nis there a dog in the image ?", seen),
        request("b", "<image>\nhow many red cat do you see ?", seen),
    ]
    all_stay, three_left = (
        HiMap(keep=1.0, keep_image=0.3, layers=(2, 4)),
        HiMap(keep=0.3, keep_image=0.2, layers=(2, 4)),
    )
    first, second = (slots_by_stage(all_stay, question)[1] for question in asked)
    assert first == second
    narrowed, final = slots_by_stage(three_left, asked[0])
    assert final < narrowed
    assert narrowed != slots_by_stage(three_left, asked[1])[0]


def test_layers_hold_what_the_stages_leave():
    a = adapter("llava")
    asked = [requests()[0], requests()[-1]]
    n = a.encode(asked[0]).visual_tokens
    (responses,) = list(Engine(a, HiMap(keep=0.5, keep_image=3, layers=(2, 4))).answer(asked))
    by_id = {response.id: response for response in responses}
    assert by_id["wide/dog"].tokens_by_layer == (n, n, round(n / 2), round(n / 2), 3, 3)
    assert by_id["text"].tokens_by_layer == (0,) * 6


def test_layers_of_other_models():
    def layers(n_layers: int) -> tuple[int, ...]:
        return HiMap().bind(ModelInfo("m", n_layers, 2, 2, 64)).prunes_at

    assert layers(32) == layers(40) == (2, 8)
    assert layers(28) == (2, 7)
    assert layers(6) == (1, 2)
    assert not HiMap().bind(INFO).reindexes


def test_budgets_of_the_profiles():
    """Of 576 tokens: 125 on the average of the layers in one comparison, a quarter in HiMAP's own script."""
    for profile, mean in (("debiasing", 125), ("code", 144)):
        m = get_method("himap", {"profile": profile})
        text, last = (round(576 * keep) for keep in (m.keep, m.keep_image))
        assert round((2 * 576 + 6 * text + 24 * last) / 32) == mean


def test_bad_values():
    with pytest.raises(UsageError, match=r"keep_image=0.5 is more than the 0.2"):
        HiMap(keep=0.2, keep_image=0.5)
    with pytest.raises(UsageError, match=r"himap.keep=0 is no budget"):
        HiMap(keep=0.0)
    with pytest.raises(UsageError, match=r"himap.keep_image=1.5 is no budget"):
        HiMap(keep=3, keep_image=1.5)
    for layers in ((0, 4), (4, 4), (2, 4, 6)):
        with pytest.raises(UsageError, match="rank the tokens"):
            HiMap(layers=layers).bind(INFO)
    with pytest.raises(UsageError, match="m has layers 0 to 31"):
        HiMap(layers=(2, 32)).bind(INFO)


@pytest.mark.parametrize(("keep", "image"), [(115 / 576, 90 / 576), (1.0, 1.0), (115, 90), (0.5, 0.5 * 90 / 115)])
def test_one_budget_sets_both_stages(keep, image):
    bound = HiMap(keep=keep).bind(INFO)
    assert list(bound.keeps.values()) == pytest.approx([keep, image])
