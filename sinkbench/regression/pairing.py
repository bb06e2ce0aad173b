"""Which run of one side belongs to which of the other, and in what the two differ."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sinkbench.errors import UsageError
from sinkbench.regression.cell import Cell

_SPEC = ("generation", "limit", "seed", "dtype", "batch_size", "share_prefix")
_IGNORED = {"task.n_run", "task.n_failed", "task.n_total", "method.paper"}
"""What a comparison shows elsewhere, or what decides nothing."""

Difference = dict[str, Any]
"""what: name of the setting; first, second: its values."""


class Pairing(NamedTuple):
    """Runs that belong together, and those of one side only."""

    pairs: list[tuple[Cell, Cell]]
    only_first: list[Cell]
    only_second: list[Cell]


def pair(first: Sequence[Cell], second: Sequence[Cell]) -> Pairing:
    """Pair runs that were asked for in the same words, then runs whose parameters came out the same."""
    pairs: list[tuple[Cell, Cell]] = []
    left, right = list(first), list(second)
    for key in ("asked_for", "settled"):
        others = {getattr(cell, key): cell for cell in right}
        for cell in list(left):
            if (other := others.pop(getattr(cell, key), None)) is not None:
                pairs.append((cell, other))
                left.remove(cell)
                right.remove(other)
    order = {id(cell): place for place, cell in enumerate(first)}
    pairs.sort(key=lambda both: order[id(both[0])])
    return Pairing(pairs, left, right)


def pair_any(first: Sequence[Cell], second: Sequence[Cell]) -> Pairing:
    """As `pair`, but two single runs belong together whatever answered, if they are of one task.

    Raises:
        UsageError: They are of different tasks; or nothing on one side belongs to anything on the other.
    """
    if len(first) == len(second) == 1:
        tasks = [side[0].record["task"]["name"] for side in (first, second)]
        if tasks[0] != tasks[1]:
            raise UsageError(
                f"A is a run of {tasks[0]}, B one of {tasks[1]}", "Give two runs of one task, which ask the same."
            )
        return Pairing([(first[0], second[0])], [], [])
    pairing = pair(first, second)
    if not pairing.pairs:
        raise UsageError(
            f"none of the {len(first)} runs of A has its like among the {len(second)} of B: A has "
            f"{_some(first)}; B has {_some(second)}",
            "Runs are paired by model, method, parameters, task, limit, seed and generation settings. "
            "To compare two methods, give their run directories.",
        )
    return pairing


def differences(first: Cell, second: Cell) -> list[Difference]:
    """Settings, versions and weights in which two runs differ, by name."""
    ours, theirs = (dict(_described(cell.record)) for cell in (first, second))
    names = dict.fromkeys([*ours, *theirs])
    return [
        {"what": name, "first": ours.get(name), "second": theirs.get(name)}
        for name in names
        if ours.get(name) != theirs.get(name)
    ]


def common(lists: Sequence[list[Difference]]) -> list[Difference]:
    """What stands in every one of the lists."""
    if not lists:
        return []
    keys = [{json.dumps(entry, sort_keys=True) for entry in entries} for entries in lists]
    shared = set.intersection(*keys)
    return [entry for entry in lists[0] if json.dumps(entry, sort_keys=True) in shared]


def _described(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    spec = {key: record["spec"].get(key) for key in _SPEC}
    parts = {**{key: record[key] for key in ("model", "method", "task", "env")}, "settings": spec}
    yield from _leaves(parts)


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        name = f"{path}.{key}" if path else str(key)
        if name in _IGNORED:
            continue
        if isinstance(inner, Mapping):
            yield from _leaves(inner, name)
        else:
            yield name, inner


def _some(cells: Sequence[Cell]) -> str:
    more = f" and {len(cells) - 3} more" if len(cells) > 3 else ""
    return ", ".join(cell.title for cell in cells[:3]) + more
