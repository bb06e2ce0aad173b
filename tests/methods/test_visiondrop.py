"""VisionDrop: the file of the released code end to end, its plan of tokens, and that questions have no say."""

from itertools import chain, pairwise

import pytest
import torch
import vectors
from harness import adapter, close, features, forced_tokens, image, logits, open_stream, preprocessed, request, stream
from vectors import BareLlama, load

from sinkbench.engine.selection import Selection
from sinkbench.errors import UsageError
from sinkbench.methods import get_method, method_config
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.pruning.visiondrop import Stages, VisionDrop, falling_counts
from sinkbench.methods.pruning.visionzip import VisionZip, contextual_count

LLAVA = ModelInfo("m", n_layers=32, n_heads=32, n_kv_heads=32, hidden_size=4096, vision_layer=-2)
RELEASED = (42, 6, 30, 5, 22, 4, 16, 3)


@pytest.fixture
def runs(request):
    return load(request, "visiondrop", "main")


def recording(bound):
    """The same, and a list that receives the entries of its stages and what is kept."""
    seen, keep_tokens = [], bound.keep_tokens

    def recorded(entry, ctx):
        kept = keep_tokens(entry, ctx)
        seen.append((entry, kept))
        return kept

    bound.keep_tokens = recorded
    return bound, seen


def recording_norms(model):
    """A list that receives what leaves the final norm; and what ends that."""
    final = []
    return final, model.norm.register_forward_hook(lambda _module, _args, output: final.append(output))


@torch.inference_mode()
def test_the_released_code_end_to_end(runs):
    for vector in runs:
        p, tolerance = vector.params, vector.tolerance
        config, pairs = p["config"], p["dominant_contextual"]
        method = VisionDrop(schedule=tuple(chain(*pairs)), layers=tuple(p["stage_layers"]))
        # The file begins behind the first stage.
        bound, seen = recording(Stages(method.bind(vectors.info(config["num_hidden_layers"], config)).plan))
        a = BareLlama(vector)
        final, hook = recording_norms(a.language_model)
        main = open_stream(a, bound, a.prompts(), a.features(), vector["tokens"].shape[1])
        found = [main.prefill(), *(main.step(tokens.long()) for tokens in vector["tokens"][:, :-1].T)]
        hook.remove()
        torch.testing.assert_close(torch.stack(found, 1), vector["logits"], atol=tolerance["logits_atol"], rtol=0)
        torch.testing.assert_close(final[0], vector["final_hidden"], atol=tolerance["hidden_atol"], rtol=0)
        assert torch.equal(torch.stack(found, 1).argmax(-1), vector["tokens"].long())
        assert [entry.layer for entry, _ in seen] == p["stage_layers"]
        for stage, (entry, kept) in enumerate(seen):
            check_stage(vector, stage, entry, kept)
        n_other = int((~vector["image_mask"].bool()).sum())
        assert [n + n_other for n in main.pruning.tokens_by_layer()[0].tolist()] == p["cache_len_per_layer"]


def check_stage(vector, stage, entry, kept):
    for name, hidden in (("in", entry.hidden), ("out", kept.hidden)):
        expected = vector[f"stage{stage}_hidden_{name}"]
        torch.testing.assert_close(hidden, expected, atol=vector.tolerance["hidden_atol"], rtol=0)
    places = entry.ctx.is_image[0].nonzero().flatten()
    first = int(places[0])
    index = kept.index[0][torch.isin(kept.index[0], places)] - first
    dominant, merged = vector.params["dominant_contextual"][stage + 1]
    assert torch.equal(index[:dominant], vector[f"stage{stage}_kept_index"].long())
    assert len(index) == dominant + merged
    # The dominant tokens are those that came, to the bit.
    assert torch.equal(kept.hidden[0, first : first + dominant], entry.hidden[0, places[index[:dominant]]])


