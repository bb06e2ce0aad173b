"""VisionZip: the file of the released code, the rule of merging, and what goes on to the language model."""

import pytest
import torch
from harness import adapter, features, image, method, preprocessed, request, stream
from vectors import Vector, load

from sinkbench.engine.context import Role
from sinkbench.engine.marks import mark_images
from sinkbench.engine.selection import SeenImage, Selected, Selection
from sinkbench.errors import UsageError
from sinkbench.methods import get_method, method_config
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.pruning.merging import merge_tokens
from sinkbench.methods.pruning.select import SelectingIntervention
from sinkbench.methods.pruning.visionzip import VisionZip, condense, contextual_count

INFO = ModelInfo("m", n_layers=4, n_heads=4, n_kv_heads=4, hidden_size=24, vision_class_tokens=1, vision_layer=-2)


@pytest.fixture
def runs(request):
    return load(request, "visionzip", "main")


def seen_image(states, attention, keys) -> SeenImage:
    """One view of an encoder with a class token, and a projector that changes nothing."""
    n = len(states) - 1
    roles = torch.full((n,), int(Role.IMAGE), dtype=torch.uint8)
    return SeenImage(states[1:], roles, (attention,), 1, None, lambda v, mean=False: v[0], (keys,), states, lambda x: x)


def image_of(vector: Vector, row: int, heads=slice(None)) -> SeenImage:
    """The file's image; of the encoder's attention only the class token's row is known."""
    row_of_class = vector["cls_attn"][row, heads]
    attention = torch.zeros(1, len(row_of_class), row_of_class.shape[1], row_of_class.shape[1])
    attention[0, :, 0] = row_of_class
    return seen_image(vector["hidden"][row], attention, vector["metric"][row][None])


def test_the_released_code(runs):
    for vector in runs:
        p = vector.params
        dominant, merged = p["dominant_incl_cls"], p["contextual"]
        bound = VisionZip(keep=dominant + merged, contextual=merged / (dominant + merged)).bind(INFO)
        assert bound.selects_by == (-2,)
        for row in range(len(vector["hidden"])):
            (selected,) = bound.select_tokens([image_of(vector, row)])
            torch.testing.assert_close(
                selected.tokens, vector["tokens"][row], atol=vector.tolerance["tokens_atol"], rtol=0
            )
            # Exactly the tower's rows; places are those of the features, and the class token has none.
            kept = vector["dominant_mask"][row].bool().nonzero().flatten()
            assert torch.equal(selected.tokens[:dominant], vector["hidden"][row][kept])
            assert torch.equal(selected.index[1:dominant], kept[1:] - 1)
            assert len(selected.index.unique()) == dominant + merged
            flipped = [1, 0, *range(2, vector["cls_attn"].shape[1])]
            (again,) = bound.select_tokens([image_of(vector, row, flipped)])
            assert torch.equal(again.index, selected.index)


def test_merging_by_hand():
    """Six tokens into two: every third is a target, and a merged token is target plus mean."""
    tokens = torch.tensor([[1.0, 0], [2, 0], [4, 0], [8, 0], [16, 0], [32, 0], [99, 99]])[None]
    up, right = [0.0, 2.0], [3.0, 0.1]
    metric = torch.tensor([up, right, up, right, up, right, up])[None]
    among = torch.tensor([[True] * 6 + [False]])
    merged = merge_tokens(tokens, metric, among, torch.tensor([2]))
    assert merged.at.tolist() == [[0, 3]]
    assert merged.tokens[0, :, 0].tolist() == [1 + (4 + 16) / 2, 8 + (2 + 32) / 2]

    # Three of six: nothing is like the middle target, which stays as it is.
    metric = torch.tensor([up, up, [-1.0, 0], right, right, right, up])[None]
    merged = merge_tokens(tokens, metric, among, torch.tensor([3]))
    assert merged.at.tolist() == [[0, 2, 4]]
    assert merged.tokens[0, :, 0].tolist() == [1 + 2, 4, 16 + (8 + 32) / 2]

    # Four of six: the step is one, so the first four are targets.
    assert merge_tokens(tokens, metric, among, torch.tensor([4])).at.tolist() == [[0, 1, 2, 3]]
    assert merge_tokens(tokens, metric, among, torch.tensor([0])).tokens.shape == (1, 0, 2)


