"""Which prompts are answered together."""

from collections.abc import Callable, Hashable, Sequence

from sinkbench.engine.prompt import Prompt

AUTO_BATCH = {"cpu": 54, "cuda": 72}
"""Samples per batch by device type when the user does not choose: POPE asks 18 questions about an image."""


def plan_batches(prompts: Sequence[Prompt], batch_size: int) -> list[list[Prompt]]:
    """Group prompts into batches: equal generation settings, questions about one image together, longest first.

    The longest batch comes first, so that memory runs out at once or not at all and the ETA is pessimistic. Questions
    about one image are split over two batches only where they do not fit into one: each part costs the prefix again.

    Args:
        prompts: All prompts of a run.
        batch_size: Most samples in a batch.
    """
    batches: list[list[Prompt]] = []
    for same_settings in _grouped(prompts, lambda prompt: prompt.request.generation):
        groups = _grouped(same_settings, lambda prompt: prompt.prefix_key)
        groups.sort(key=lambda group: -max(len(p) for p in group))
        batch: list[Prompt] = []
        for group in groups:
            for start in range(0, len(group), batch_size):
                part = group[start : start + batch_size]
                if len(batch) + len(part) > batch_size:
                    batches.append(batch)
                    batch = []
                batch = batch + part
        batches.append(batch)
    return batches


def _grouped(prompts: Sequence[Prompt], key: Callable[[Prompt], Hashable]) -> list[list[Prompt]]:
    groups: dict[Hashable, list[Prompt]] = {}
    for prompt in prompts:
        groups.setdefault(key(prompt), []).append(prompt)
    return list(groups.values())