def test_the_rule_gives_the_released_numbers():
    method = VisionDrop(keep=32)
    plan = method.bind(LLAVA).plan
    assert plan.layers == (8, 16, 24)
    assert plan.stages(48, 576, 1) == [(35, 5), (26, 4), (19, 3)]
    encoder = plan.encoder(-2)
    assert (encoder.keep, contextual_count(encoder.contextual, 48)) == (48, 6)
    released = VisionDrop(schedule=RELEASED).bind(LLAVA).plan
    assert released.stages(48, 576, 1) == plan.stages(48, 576, 1)
    first = released.encoder(-2)
    assert (first.keep, contextual_count(first.contextual, 48)) == (48, 6)


def test_profiles_meet_their_mean():
    profiles = method_config("visiondrop")["profiles"]
    assert set(profiles) == {"192", "128", "64", "32"}
    for name in profiles:
        plan = get_method("visiondrop", {"profile": name}).bind(LLAVA).plan
        first = int(plan.encoder(-2).keep)
        counts = [first, *(total for total, _ in plan.stages(first, 576, 1))]
        assert first == 1.5 * int(name)
        assert sum(counts) == 4 * int(name)
        assert all(merged > 0 for _, merged in plan.stages(first, 576, 1))


@pytest.mark.parametrize("mean", [3, 17, 100, 333, 380, 500, 576])
def test_counts_fall_geometrically_to_the_mean(mean):
    first = min(576, round(1.5 * mean))
    counts = [first, *falling_counts(first, mean, (8, 16, 24), 32)]
    assert sum(counts) == 4 * mean
    shares = [later / earlier for earlier, later in pairwise(counts)]
    assert all(share <= 1 for share in shares)
    assert max(shares) - min(shares) < 4 / min(counts)
    # Stretches of other lengths; the last one makes up for rounding.
    uneven = falling_counts(first, mean, (2, 4, 20), 32)
    spent = 2 * first + 2 * uneven[0] + 16 * uneven[1] + 12 * uneven[2]
    assert abs(spent / 32 - mean) <= 6 / 32


def test_a_share_is_of_the_tokens_before_anything_was_dropped():
    plan = VisionDrop(keep=1 / 3).bind(LLAVA).plan
    assert plan.encoder(-2).keep == 0.5
    assert [total for total, _ in plan.stages(288, 576, 1)] == [211, 155, 114]
    # Above two thirds all tokens enter.
    plan = VisionDrop(keep=0.75).bind(LLAVA).plan
    assert plan.encoder(-2).keep == 1.0
    assert 576 + sum(total for total, _ in plan.stages(576, 576, 1)) == 4 * 432
    # A count is of each image.
    plan = VisionDrop(keep=32).bind(LLAVA).plan
    assert 96 + sum(total for total, _ in plan.stages(96, 1152, 2)) == 4 * 64
    assert VisionDrop(schedule=RELEASED).bind(LLAVA).plan.stages(96, 1152, 2) == [(70, 10), (52, 8), (38, 6)]


def kept_sets(a, method, asked):
    """Of each sample what the first stage keeps, and of each later one which of the image tokens that it finds."""
    bound, seen = recording(method.bind(a.info))
    prompts = [a.encode(one) for one in asked]
    selection = Selection.of(a, bound, prompts, preprocessed(a, prompts), features(a, asked), {})
    open_stream(a, bound, prompts, features(a, asked), 1).prefill()
    sets = [[selection.kept[prompt.images[0].key].tolist()] for prompt in prompts]
    for entry, kept in seen:
        rank = entry.ctx.is_image.cumsum(1) - 1
        for row, own in enumerate(sets):
            index = kept.index[row]
            index = index[index >= 0]
            own.append(rank[row, index[entry.ctx.is_image[row, index]]].tolist())
    return sets


QUESTIONS = ("is there a dog in the image ?", "one ?", "how many red cat do you see in the image ?")