def test_what_becomes_of_a_sample_is_its_own_affair():
    g = torch.Generator().manual_seed(0)
    tokens, metric = torch.randn(4, 20, 6, generator=g), torch.randn(4, 20, 5, generator=g)
    among = torch.rand(4, 20, generator=g) < 0.7
    count = torch.tensor([5, 0, 1, 3])
    together = merge_tokens(tokens, metric, among, count)
    assert together.present.sum(1).tolist() == count.tolist()
    for row in range(4):
        # Alone, and without the slots that are not among them.
        own = among[row]
        alone = merge_tokens(tokens[row, own][None], metric[row, own][None], own[own][None], count[row : row + 1])
        places = own.nonzero().flatten()[alone.at[0]]
        assert together.at[row, : count[row]].tolist() == places.tolist()
        torch.testing.assert_close(together.tokens[row, : count[row]], alone.tokens[0])


def test_keeping_every_token_of_the_encoder_gives_its_rows():
    g = torch.Generator().manual_seed(0)
    states = torch.randn(7, 5, generator=g)
    index, tokens = condense(states, torch.rand(7, generator=g), torch.randn(7, 3, generator=g), 7, 0)
    assert index.tolist() == list(range(7))
    assert torch.equal(tokens, states)


def test_the_class_token_stands_in_a_place_of_its_own():
    """Places 0, 1 and 3 are taken by patches, so that the class token gets 2."""
    states = torch.arange(7.0)[:, None].expand(7, 2)
    attention = torch.zeros(1, 1, 7, 7)
    attention[0, 0, 0] = torch.tensor([0, 0.3, 0.2, 0, 0.5, 0, 0])
    (selected,) = (
        VisionZip(keep=4, contextual=0).bind(INFO).select_tokens([seen_image(states, attention, states[None])])
    )
    assert selected.index.tolist() == [2, 0, 1, 3]
    assert selected.tokens[:, 0].tolist() == [0, 1, 2, 4]


def selection_of(a, bound, asked):
    prompts = [a.encode(one) for one in asked]
    inputs = preprocessed(a, prompts)
    selection = Selection.of(a, bound, prompts, inputs, features(a, asked), mark_images(a, bound, prompts, inputs))
    return prompts, inputs, selection, [selection.shorten(prompt) for prompt in prompts]


@torch.inference_mode()
def test_llava_reads_the_projected_class_token_first():
    a = adapter("llava")
    asked = [request("r", "<image>\nis there a dog ?", image(0, 60, 30))]
    bound = VisionZip(keep=6, contextual=1 / 3).bind(a.info)
    (prompt,), inputs, selection, (shorter,) = selection_of(a, bound, asked)
    (key,) = inputs
    (seen,) = a.see_encoder(list(inputs.values()), [a.info.vision_layer])
    tokens, everything = selection.features[key].tokens, features(a, asked)[key].tokens
    assert len(tokens) == 6
    assert (len(shorter), shorter.dropped) == (len(prompt) - 10, 10)
    assert shorter.positions.tolist() == [list(range(len(shorter)))]
    torch.testing.assert_close(tokens[0], a.projector(seen.states[0]))
    best = seen.layers[0].weights[0].mean(0)[0, 1:].topk(3).indices.sort().values
    assert selection.kept[key][1:4].tolist() == best.tolist()
    torch.testing.assert_close(tokens[1:4], everything[best])
    # Merged before the projector, which is not linear.
    rest = torch.tensor([t for t in range(1, 17) if t - 1 not in best.tolist()])
    keys = torch.nn.functional.normalize(seen.layers[0].keys[0], dim=-1)
    targets = rest[[0, 6]]
    for place, target in enumerate(targets):
        members = [int(t) for t in rest if t not in targets and (keys[t] @ keys[targets].T).argmax() == place]
        expected = seen.states[target] + (seen.states[members].mean(0) if members else 0)
        torch.testing.assert_close(tokens[4 + place], a.projector(expected))


