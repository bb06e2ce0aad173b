"""The cells of a sweep: what `eval` reads from a file, and a grid of parameters."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.spec import RunSpec, expand

_EXAMPLE = "Write it like this: grid: {fastv.keep: [0.5, 0.25]}."


def cells(settings: Mapping[str, Any]) -> list[RunSpec]:
    """One spec for every combination of model, task, method and the method's or task's own values of the grid.

    Args:
        settings: What `sinkbench.spec.expand` takes, and "grid": lists of values by "method.param" or "task.param".
            Several parameters of one method are combined with each other; a method without any runs once.

    Raises:
        UsageError: See `expand`; or the grid is malformed, or names what no run has.
    """
    plain = {key: value for key, value in settings.items() if key != "grid"}
    grid = _grid(settings.get("grid") or {})
    base = expand(plain)
    owners = {owner for spec in base for owner in (*spec.methods, spec.task)}
    for key in grid:
        if key.partition(".")[0] not in owners:
            raise UsageError(
                f"grid: {key!r} belongs to no method and no task of this sweep",
                f"Write OWNER.PARAM with OWNER one of: {', '.join(sorted(owners))}.",
            )
    both = set(grid) & set(plain.get("params") or {})
    if both:
        raise UsageError(f"{min(both)} stands in params and in the grid", "Leave it in one of the two.")
    specs = [cell for spec in base for cell in _varied(spec, grid)]
    return list({spec.model_dump_json(): spec for spec in specs}.values())


def _varied(spec: RunSpec, grid: Mapping[str, Sequence[Any]]) -> Iterator[RunSpec]:
    own = {key: values for key, values in grid.items() if key.partition(".")[0] in (*spec.methods, spec.task)}
    for values in product(*own.values()):
        yield spec.model_copy(update={"params": {**spec.params, **dict(zip(own, values, strict=True))}})


def _grid(given: Any) -> dict[str, list[Any]]:
    if not isinstance(given, Mapping):
        raise UsageError(f"grid: {given!r} is no mapping", _EXAMPLE)
    for key, values in given.items():
        if not isinstance(values, list) or not values:
            raise UsageError(f"grid: {key} holds {values!r}, not a list of values", _EXAMPLE)
        if "." not in str(key):
            raise UsageError(f"grid: {key!r} names no parameter", _EXAMPLE)
    return {str(key): list(values) for key, values in given.items()}
