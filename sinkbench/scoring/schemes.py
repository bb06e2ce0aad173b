"""Metric families by name, and their bridge to lm-eval's process_results and aggregation."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from sinkbench.scoring import (
    amber,
    amber_d,
    chair,
    choice,
    exact_match,
    hallusion,
    in_context,
    llava_bench,
    mme,
    mmhal,
    mmvet,
    multiple_choice,
    pope,
    vqa,
)
from sinkbench.scoring.metric import Record, Scheme, Score, evaluate, record
from sinkbench.scoring.rubric import Rubric

SCHEMES: dict[str, Scheme] = {
    "pope": pope.SCHEME,
    "chair": chair.SCHEME,
    "multiple_choice": multiple_choice.SCHEME,
    "choice": choice.SCHEME,
    "cvbench": choice.CVBENCH,
    "mmstar": choice.MMSTAR,
    "mmvp": choice.MMVP,
    "vqa": vqa.SCHEME,
    "amber_g": amber.SCHEME,
    "mme": mme.SCHEME,
    "amber": amber_d.SCHEME,
    "hallusion": hallusion.SCHEME,
    "in_context": in_context.SCHEME,
    "llava_bench": llava_bench.SCHEME,
    "mmhal": mmhal.SCHEME,
    "mmvet": mmvet.SCHEME,
    "exact_match": exact_match.SCHEME,
}

RUBRICS: dict[str, Rubric] = {"llava_bench": llava_bench.RUBRIC, "mmhal": mmhal.RUBRIC, "mmvet": mmvet.RUBRIC}
"""By scheme, what a judge is asked where no rule can score; process_results gets its reply after the answer."""


class Contribution(TypedDict):
    """What one document gives to one metric; it names scheme and metric, so that one aggregation serves them all."""

    scheme: str
    metric: str
    record: Record


def contributions(
    scheme: str, metrics: Iterable[str], document: Mapping[str, Any], score: Score
) -> dict[str, Contribution]:
    """The result of lm-eval's process_results.

    Args:
        scheme: A key of `SCHEMES`.
        metrics: Names of the task's metrics.
        document: A row with "id" and "cluster".
        score: The judged answer.
    """
    judged = record(str(document["id"]), str(document["cluster"]), score)
    return {name: {"scheme": scheme, "metric": name, "record": judged} for name in metrics}


def aggregate(items: Sequence[Contribution]) -> float:
    """lm-eval's aggregation of one metric over all documents; NaN when none of them has a share in it."""
    first = items[0]
    return evaluate(SCHEMES[first["scheme"]], first["metric"], [item["record"] for item in items]).value
