"""Scores of many variants of a method on the same questions, for searches (of heads, say)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from sinkbench.adapters.base import Adapter
from sinkbench.backend import Task
from sinkbench.engine.generate import Engine
from sinkbench.errors import SinkbenchError
from sinkbench.methods.base import Method
from sinkbench.request import Request


def score_variants(
    adapter: Adapter,
    variants: Mapping[str, Method],
    task: Task,
    requests: Sequence[Request],
    *,
    batch_size: int | Literal["auto"] = "auto",
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, dict[str, Any]]:
    """Answer the same requests under every variant and score them; vision and untouched prefixes are computed once.

    Args:
        adapter: The model.
        variants: Methods by any name; the plain model is "greedy" among them, if it is wanted.
        task: Scores the answers.
        requests: Some or all of the task's questions.
        batch_size: Most samples a batch.
        seed: For sampling.
        progress: Told how many answers are done, of how many.

    Returns:
        The task's metrics by name, as run.json has them, for each variant.

    Raises:
        SinkbenchError: A question cannot be answered: what is learned must not depend on which ones.
    """
    engine = Engine(adapter, variants, batch_size, seed)
    answers: dict[str, dict[str, str]] = {name: {} for name in variants}
    total = len(variants) * len(requests)
    for name, responses in engine.sweep(requests, lambda _name, _request: True):
        for response in responses:
            if response.error:
                raise SinkbenchError(f"{response.id} has no answer: {response.error}", "Mend the data.")
            answers[name][response.id] = response.text
        progress(sum(map(len, answers.values())), total)
    return {name: task.score(given)[0] for name, given in answers.items()}
