"""VFlowOpt: the encoder's map, what is pruned and recycled before the model, and what is dropped between its layers."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from harness import adapter, answers, features, forced_tokens, image, logits, open_stream, request
from PIL import Image
from vectors import load, same_as

from sinkbench.adapters.base import ImageInputs
from sinkbench.adapters.views import sample_views
from sinkbench.engine.context import Role
from sinkbench.engine.generate import Engine
from sinkbench.engine.selection import SeenImage
from sinkbench.errors import UsageError
from sinkbench.methods import get_method, method_config
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.greedy import Greedy
from sinkbench.methods.pruning.grids import feature_places
from sinkbench.methods.pruning.importance import ImportanceMap, calibrated_attention, grey_entropy, patch_pixels
from sinkbench.methods.pruning.recycling import recycle
from sinkbench.methods.pruning.vflowopt import IMPORTANCE, VFlowOpt, last_rate, mean_rate, stage_layers
from sinkbench.request import ImageRef

FAMILIES = ("llava", "llava_next", "llava_onevision", "qwen2_5_vl", "internvl")


def info(n_layers: int = 28, **more) -> ModelInfo:
    return ModelInfo("m", n_layers=n_layers, n_heads=4, n_kv_heads=2, hidden_size=8, **more)


# Published code.


def test_vectors(request):
    for vector in load(request, "vflowopt", "main"):
        p, tolerance = vector.params, vector.tolerance
        pixels, attention = vector["pixel_values"], vector["attn_head_mean"]
        seen = ImportanceMap(p["t"], p["alpha"], "mean", compat=True)
        levels = seen.grey_levels(patch_pixels(pixels, *attention.shape[:2]))
        same_as(grey_entropy(levels).view_as(vector["entropy"]), vector["entropy"], tolerance["entropy_atol"])
        found = seen.of(attention[:, None], 0, ImageInputs({"pixel_values": pixels}, torch.zeros(0)))
        same_as(found, vector["importance"], tolerance["importance_atol"])

        r = p["recycling"]
        n, base = len(vector["features"]), r["base_grid"]
        number = torch.arange(n)
        tile = number - base**2
        of_base = torch.stack((number * 0, number // base, number % base), dim=1)
        of_tiles = torch.stack((number * 0 + 1, tile // r["tile_width"], tile % r["tile_width"]), dim=1)
        places = torch.where((tile < 0)[:, None], of_base, of_tiles)
        importance = vector["importance_in"]
        index, tokens = recycle(vector["features"], importance, places, n - r["pruned"], r["a"])
        assert torch.equal(index, vector["keep_mask"].nonzero().flatten())
        same_as(tokens, vector["features_out"], tolerance["features_atol"])
        same_as(importance[index], vector["importance_out"], 0)


# The map.

ATTENTION = torch.tensor([[[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.6, 0.3, 0.1]]])
"""Columns receive 1.8, 0.8 and 0.4; the mean is 1."""


def test_rows_count_whose_patches_receive_much():
    same_as(calibrated_attention(ATTENTION, 1.0, "mean"), torch.tensor([[0.7, 0.2, 0.1]]), 1e-6)
    same_as(calibrated_attention(ATTENTION, 0.5, "mean"), torch.tensor([[0.6, 0.25, 0.15]]), 1e-6)
    same_as(calibrated_attention(ATTENTION, 0.5, "sum"), torch.tensor([[1.2, 0.5, 0.3]]), 1e-6)


def test_without_a_bound_or_where_no_patch_reaches_it_all_rows_count():
    received = torch.tensor([[0.6, 0.8 / 3, 0.4 / 3]])
    same_as(calibrated_attention(ATTENTION, 0.0, "mean"), received, 1e-6)
    same_as(calibrated_attention(ATTENTION, 28.68, "mean"), received, 1e-6)
    both = torch.cat((ATTENTION, ATTENTION.flip(2)))
    assert calibrated_attention(both, 1.0, "mean")[1].argmax() == 2, "each view by itself"


def test_importance_of_a_view_sums_to_one_and_alpha():
    attention = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).softmax(-1)
    pixels = torch.rand(1, 2, 3, 28, 28, generator=torch.Generator().manual_seed(1)) * 2 - 1
    inputs = ImageInputs({"pixel_values": pixels}, torch.zeros(0))
    for alpha in (0.0, 0.3, -0.5):
        seen = ImportanceMap(1.0, alpha, pixel_mean=(0.5,) * 3, pixel_std=(0.5,) * 3)
        same_as(seen.of(attention, 0, inputs).sum(1), torch.full((2,), 1 + alpha), 1e-5)


def test_class_tokens_are_neither_rows_nor_columns():
    attention = torch.rand(1, 2, 5, 5, generator=torch.Generator().manual_seed(0)).softmax(-1)
    loud = attention.clone()
    loud[:, :, 0], loud[:, :, :, 0] = 5.0, 7.0
    nothing = ImageInputs({}, torch.zeros(0))
    found = ImportanceMap(1.0).of(attention, 1, nothing)
    assert found.shape == (1, 4)
    assert torch.equal(ImportanceMap(1.0).of(loud, 1, nothing), found)


def test_entropy_is_in_bits():
    levels = torch.tensor([[7, 7, 7, 7], [0, 255, 0, 255], [0, 1, 2, 3], [9, 9, 9, 8]])
    same_as(grey_entropy(levels), torch.tensor([0.0, 1.0, 2.0, 0.811278]), 1e-5)


def test_grey_levels_are_those_of_the_picture_or_wrap_as_released():
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    picture = torch.tensor([[[0.0, 10, 255], [0, 20, 255], [0, 40, 255]]])
    normalised = (picture / 255 - torch.tensor(mean)[:, None]) / torch.tensor(std)[:, None]
    assert ImportanceMap(0, 1.0, pixel_mean=mean, pixel_std=std).grey_levels(normalised).tolist() == [[0, 23, 255]]
    # 0.5 · 255 = 127.5 is cut to 127; −127.5 to −127, which a byte holds as 129.
    halves = torch.tensor([[[0.5, -0.5], [0.5, -0.5], [0.5, 0.5]]])
    assert ImportanceMap(0, 1.0, compat=True).grey_levels(halves).tolist() == [[127, round((129 + 129 + 127) / 3)]]


def test_pixels_of_a_patch_are_the_same_however_they_come():
    pixels = torch.arange(3.0 * 6 * 6).view(1, 3, 6, 6)
    cut = patch_pixels(pixels, 1, 4)
    assert cut.shape == (1, 4, 3, 9)
    assert cut[0, 1, 0].tolist() == [3, 4, 5, 9, 10, 11, 15, 16, 17]
    assert torch.equal(patch_pixels(cut.reshape(4, 27), 1, 4), cut)
    # One column and row too many, as in SigLIP's 384 pixels of patches of 14.
    wider = torch.nn.functional.pad(pixels, (0, 1, 0, 1), value=-1.0)
    assert torch.equal(patch_pixels(wider[None], 1, 4), cut)
    with pytest.raises(UsageError, match="no patches can be cut") as refused:
        patch_pixels(pixels, 2, 4)
    assert "vflowopt.alpha=0" in refused.value.hint


@dataclass(frozen=True)
class HalfNoise(ImageRef):
    """Noise on the left, one grey on the right."""

    on_disk = False

    def size(self):
        return 112, 112

    def load(self):
        pixels = np.full((112, 112, 3), 90, dtype=np.uint8)
        pixels[:, :56] = np.random.RandomState(0).randint(0, 255, (112, 56, 3))
        return Image.fromarray(pixels)


@pytest.mark.parametrize("family", ["llava", "llava_next", "internvl", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_the_entropy_of_each_family_is_that_of_the_preprocessed_picture(family):
    a = adapter(family)
    inputs = a.preprocess(HalfNoise("drawn"))
    ((attention,),) = a.vision_attentions([inputs], (a.info.vision_layer,))
    views, patches = attention.shape[0], attention.shape[-1] - a.class_tokens
    seen = ImportanceMap(0, 1.0, pixel_mean=a.info.pixel_mean, pixel_std=a.info.pixel_std)
    entropy = grey_entropy(seen.grey_levels(patch_pixels(inputs.tensors["pixel_values"], views, patches)))
    by_token = a.patch_values_to_tokens(entropy, inputs)
    (view, *_) = sample_views(a, a.encode(request("r", "<image> is there a cat ?", HalfNoise("drawn"))))
    grid = by_token[torch.from_numpy(view.tokens)]
    assert (grid[:, : grid.shape[1] // 2 - 1] > 3).all()
    assert (grid[:, -1] == 0).all()


# Recycling.

ROW = torch.tensor([[0, 0, column] for column in range(6)])
SCORES = torch.tensor([0.9, 0.2, 0.6, 0.1, 0.3, 0.5])
FEATURES = torch.tensor([[1.0, 0], [2, 1], [4, 0], [8, 1], [16, 0], [32, 2]])


def test_each_cell_merges_what_it_lost_where_the_most_important_stood():
    # 6 / 2² leaves one slot of three to merged tokens: 0 and 2 stay. Cells lose 1; 3; and 4 and 5.
    before = FEATURES.clone()
    index, tokens = recycle(FEATURES, SCORES, ROW, 3, 2.0)
    assert index.tolist() == [0, 1, 2, 3, 5]
    merged = (0.3 * FEATURES[4] + 0.5 * FEATURES[5]) / 0.8
    same_as(tokens, torch.stack((*FEATURES[:4], merged)), 1e-5)
    assert torch.equal(FEATURES, before)


def test_an_exact_budget_drops_the_least_important_merged_tokens_or_takes_pruned_ones():
    index, tokens = recycle(FEATURES, SCORES, ROW, 3, 2.0, exact=True)
    assert index.tolist() == [0, 2, 5]
    same_as(tokens[2], (0.3 * FEATURES[4] + 0.5 * FEATURES[5]) / 0.8, 1e-5)
    # One cell for all, and two slots of its own: the second one goes to the most important of those that are merged.
    index, tokens = recycle(FEATURES, SCORES, ROW * 0, 4, 1.7, exact=True)
    assert index.tolist() == [0, 2, 4, 5]
    weights = SCORES[[1, 3, 4, 5]] / SCORES[[1, 3, 4, 5]].sum()
    same_as(tokens[3], weights @ FEATURES[[1, 3, 4, 5]], 1e-4)
    same_as(tokens[2], FEATURES[4], 0)


def test_cells_do_not_reach_from_one_grid_into_another():
    places = ROW.clone()
    places[:, 2] //= 3
    places[3:, 0] = 1
    assert recycle(FEATURES, SCORES, places, 2, 2.4)[0].tolist() == [0, 2, 5]
    assert recycle(FEATURES, SCORES, places, 1, 2.4)[0].tolist() == [0, 5]


def test_merged_tokens_are_convex_combinations_of_their_cell_whatever_the_importance():
    generator = torch.Generator().manual_seed(0)
    scores, tokens = torch.randn(24, generator=generator), torch.randn(24, 5, generator=generator)
    number = torch.arange(24)
    places = torch.stack((number * 0, number // 6, number % 6), dim=1)
    for importance in (scores, scores.abs(), -scores.abs(), scores * 0):
        index, kept = recycle(tokens, importance, places, 8, 3.0)
        low, high = tokens.amin(0), tokens.amax(0)
        assert ((kept >= low - 1e-5) & (kept <= high + 1e-5)).all()
        assert kept.isfinite().all()
        assert len(index) == len(index.unique())
        for exact in (5, 8, 20):
            assert len(recycle(tokens, importance, places, exact, 3.0, exact=True)[0]) == exact


def test_cells_of_one_token_lose_nothing():
    index, tokens = recycle(FEATURES, SCORES, ROW, 2, 1.0)
    assert index.tolist() == [*range(6)]
    same_as(tokens, FEATURES, 1e-5)


# Where features lie.


def seen_image(a, ref) -> SeenImage:
    inputs = a.preprocess(ref)
    (encoded,) = a.encode_images([inputs])
    ((attention,),) = a.vision_attentions([inputs], (-1,))
    to_tokens = lambda values: a.patch_values_to_tokens(values, inputs)  # noqa: E731
    return SeenImage(encoded.tokens, inputs.roles, (attention,), a.class_tokens, inputs, to_tokens)


@pytest.mark.parametrize("size", [(60, 30), (30, 60), (50, 50), (120, 40)])
@pytest.mark.parametrize("family", FAMILIES)
def test_features_lie_where_the_views_of_their_family_have_them(family, size):
    a, ref = adapter(family), image(0, *size)
    seen = seen_image(a, ref)
    views, patches = seen.attention[0].shape[0], seen.attention[0].shape[-1] - a.class_tokens
    places = feature_places(seen, views, patches)[seen.is_image]
    tiles = {}
    for view in sample_views(a, a.encode(request("r", "<image> is there a cat ?", ref))):
        rows, columns = view.tokens.shape
        for row in range(rows):
            for column in range(columns):
                grid, y, x = places[view.tokens[row, column]].tolist()
                if family == "internvl":
                    # Each tile is a grid: numbers begin anew in every one.
                    side = 2
                    assert (y, x) == (row % side, column % side)
                    key = (view.name, row // side, column // side)
                else:
                    assert (y, x) == (row, column)
                    key = view.name
                assert tiles.setdefault(key, grid) == grid
    assert len({*tiles.values()}) == len(tiles)


# Parameters.


def test_the_released_settings_have_the_mean_rates_that_they_are_named_after():
    profiles = method_config("vflowopt")["profiles"]
    for name, rate in (("keep-50", 0.5007), ("keep-25", 0.2507), ("keep-10", 0.1)):
        chosen = get_method("vflowopt", {"vflowopt.profile": name})
        found = mean_rate(chosen.r1, chosen.r2, chosen.r3, stage_layers((), info()), 28)
        assert found == pytest.approx(rate, abs=5e-5)
        rates = {9: chosen.r2, 18: chosen.r3}
        assert chosen.bind(info()).rates == {layer: share for layer, share in rates.items() if share < 1}
        # So that nothing of a calibration for another rate is left.
        assert profiles[name]["params"]["keep"] == 0


def test_the_last_rate_follows_from_the_mean():
    assert mean_rate(0.5, 0.5, 0.5, (2, 4), 8) == (0.5 * 2 + 0.25 * 2 + 0.125 * 4) / 8
    for r1, r2, keep in ((0.2651, 0.9833, 0.25), (0.4, 0.8, 0.3), (0.25, 1.0, 0.25)):
        r3 = last_rate(keep, r1, r2, (9, 18), 28)
        assert mean_rate(r1, r2, r3, (9, 18), 28) == pytest.approx(keep)
    bound = VFlowOpt(keep=0.3, r1=0.4, r2=0.8).bind(info(6))
    assert bound.rates[1] == 0.8
    assert mean_rate(0.4, 0.8, bound.rates[3], (1, 3), 6) == pytest.approx(0.3)
    for r1, r2 in ((0.9, 1.0), (0.1, 0.5)):
        with pytest.raises(UsageError, match=r"would need r3=") as refused:
            last_rate(0.25, r1, r2, (9, 18), 28)
        assert "vflowopt.r1=0.25 --set vflowopt.r2=1" in refused.value.hint
    assert last_rate(0.25, 0.25, 1.0, (9, 18), 28) == 1


def test_stages_are_as_far_along_as_released():
    assert stage_layers((), info(28)) == (9, 18)
    assert stage_layers((), info(32)) == (10, 20)
    assert stage_layers((3, 5), info(6)) == (3, 5)
    for layers in ((3,), (4, 3), (3, 3), (1, 2, 3)):
        with pytest.raises(UsageError, match="needs two rising layers"):
            stage_layers(layers, info(6))
    with pytest.raises(UsageError, match="layers 0 to 5"):
        stage_layers((1, 6), info(6))


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"keep": 1.5}, "vflowopt.keep=1.5 is no share"),
        ({"r1": -0.1}, "vflowopt.r1=-0.1 is no share"),
        ({"r2": 0.0}, "vflowopt.r2=0 is no share"),
        ({"r3": 2.0}, "vflowopt.r3=2 is no share"),
        ({"a": 0.5}, "vflowopt.a=0.5"),
        ({"t": -1.0}, "vflowopt.t=-1 is negative"),
        ({"base": "median"}, "is not 'mean' or 'sum'"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(params, says):
    with pytest.raises(UsageError) as refused:
        get_method("vflowopt", params)
    assert says in refused.value.message


def test_without_rates_the_message_says_how_to_find_them():
    with pytest.raises(UsageError, match="at which rates to prune m") as refused:
        VFlowOpt().bind(info())
    assert "sinkbench calibrate vflowopt --model m" in refused.value.hint
    assert "vflowopt.keep=0.25" in refused.value.hint
    assert "profile" in refused.value.hint


def test_entropy_needs_to_know_how_pixels_were_normalised():
    with pytest.raises(UsageError, match="how m normalises them is not known"):
        VFlowOpt(r1=0.5, alpha=0.1).bind(info())
    VFlowOpt(r1=0.5, alpha=0.1, compat=True).bind(info())
    VFlowOpt(r1=0.5, alpha=0.1).bind(info(pixel_mean=(0.5,) * 3, pixel_std=(0.5,) * 3))


def test_the_layer_is_the_one_that_the_projector_reads(monkeypatch):
    a = adapter("llava")
    assert (a.info.vision_layer, len(a.info.pixel_mean), len(a.info.pixel_std)) == (-1, 3, 3)
    for named, layer in ((-2, -2), (2, 1), ([-2, 1], 0), ([1, -1], -1)):
        monkeypatch.setattr(a.model.config, "vision_feature_layer", named)
        assert a.info.vision_layer == layer
    bound = VFlowOpt(r1=0.5, r2=0.5).bind(info(vision_layer=-2))
    assert bound.selects_by == bound.vision_layers == (-2,)
    assert VFlowOpt(r1=0.5).bind(info()).vision_layers == ()
    assert VFlowOpt(r1=1.0, r2=0.5).bind(info()).selects_by == ()
    monkeypatch.setattr(a.processor.image_processor, "do_normalize", False)
    assert a.info.pixel_mean == a.info.pixel_std == ()


# In the engine.


def watched(a, m, asked):
    """The images' importance in the prompts as the model gets them, and what each stage kept of these slots.

    Returns:
        (B, K) importance, (B, K) roles, and for each stage (layer, (B, K) bool).
    """
    bound, kept_at = m.bind(a.info), []
    plain = bound.keep_tokens
    origin = None

    def keep(entry, ctx):
        nonlocal origin
        kept = plain(entry, ctx)
        before = torch.arange(ctx.n_keys).expand(len(ctx.roles), -1) if origin is None else origin
        origin = before.gather(1, kept.index.clamp_min(0)).masked_fill(kept.index < 0, -1)
        slots = ctx.state[IMPORTANCE].shape[1]
        kept_at.append((entry.layer, torch.stack([torch.isin(torch.arange(slots), row) for row in origin])))
        return kept

    bound.keep_tokens = keep
    stream = open_stream(a, bound, [a.encode(r) for r in asked], features(a, asked), 1)
    with torch.inference_mode():
        stream.prefill()
    return stream.state[IMPORTANCE], stream.context.roles, kept_at, stream


@pytest.mark.parametrize("family", FAMILIES)
def test_later_stages_keep_the_most_important_by_the_same_map(family):
    a = adapter(family)
    asked = [
        request("a", "<image>\nis there a dog in the image ?", image(0, 60, 30)),
        request("b", "<image>\none ?", image(2, 50, 50)),
        request("c", "how many are there ?"),
    ]
    m = VFlowOpt(r1=0.8, r2=0.6, r3=0.5, t=1.0, a=2.0, alpha=0.4)
    importance, roles, kept_at, stream = watched(a, m, asked)
    assert [layer for layer, _ in kept_at] == [1, 3]
    by_layer = stream.pruning.tokens_by_layer()
    before = roles == Role.IMAGE
    for (layer, kept), rate in zip(kept_at, (0.6, 0.5), strict=True):
        for row in range(len(asked)):
            among, left = before[row], before[row] & kept[row]
            count = round(int(among.sum()) * rate)
            assert int(left.sum()) == max(count, int(among.any())) == int(by_layer[row, layer])
            assert not (left & ~among).any(), "nested"
            if among.any():
                dropped = importance[row][among & ~left]
                assert importance[row][left].min() >= dropped.max()
            text = (roles[row] != Role.PAD) & (roles[row] != Role.IMAGE)
            assert (kept[row] | ~text).all(), "all that is no image token stays"
        before = before & kept


@pytest.mark.parametrize("family", FAMILIES)
def test_the_map_inside_the_model_is_that_of_the_first_stage(family):
    """What is left of an image by stage 1 without recycling are the highest values, and the marks are the same."""
    a, ref = adapter(family), image(0, 60, 30)
    m = VFlowOpt(r1=0.5, r2=0.5, t=0.7, alpha=0.5)
    importance, roles, *_ = watched(a, m, [request("a", "<image>\none ?", ref)])
    seen = seen_image(a, ref)
    by_patch = m.bind(a.info).seen.of(seen.attention[0], a.class_tokens, seen.inputs)
    values = seen.patches_to_tokens(by_patch)[seen.is_image]
    count = len(values) - round(len(values) * 0.5)
    chosen = values.argsort(descending=True, stable=True)[:count].sort().values
    same_as(importance[roles == Role.IMAGE], values[chosen], 1e-6)


def test_the_question_never_changes_what_is_kept():
    a, ref = adapter("llava_next"), image(0, 60, 30)
    texts = ("<image>\none ?", "<image>\nhow many red cat do you see in the image ?")
    m = VFlowOpt(r1=0.8, r2=0.6, r3=0.5, t=1.0, a=2.0)
    importance, roles, kept_at, _ = watched(a, m, [request(str(i), text, ref) for i, text in enumerate(texts)])
    image_slots = [roles[row] == Role.IMAGE for row in range(2)]
    same_as(importance[0][image_slots[0]], importance[1][image_slots[1]], 0)
    for _, kept in kept_at:
        assert torch.equal(kept[0][image_slots[0]], kept[1][image_slots[1]])


@pytest.mark.parametrize("family", ["llava", "llava_next", "internvl"])
def test_the_layers_hold_the_mean_rate_on_average(family):
    a = adapter(family)
    asked = [request("a", "<image>\none ?", image(0, 60, 30))]
    engine = Engine(a, VFlowOpt(keep=0.5, r1=0.7, r2=0.8))
    ((response,),) = engine.answer(asked)
    n = response.visual_tokens
    assert sum(response.tokens_by_layer) / a.info.n_layers == pytest.approx(0.5 * n, abs=0.8)
    assert response.tokens_by_layer[0] == n - round(0.3 * n)


def test_separators_stay_and_merged_features_take_their_places():
    a, ref = adapter("llava_next"), image(0, 60, 30)
    seen = seen_image(a, ref)
    bound = VFlowOpt(r1=0.5, t=1.0, a=3.0, exact=True).bind(a.info)
    (selected,) = bound.select_tokens([seen])
    assert {*(~seen.is_image).nonzero().flatten().tolist()} <= {*selected.index.tolist()}
    n = int(seen.is_image.sum())
    assert int(seen.is_image[selected.index].sum()) == n - round(n * 0.5)
    unchanged = (selected.tokens == seen.features[selected.index]).all(1)
    assert unchanged[~seen.is_image[selected.index]].all()
    assert 0 < int((~unchanged).sum()) < len(unchanged)


def test_one_token_is_left_of_an_image_at_least():
    seen = seen_image(adapter("llava"), image(0))
    for a in (0.0, 100.0):
        (selected,) = VFlowOpt(r1=0.01, a=a).bind(adapter("llava").info).select_tokens([seen])
        assert len(selected.index) in (1, 2)


def test_pixels_matter_where_alpha_says_so():
    a, asked = adapter("qwen2_5_vl"), [request("a", "<image>\none ?", image(0, 60, 30))]
    forced = forced_tokens(1, 0)
    base = VFlowOpt(r1=0.5, r2=0.5, t=1.0)
    plain, by_entropy = (logits(a, m, asked, forced) for m in (base, base.replace(alpha=-50.0)))
    assert (plain - by_entropy).abs().max() > 1e-3


def test_a_composition_gets_the_marks_of_a_method_that_reads_pixels():
    a, asked = adapter("llava"), [request("a", "<image>\none ?", image(0))]
    m = get_method("vflowopt+beam", {"vflowopt.r1": 0.6, "vflowopt.r2": 0.5, "vflowopt.alpha": 0.5, "beam.beams": 1})
    single = VFlowOpt(r1=0.6, r2=0.5, alpha=0.5)
    assert answers(a, m, asked) == answers(a, single, asked)
    with pytest.raises(UsageError, match="both drop image tokens"):
        get_method("vflowopt+fastv", {"vflowopt.r1": 0.5})


@pytest.mark.parametrize("keep", [0.1, 0.25, 0.5, 1.0])
def test_a_mean_alone_is_enough(keep):
    bound = VFlowOpt(keep=keep).bind(info())
    rates = [bound.rates.get(layer, 1.0) for layer in (9, 18)]
    assert mean_rate(bound.method.r1, *rates, (9, 18), 28) == pytest.approx(keep)
    assert bound.method.r1 == pytest.approx(min(1.0, 1.2 * keep))


@pytest.mark.parametrize("family", ["llava", "internvl", "qwen2_vl"])
@pytest.mark.parametrize("count", [4, 9])
def test_a_count_is_the_mean_over_the_layers_of_each_image(family, count):
    a = adapter(family)
    asked = [
        request("one", "<image>\nwhat do you see ?", image(0, 56, 56)),
        request("two", "<image> <image> what ?", image(0, 56, 56), image(1, 56, 56)),
    ]
    for each in asked:
        engine = Engine(a, VFlowOpt(keep=count, exact=True))
        list(engine.answer([each]))
        stats, before = engine.stats(), a.encode(each).visual_tokens
        wanted = min(count * len(each.images), before)
        assert stats["visual_tokens_mean"] == pytest.approx(wanted, abs=0.5), "whole tokens in the last layers"
        assert stats["visual_tokens_by_layer"][0] == min(before, round(1.2 * count) * len(each.images))


def test_a_count_that_no_image_has_leaves_everything():
    a = adapter("llava")
    asked = [request("one", "<image>\nwhat do you see ?", image(0))]
    assert answers(a, VFlowOpt(keep=500, a=2.0), asked) == answers(a, Greedy(), asked)