@pytest.mark.parametrize("family", ["internvl", "llava_next", "llava_onevision", "qwen2_5_vl", "qwen3_vl"])
@torch.inference_mode()
def test_other_families_merge_features(family):
    a = adapter(family)
    asked = [request("r", "<image>\nis there a dog ?", image(0, 60, 30))]
    (prompt,), inputs, selection, (shorter,) = selection_of(a, VisionZip(keep=0.5, contextual=0.3).bind(a.info), asked)
    (key,) = inputs
    before, after, kept = features(a, asked)[key], selection.features[key], selection.kept[key]
    n = round(prompt.visual_tokens * 0.5)
    dominant = n - contextual_count(0.3, n)
    assert 0 < dominant < n == len(kept) == shorter.visual_tokens
    assert torch.equal(after.tokens[:dominant], before.tokens[kept[:dominant]])
    assert kept[:dominant].tolist() == sorted(kept[:dominant].tolist())
    assert kept[dominant:].tolist() == sorted(kept[dominant:].tolist())
    changed = (after.tokens[dominant:] - before.tokens[kept[dominant:]]).abs().amax(1)
    assert changed.max() > 1e-3
    assert set(shorter.roles[shorter.ids == a.image_token].tolist()) == {int(Role.IMAGE)}
    if before.deepstack is not None:
        assert torch.equal(after.deepstack, before.deepstack[:, kept])


class Backwards(SelectingIntervention):
    """Some tokens, the last first."""

    def choose(self, image, places, count):
        return Selected(places[:count].flip(0))


def test_tokens_are_read_in_the_order_in_which_they_are_given():
    asked = [request("r", "<image> is there a cat <image> what ?", image(0, 60, 30), image(2, 50, 50))]
    for family in ("qwen2_5_vl", "llava"):
        a = adapter(family)
        (prompt,), inputs, selection, (shorter,) = selection_of(a, Backwards(3), asked)
        runs = (prompt.ids == a.image_token).nonzero().flatten().split([len(i.roles) for i in inputs.values()])
        mine = shorter.ids == a.image_token
        for key, own in zip(inputs, range(2), strict=True):
            assert torch.equal(selection.features[key].tokens, features(a, asked)[key].tokens[:3].flip(0))
            if family == "qwen2_5_vl":
                found = shorter.positions[:, mine][:, 3 * own : 3 * own + 3]
                assert torch.equal(found, prompt.positions[:, runs[own][:3].flip(0)])
        if family == "llava":
            assert shorter.positions.tolist() == [list(range(len(shorter)))]
        assert torch.equal(shorter.ids[~mine], prompt.ids[prompt.ids != a.image_token])


def test_profiles_are_the_published_numbers():
    for name, (dominant, merged) in {"192": (162, 30), "128": (108, 20), "64": (54, 10)}.items():
        m = get_method("visionzip", {"profile": name})
        assert m.keep == dominant + merged == int(name)
        assert contextual_count(m.contextual, int(m.keep)) == merged
    assert set(method_config("visionzip")["profiles"]) == {"192", "128", "64"}


def test_one_token_is_never_a_merged_one():
    assert [contextual_count(0.9, n) for n in (0, 1, 2, 3, 10)] == [0, 0, 1, 2, 9]


@pytest.mark.parametrize("wrong", [{"keep": 0.0}, {"keep": 2.5}, {"contextual": 1.0}, {"contextual": -0.1}])
def test_refuses_what_is_no_budget(wrong):
    with pytest.raises(UsageError, match=f"visionzip.{next(iter(wrong))}"):
        VisionZip(**wrong)


@torch.inference_mode()
def test_the_language_model_reads_no_more():
    a = adapter("llava")
    main = stream(a, method("visionzip"), [request("r", "<image>\none ?", image(0, 60, 30))], 1)
    main.prefill()
    assert int((main.roles == Role.IMAGE).sum()) == 8
