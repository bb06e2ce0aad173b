"""Patched passes on tiny random models: the invariants of causal tracing."""

from dataclasses import replace

import pytest
import torch
from harness import CORE_FAMILIES, adapter, close, count_hooks, image, logits, request

from sinkbench.calibration.tracing import PARTS, Traced, trace
from sinkbench.engine.context import Role
from sinkbench.errors import SinkbenchError
from sinkbench.methods import get_method
from sinkbench.request import ImageRef

ANSWERS = (5, 9)
NOISE = 4.0


def asked():
    wide, tall = image(0, 60, 30), image(1, 30, 60)
    return [
        request("wide/dog", "<image>\nis there a dog in the image ?", wide),
        request("wide/many", "<image>\nhow many red cat do you see in the image ?", wide),
        request("tall/dog", "<image>\nis there a dog ?", tall),
    ]


def labelled(a, requests, label):
    return [Traced(prompt, label(prompt), ANSWERS) for prompt in map(a.encode, requests)]


def whole(prompt):
    """Everything from the first image token on is category 1."""
    codes = torch.zeros(len(prompt), dtype=torch.uint8)
    codes[int((prompt.roles == Role.IMAGE).nonzero()[0]) :] = 1
    return codes


def three(prompt):
    """Image, text, last; 4 is nowhere."""
    codes = whole(prompt)
    codes[prompt.prefix_length :] = 2
    codes[-1] = 3
    return codes


def traced(a, requests, label, categories, **options):
    return trace(a, labelled(a, requests, label), categories, options.pop("noise", NOISE), **options)


@pytest.mark.parametrize("family", CORE_FAMILIES)
def test_the_clean_pass_is_the_plain_model_and_noise_is_seen(family):
    a, requests = adapter(family), asked()
    found = traced(a, requests, three, 4)
    plain = logits(a, get_method("greedy"), requests, torch.zeros(3, 0, dtype=torch.int64))[:, 0].softmax(-1)
    close(found.clean, plain[:, list(ANSWERS)].sum(-1), atol=1e-6)
    assert ((found.clean - found.corrupted).abs() > 1e-6).all()


@pytest.mark.parametrize("family", CORE_FAMILIES)
def test_patching_everything_repairs_all_and_patching_nothing_nothing(family):
    a = adapter(family)
    found = traced(a, asked(), three, 4)
    block = PARTS.index("block")
    # h of the last layer at the last token is all that the answer is made of.
    assert found.patched[block, -1, 2].equal(found.clean)
    assert found.patched[:, :, 3].equal(found.corrupted.expand(3, a.info.n_layers, -1))
    assert found.present.tolist() == [[True] * 3] * 3 + [[False] * 3]
    # The last layer's other tokens are read by nobody.
    assert found.patched[:, -1, :2].equal(found.corrupted.expand(3, 2, -1))
    everywhere = traced(a, asked(), whole, 1)
    close(everywhere.patched[block, :, 0], found.clean.expand(a.info.n_layers, -1), atol=1e-6)


def test_what_the_last_layer_does_at_other_tokens_really_changes_nothing():
    a, (one, _, other) = adapter("llava"), labelled(adapter("llava"), asked(), three)
    # A question whose last token is in the category makes the batch run where the pass is otherwise spared.
    codes = other.codes.clone()
    codes[-1] = 1
    found = trace(a, [one, replace(other, codes=codes)], 3, NOISE, wanted=[1])
    assert found.patched[:, -1, 0, 0].equal(found.corrupted[0].expand(3))
    assert found.patched[PARTS.index("block"), -1, 0, 1].equal(found.clean[1])


@pytest.mark.parametrize("family", CORE_FAMILIES)
def test_each_part_counts_by_itself(family):
    found = traced(adapter(family), asked(), three, 3)
    gain = (found.patched - found.corrupted).abs().amax(-1)
    # Attention and MLP of an early layer at the image, and of a middle one at the last token.
    assert (gain[:2, 0, 0] > 0).all()
    assert (gain[:2, 3, 2] > 0).all()
    assert not found.patched[0].equal(found.patched[1])


@pytest.mark.parametrize("family", CORE_FAMILIES)
def test_a_batch_is_its_samples_alone(family):
    a = adapter(family)
    together = traced(a, asked(), three, 3)
    alone = [traced(a, [one], three, 3) for one in asked()]
    for name in ("clean", "corrupted", "patched"):
        parts = torch.cat([getattr(one, name) for one in alone], dim=-1)
        close(getattr(together, name), parts, atol=1e-6)
    small = traced(a, asked(), three, 3, batch_size=2)
    close(together.patched, small.patched, atol=1e-6)


def test_noise_is_the_same_for_one_seed_only():
    a = adapter("llava")
    one, same, other = (traced(a, asked(), three, 3, seed=seed) for seed in (1, 1, 2))
    assert one.corrupted.equal(same.corrupted)
    assert not one.corrupted.equal(other.corrupted)
    none = traced(a, asked(), three, 3, noise=0.0)
    close(none.corrupted, none.clean, atol=1e-6)
    close(none.patched, none.clean.expand_as(none.patched), atol=1e-6)


def test_only_wanted_categories_are_patched_and_progress_ends_at_the_total():
    a, seen = adapter("llava"), []
    found = traced(a, asked(), three, 3, wanted=[3], progress=lambda done, total: seen.append((done, total)))
    full = traced(a, asked(), three, 3)
    close(found.patched[:, :, 2], full.patched[:, :, 2], atol=1e-6)
    assert not found.present[:2].any()
    total = 3 * (2 + 3 * a.info.n_layers)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_the_model_is_left_as_it_was_found():
    a = adapter("llava")
    before = count_hooks(a.model)
    traced(a, asked(), three, 3)
    assert count_hooks(a.model) == before


def test_deeper_features_of_the_image_do_not_disturb_the_last_layer():
    a = adapter("qwen3_vl")
    found = traced(a, asked(), three, 3)
    assert found.patched[PARTS.index("block"), -1, 2].equal(found.clean)


def test_an_unreadable_image_is_named():
    a = adapter("llava")
    each = labelled(a, asked()[:1], three)[0]
    lost = replace(each.prompt, images=(ImageRef("/nowhere.png"),))
    with pytest.raises(SinkbenchError, match=r"wide/dog: .*nowhere\.png"):
        trace(a, [replace(each, prompt=lost)], 3, NOISE)
