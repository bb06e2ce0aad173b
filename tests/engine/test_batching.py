"""Which prompts are answered together."""

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
