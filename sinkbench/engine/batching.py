"""Which prompts are answered together."""

from collections.abc import Callable, Hashable, Sequence

from sinkbench.engine.prompt import Prompt

AUTO_BATCH = {"cpu": 32, "cuda": 64}
"""Samples per batch by device type when the user does not choose."""


def plan_batches(prompts: Sequence[Prompt], batch_size: int) -> list[list[Prompt]]:
    """Group prompts into batches: equal generation settings, questions about one image together, longest first.

    The longest batch comes first, so that memory runs out at once or not at all and the ETA is pessimistic.

    Args:
        prompts: All prompts of a run.
        batch_size: Most samples in a batch.
    """
    batches = []
    for same_settings in _grouped(prompts, lambda prompt: prompt.request.generation):
        groups = _grouped(same_settings, lambda prompt: prompt.prefix_key)
        groups.sort(key=lambda group: -max(len(p) for p in group))
        queue = [prompt for group in groups for prompt in group]
        batches += [queue[i : i + batch_size] for i in range(0, len(queue), batch_size)]
    return batches


def _grouped(prompts: Sequence[Prompt], key: Callable[[Prompt], Hashable]) -> list[list[Prompt]]:
    groups: dict[Hashable, list[Prompt]] = {}
    for prompt in prompts:
        groups.setdefault(key(prompt), []).append(prompt)
    return list(groups.values())
