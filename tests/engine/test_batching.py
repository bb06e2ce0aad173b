"""Which prompts are answered together."""

import os
from dataclasses import replace

import pytest
from harness import adapter, image, request

from sinkbench.engine.batching import Budget, plan_batches


def prompts(n_images: int, n_questions: int, **settings: object):
    a = adapter("llava")
    words = ["dog", "cat", "car", "tree", "red"]
    return [
        a.encode(request(f"{i}/{q}", f"<image>\nis there a {words[q % 5]} ? {'yes ' * q}", image(40 + i), **settings))
        for q in range(n_questions)
        for i in range(n_images)
    ]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 7, 64])
def test_every_prompt_is_in_one_batch_and_no_batch_is_too_large(batch_size):
    asked = prompts(5, 4)
    batches = plan_batches(asked, Budget(batch_size))
    planned = [prompt.request.id for batch in batches for prompt in batch]
    assert sorted(planned) == sorted(prompt.request.id for prompt in asked)
    assert all(0 < len(batch) <= batch_size for batch in batches)


def test_questions_about_one_image_stay_together_where_they_fit():
    batches = plan_batches(prompts(5, 4), Budget(7))
    images = [{prompt.images[0].key for prompt in batch} for batch in batches]
    assert sum(map(len, images)) == 5


def test_longest_first_and_equal_settings_together():
    short, long = prompts(1, 2), prompts(1, 5, max_new_tokens=9)
    batches = plan_batches([*short, *long, *prompts(2, 1)], Budget(64))
    assert {len({p.request.generation for p in batch}) for batch in batches} == {1}
    lengths = [max(map(len, batch)) for batch in plan_batches([*prompts(3, 1), *prompts(4, 6)[3::4]], Budget(6))]
    assert lengths[0] == max(lengths) > lengths[-1]


def test_nothing_to_answer_makes_no_batch():
    assert plan_batches([], Budget(8)) == []


def test_memory_bounds_a_batch_and_a_second_branch_counts():
    """Slots: each shared prefix once, each question's own part and the room for its answer for every branch."""
    asked = prompts(4, 3)
    prefix, own = asked[0].prefix_length, max(len(p) - p.prefix_length for p in asked) + 6
    for images, branches in ((1, 1), (2, 1), (2, 2), (4, 2)):
        slots = images * prefix + branches * 3 * images * own
        batches = plan_batches(asked, Budget(64, slots, branches=branches))
        assert max(map(len, batches)) == 3 * images
        assert max(map(len, plan_batches(asked, Budget(64, slots - 1, branches=branches)))) < 3 * images


def test_tokens_of_a_pass_bound_a_batch_and_one_sample_always_fits():
    asked = prompts(2, 4)
    longest = max(len(p) - p.prefix_length for p in asked)
    assert max(map(len, plan_batches(asked, Budget(64, pass_tokens=3 * longest)))) <= 3
    assert {len(batch) for batch in plan_batches(asked, Budget(64, slots=1, pass_tokens=1))} == {1}


def test_automatic_budget_follows_free_memory_and_contrast():
    from harness import method

    from sinkbench.engine.batching import _MEMORY_SHARE
    from sinkbench.engine.cache import kv_bytes_per_token
    from sinkbench.engine.generate import Engine

    a = adapter("llava")
    plain, contrast, beams = (Engine(a, method(name)).budget for name in ("greedy", "pai", "pai+beam"))
    assert (plain.branches, contrast.branches, beams.branches) == (1, 2, 6)
    assert beams.samples == plain.samples // 3
    both = Engine(a, {name: method(name) for name in ("beam", "pai", "greedy")})
    assert both.budget == replace(plain, slots=both.budget.slots), "batches are those of the least demanding method"
    rows = {name: (lane.budget.samples, lane.budget.branches) for name, lane in both.lanes.items()}
    assert rows == {"beam": (plain.samples // 3, 3), "pai": (plain.samples, 2), "greedy": (plain.samples, 1)}
    assert {lane.budget.slots for lane in both.lanes.values()} == {both.budget.slots}
    per_token = kv_bytes_per_token(a.language_model.config, a.dtype)
    assert per_token == 2 * 6 * 2 * 16 * 4
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < plain.slots < _MEMORY_SHARE * free / per_token
    assert Engine(a, method("greedy"), batch_size=7).budget.samples == 7
    assert Engine(a, method("beam"), batch_size=7).budget.samples == 7


@pytest.mark.parametrize("name", ["beam", "vcd", "mma_mask", "vicrop", "opera"])
def test_a_method_that_takes_less_answers_a_shared_batch_in_parts(name, monkeypatch):
    from harness import method, requests

    from sinkbench.engine.generate import Engine

    a = adapter("llava")
    expected = {r.id: r for batch in Engine(a, method(name), batch_size=64).answer(requests()) for r in batch}
    engine = Engine(a, {"greedy": method("greedy"), name: method(name)}, batch_size=64)
    lane = engine.lanes[name]
    lane.budget = replace(lane.budget, samples=2)
    sizes, run_part = [], engine._run_part

    def counted(which, prompts, *rest):
        sizes.append((which, len(prompts)))
        return run_part(which, prompts, *rest)

    monkeypatch.setattr(engine, "_run_part", counted)
    got = [(which, r) for which, batch in engine.sweep(requests(), lambda *_: True) for r in batch]
    assert {r.id: r.text for which, r in got if which == name} == {key: r.text for key, r in expected.items()}
    assert len(got) == 2 * len(expected)
    assert ("greedy", len(expected)) in sizes
    assert {size for which, size in sizes if which == name} <= {1, 2}
