"""Metrics as functions of additive counts.

A scored sample contributes counts ("random.tp": 1), and every metric is a function of the counts' sums: F1 of three
sums, CHAIR_i of two. So a metric needs no second pass over the samples, does not depend on their order, and can be
bootstrapped over clusters by summing again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""From sums (..., S) of S counts to values (...); NaN where the value is undefined (0/0)."""


@dataclass(frozen=True)
class Score:
    """How one answer was read and judged.

    Attributes:
        parsed: What the parser took from the answer, JSON-ready; None when it found nothing.
        score: Credit of the sample alone, 0 to 1.
        counts: What the sample adds to the sums, by column.
        group: Name and size of the set of samples that are judged together (circular evaluation); None: alone.
    """

    parsed: Any
    score: float
    counts: Mapping[str, float]
    group: tuple[str, int] | None = None


class Record(TypedDict):
    """A `Score` with its sample's id and cluster, JSON-ready.

    Samples of a cluster (questions on one image) are not independent, so that resampling draws whole clusters.
    """

    id: str
    cluster: str
    parsed: Any
    score: float
    counts: dict[str, float]
    group: tuple[str, int] | None


class Unit(NamedTuple):
    """What is summed: usually a record's counts, or those of a group of records."""

    cluster: str
    counts: Mapping[str, float]


def record(id: str, cluster: str, score: Score) -> Record:
    """Attach a score to its sample."""
    return {
        "id": id,
        "cluster": cluster,
        "parsed": score.parsed,
        "score": score.score,
        "counts": dict(score.counts),
        "group": score.group,
    }


def record_units(records: Iterable[Record]) -> list[Unit]:
    """One unit a record."""
    return [Unit(entry["cluster"], entry["counts"]) for entry in records]


@dataclass(frozen=True)
class Part:
    """One statistic of a metric.

    Attributes:
        columns: The counts that it needs.
        statistic: Its value from their sums.
        support: The count that says how many samples, groups or captions the value rests on.
    """

    columns: tuple[str, ...]
    statistic: Statistic
    support: str


@dataclass(frozen=True)
class Metric:
    """A named number over a set of samples.

    Attributes:
        name: Plain name, a split or category as prefix: "f1", "adversarial/f1".
        parts: A metric of several parts is their unweighted mean over those with support (a macro average).
        kind: "mean" is a plain mean, one part with the columns sum and number of the values (analytic standard error);
            "ratio" any other function of sums (bootstrap); "count" a sum over the parts (no error bar).
    """

    name: str
    parts: tuple[Part, ...]
    kind: Literal["mean", "ratio", "count"] = "ratio"

    @property
    def columns(self) -> tuple[str, ...]:
        """The counts it needs, each part's support first; the order of `value`'s last axis."""
        return tuple(column for part in self.parts for column in (part.support, *part.columns))

    def value(self, sums: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Evaluate the metric.

        Args:
            sums: (..., len(columns)).

        Returns:
            Values (...), NaN where no part has support and 0 in place of 0/0; and (...) true where a 0/0 occurred.
        """
        values, supported, start = [], [], 0
        for part in self.parts:
            stop = start + 1 + len(part.columns)
            supported.append(sums[..., start] > 0)
            values.append(part.statistic(sums[..., start + 1 : stop]))
            start = stop
        stacked, present = np.stack(values, axis=-1), np.stack(supported, axis=-1)
        undefined = np.any(np.isnan(stacked) & present, axis=-1)
        total = np.where(present, np.nan_to_num(stacked), 0.0).sum(axis=-1)
        if self.kind == "count":
            return total, undefined
        return ratio(total, present.sum(axis=-1).astype(np.float64)), undefined

    def support(self, sums: Array) -> Array:
        """How many samples, groups or captions the value rests on, (...), from `sums` as in `value`."""
        starts = np.cumsum([0, *(1 + len(part.columns) for part in self.parts[:-1])])
        total: Array = sums[..., starts].sum(axis=-1)
        return total


class Evaluated(NamedTuple):
    """A metric's value, the number of samples, groups or captions behind it, and whether 0/0 was set to 0."""

    value: float
    n: int
    undefined: bool


@dataclass(frozen=True)
class Scheme:
    """A family of metrics that share their counts.

    Attributes:
        metric: Finds a metric by name; raises ValueError for a name that the family does not have.
        units: From records to what is summed.
    """

    metric: Callable[[str], Metric]
    units: Callable[[Iterable[Record]], list[Unit]] = record_units


def ratio(numerator: Array, denominator: Array) -> Array:
    """Element-wise quotient, NaN where the denominator is zero."""
    quotient: Array = np.divide(
        numerator, denominator, out=np.full(np.shape(denominator), np.nan), where=np.asarray(denominator) != 0
    )
    return quotient


def quotient(sums: Array) -> Array:
    """First column over second column, (..., 2) -> (...)."""
    return ratio(sums[..., 0], sums[..., 1])


def total(sums: Array) -> Array:
    """Sum of all columns, (..., S) -> (...)."""
    summed: Array = sums.sum(axis=-1)
    return summed


def cluster_sums(units: Sequence[Unit], columns: Sequence[str]) -> Array:
    """Sum counts within clusters.

    Returns:
        (C, len(columns)), clusters in the order of their names; a count that a unit lacks is 0.
    """
    _, index = np.unique(np.array([unit.cluster for unit in units], dtype=str), return_inverse=True)
    counts = np.array([[unit.counts.get(column, 0.0) for column in columns] for unit in units], dtype=np.float64)
    n_clusters = int(index.max()) + 1 if len(units) else 0
    sums = np.zeros((n_clusters, len(columns)))
    np.add.at(sums, index, counts.reshape(len(units), len(columns)))
    return sums


def sorted_units(scheme: Scheme, records: Iterable[Record]) -> list[Unit]:
    """The units of records taken in the order of their ids, so that sums are the same to the last bit in any order."""
    return scheme.units(sorted(records, key=lambda entry: entry["id"]))


def evaluate(scheme: Scheme, name: str, records: Iterable[Record]) -> Evaluated:
    """One metric over a set of records; the value is NaN when no record has a share in it."""
    metric = scheme.metric(name)
    sums = cluster_sums(sorted_units(scheme, records), metric.columns).sum(axis=0)
    value, undefined = metric.value(sums)
    return Evaluated(float(value), int(metric.support(sums)), bool(undefined))
