"""From answers to metrics with error bars, by lm-eval's own process_results and aggregation."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np

from sinkbench.errors import UsageError
from sinkbench.leaderboard.stats import Array, Interval, clustered_mean_ci, percentile_interval, resample_totals
from sinkbench.scoring.metric import Metric, Record, Unit, cluster_sums, quotient, sorted_units
from sinkbench.scoring.schemes import SCHEMES, Contribution
from sinkbench.tasks.catalog import Direction, task_info
from sinkbench.tasks.load import documents, each_document, request_id, right_answers


class MetricResult(TypedDict):
    """A metric as run.json holds it.

    Attributes:
        value: None when no answered sample has a share in it.
        stderr: None for counts, and for fewer than two clusters.
        ci95: Likewise.
        n: Samples, groups or captions behind the value.
        direction: Which way is better.
        undefined: Present and true when a 0/0 was set to 0 (no predicted yes, no mention).
    """

    value: float | None
    stderr: float | None
    ci95: list[float] | None
    n: int
    direction: Direction
    undefined: NotRequired[bool]


class SampleScore(TypedDict):
    """What scoring adds to a sample: enough to recompute every metric and to compare methods without the data.

    Attributes:
        parsed: What was read in the answer.
        score: Credit of the sample alone, 0 to 1.
        cluster: Samples of one cluster share an image.
        counts: What it adds to the sums that metrics are made of.
        group: Name and size of the set that is judged together (circular evaluation), or None.
        targets: The right answers (load.right_answers).
    """

    parsed: Any
    score: float
    cluster: str
    counts: dict[str, float]
    group: tuple[str, int] | None
    targets: list[str]


def score_samples(
    task: Any, answers: Mapping[str, str], *, replies: Mapping[str, str] | None = None, seed: int = 0
) -> tuple[dict[str, MetricResult], dict[str, SampleScore]]:
    """Score the answered samples of a task.

    Samples without an answer are left out of every metric. Neither the order of `answers` nor that of the data changes
    a digit.

    Args:
        task: From `load_task`.
        answers: Request id to answer text.
        replies: Request id to what a judge said about the answer, for a task that needs one.
        seed: Seeds the bootstrap.

    Returns:
        Metrics by name, in the order of the task's YAML; and scores by request id.

    Raises:
        UsageError: An answer belongs to no document of the task.
    """
    info = task_info(task.task_name)
    judged = _process(task, answers, replies or {})
    records = [one.record for one in judged]
    scheme = SCHEMES[info.scheme]
    sums = _Sums([scheme.metric(name) for name in info.metrics], sorted_units(scheme, records), seed)
    aggregation = task.aggregation()
    results: dict[str, MetricResult] = {}
    for name, direction in info.metrics.items():
        metric = scheme.metric(name)
        items: list[Contribution] = [
            {"scheme": info.scheme, "metric": name, "record": one.record} for one in judged if name in one.metrics
        ]
        value = aggregation[name](items) if items else math.nan
        results[name] = _result(value, direction, sums.interval(metric), *sums.support(metric))
    return results, {one.record["id"]: _sample(one) for one in judged}


class _Judged(NamedTuple):
    """What was read in an answer, by request id, the metrics that it contributes to, and the right answers."""

    record: Record
    metrics: tuple[str, ...]
    targets: list[str]


def _process(task: Any, answers: Mapping[str, str], replies: Mapping[str, str]) -> list[_Judged]:
    """Judge every answer.

    A document's contributions differ in the metric's name only, and there may be a million: they are made again later.
    """
    judged: list[_Judged] = []
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    strangers = set(answers)
    for document in each_document(documents(task)):
        id = request_id(task, document)
        if id not in answers:
            continue
        strangers.remove(id)
        given: dict[str, Contribution] = task.process_results(
            document, [answers[id], *([replies[id]] if id in replies else [])]
        )
        record = next(iter(given.values()))["record"]
        metrics = shared.setdefault(tuple(given), tuple(given))
        judged.append(_Judged({**record, "id": id}, metrics, right_answers(task, document)))
    if strangers:
        raise UsageError(
            f"{len(strangers)} answers belong to no sample of {task.task_name}, for example {min(strangers)}",
            "Score with the same --data-dir that the questions came from.",
        )
    return judged


class _Sums:
    """The counts of all metrics, summed within clusters once, and one bootstrap that the metrics share."""

    def __init__(self, metrics: Sequence[Metric], units: list[Unit], seed: int) -> None:
        columns = list(dict.fromkeys(column for metric in metrics for column in metric.columns))
        self._place = {column: index for index, column in enumerate(columns)}
        self._sums = cluster_sums(units, columns)
        self._resampled = resample_totals(self._sums, seed=seed) if len(self._sums) > 1 else None

    def _columns(self, metric: Metric) -> list[int]:
        return [self._place[column] for column in metric.columns]

    def support(self, metric: Metric) -> tuple[int, bool]:
        """How many samples, groups or captions a metric rests on, and whether a 0/0 occurred."""
        totals = self._sums.sum(axis=0)[self._columns(metric)]
        return int(metric.support(totals)), bool(metric.value(totals)[1])

    def interval(self, metric: Metric) -> Interval | None:
        """Analytic for means and shares, else by the bootstrap; None for counts and for fewer than two clusters."""
        if self._resampled is None or metric.kind == "count":
            return None
        columns = self._columns(metric)
        if metric.kind == "mean" or _is_share(metric, self._sums[:, columns[1:]]):
            return _mean_interval(self._sums[:, columns[1:]])
        return _ratio_interval(metric, self._resampled[:, columns], len(self._sums))


def _is_share(metric: Metric, sums: Array) -> bool:
    """Whether a metric is a share of some counts in others that hold them, as hallucinated mentions of all mentions."""
    alone = len(metric.parts) == 1 and metric.parts[0].statistic is quotient
    return alone and bool((sums[:, 0] <= sums[:, 1]).all())


def _mean_interval(sums: Array) -> Interval | None:
    """The interval of a mean of values from 0 on; None with fewer than two clusters."""
    if (sums[:, 1] > 0).sum() < 2:
        return None
    proportion = bool((sums[:, 0] <= sums[:, 1]).all())
    low, high, stderr = clustered_mean_ci(sums, proportion=proportion)
    return Interval(max(low, 0.0), high, stderr)


def _ratio_interval(metric: Metric, totals: Array, n_clusters: int) -> Interval | None:
    """The bootstrap interval; resamples in which no part has support are left out."""
    values, _ = metric.value(totals)
    drawn = values[~np.isnan(values)]
    return percentile_interval(drawn, n_clusters) if len(drawn) > 1 else None


def _result(value: float, direction: Direction, interval: Interval | None, n: int, undefined: bool) -> MetricResult:
    result: MetricResult = {
        "value": None if math.isnan(value) else float(value),
        "stderr": interval.stderr if interval else None,
        "ci95": [interval.low, interval.high] if interval else None,
        "n": n,
        "direction": direction,
    }
    if undefined:
        result["undefined"] = True
    return result


def _sample(judged: _Judged) -> SampleScore:
    record = judged.record
    return {
        "parsed": record["parsed"],
        "score": record["score"],
        "cluster": record["cluster"],
        "counts": record["counts"],
        "group": record["group"],
        "targets": judged.targets,
    }