@pytest.mark.parametrize("family", ["internvl", "llava", "llava_next", "qwen2_5_vl"])
@torch.inference_mode()
def test_no_question_changes_what_is_kept(family):
    a = adapter(family)
    picture, method = image(0, 60, 30), VisionDrop(keep=0.4, contextual=0.3)
    asked = [request(str(i), f"<image>\n{text}", picture) for i, text in enumerate(QUESTIONS)]
    together = kept_sets(a, method, asked)
    assert together[0] == together[1] == together[2]
    assert [kept_sets(a, method, [one])[0] for one in asked] == together
    sizes = [len(stage) for stage in together[0]]
    assert len(sizes) == 4
    assert sizes[0] > sizes[1] > sizes[3]
    (other,) = kept_sets(a, method, [request("o", f"<image>\n{QUESTIONS[0]}", image(9, 60, 30))])
    assert other != together[0]


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_vl"])
@torch.inference_mode()
def test_stages_that_keep_all_leave_visionzip_alone(family):
    """D_j = n_(j-1) and C_j = 0."""
    a = adapter(family)
    asked = [request(str(i), f"<image>\n{text}", image(i, 60, 30)) for i, text in enumerate(QUESTIONS)]
    forced = forced_tokens(len(asked))
    drop = VisionDrop(schedule=(5, 2, 7, 0, 7, 0, 7, 0))
    close(logits(a, drop, asked, forced), logits(a, VisionZip(keep=7, contextual=2 / 7), asked, forced))
    less = VisionDrop(schedule=(5, 2, 7, 0, 3, 2, 3, 1))
    assert (logits(a, less, asked, forced) - logits(a, drop, asked, forced)).abs().max() > 1e-2


@torch.inference_mode()
def test_samples_of_a_batch_have_plans_of_their_own():
    a = adapter("llava_next")
    asked = [
        request("wide", "<image>\none ?", image(0, 60, 30)),
        request("square", "<image>\nis there a dog ?", image(2, 50, 50)),
        request("two", "<image> a <image> what ?", image(0, 60, 30), image(2, 50, 50)),
        request("text", "how many are there ?"),
    ]
    method = VisionDrop(keep=0.5)
    main = stream(a, method, asked, 1)
    main.prefill()
    for row, (counts, one) in enumerate(zip(main.pruning.tokens_by_layer().tolist(), asked, strict=True)):
        full = a.encode(one).visual_tokens
        assert abs(sum(counts) / len(counts) - full / 2) <= 0.5, row
        assert counts == sorted(counts, reverse=True)
        assert (len(set(counts)) == 4) == bool(one.images)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"keep": 0.0}, "keep"),
        ({"contextual": 1.0}, "contextual"),
        ({"schedule": (42, 6)}, "schedule"),
        ({"schedule": (42, 6, 30)}, "schedule"),
        ({"schedule": (42, 6, 45, 6)}, "schedule"),
        ({"schedule": (42, 6, 0, 6)}, "schedule"),
        ({"schedule": (42, 6, 30, -1)}, "schedule"),
        ({"schedule": (1, 0, 1, 0)}, "schedule"),
    ],
)
def test_refuses_what_is_no_plan(wrong, what):
    with pytest.raises(UsageError, match=f"visiondrop.{what}"):
        VisionDrop(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": (8, 8)},
        {"layers": (16, 8)},
        {"layers": (8, 32)},
        {"layers": (8,), "schedule": RELEASED},
        {"layers": (22,)},
    ],
)
def test_refuses_layers_where_it_cannot_be(wrong):
    with pytest.raises(UsageError, match=r"visiondrop\.layers"):
        VisionDrop(**wrong).bind(LLAVA)


def test_early_layers_are_not_too_late():
    assert VisionDrop(layers=(21,)).bind(LLAVA).prunes_at == (21,)
    assert VisionDrop(layers=(22,), schedule=(4, 1, 2, 1)).bind(LLAVA).prunes_at == (22,)
