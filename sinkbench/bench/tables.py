"""A benchmark's record as tables, for the console and in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sinkbench.methods import method_config, method_names

if TYPE_CHECKING:
    from rich.table import Table

Row = Mapping[str, Any]

_GIB = 2**30


@dataclass(frozen=True)
class Grid:
    """A table of texts.

    Attributes:
        title: What it shows.
        columns: Heads; the first `names` of them are left-aligned.
        rows: Cells.
        names: How many columns hold names.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1

    def rich(self) -> "Table":
        """For a rich console."""
        from rich.box import SIMPLE_HEAD
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=escape(self.title), title_justify="left", box=SIMPLE_HEAD)
        for index, column in enumerate(self.columns):
            table.add_column(escape(column), justify="left" if index < self.names else "right")
        for row in self.rows:
            table.add_row(*map(escape, row))
        return table

    def markdown(self) -> str:
        """For a file."""
        rule = ["---" if index < self.names else "---:" for index in range(len(self.columns))]
        lines = [f"| {' | '.join(cells)} |" for cells in (self.columns, rule, *self.rows)]
        return "\n".join([f"### {self.title}", "", *lines, ""])


def grids(record: Mapping[str, Any]) -> list[Grid]:
    """The tables of a record; those without rows are left out."""
    model = record["model"]
    subject = f"{model['name']}, {model['weights']} weights, {model['dtype']}, {record['device']}"
    rows = [row for row in record["rows"] if row["workload"] not in ("growth", "prune")]
    pruned = [row for row in record["rows"] if row["workload"] == "prune"]
    growth = [row for row in record["rows"] if row["workload"] == "growth"]
    found = [
        Grid(f"Speed: {subject}", _SPEED, [_speed(row) for row in (*rows, *record["baselines"])], 2),
        Grid(f"Overhead: {subject}", _OVERHEAD, list(_overheads(rows))),
        Grid(f"Pruning: {subject}", _PRUNING, [_pruning(row) for row in pruned]),
        Grid(f"What looking costs: {subject}", _INSPECTION, list(_inspection(record.get("inspection", ()))), 2),
        Grid(f"Growth: {subject}", _GROWTH, [_growth(row) for row in growth]),
        Grid(f"From files to answers: {subject}", _END_TO_END, [_end_to_end(e) for e in record["end_to_end"]]),
        Grid(f"Answers that change with the batch: {subject}", _FLIPS, list(_flips(record["flips"])), 2),
        Grid(f"Against plain transformers: {subject}", _PLAIN, [_plain(entry) for entry in record["against_plain"]], 2),
        Grid(f"Targets: {subject}", _TARGETS, [_target(entry) for entry in record["targets"]]),
    ]
    return [grid for grid in found if grid.rows]


_SPEED = (
    "workload",
    "method",
    "batch",
    "answers/s",
    "× greedy",
    "tokens/s",
    "× greedy",
    "prefill ms",
    "GiB",
    "× greedy",
)
_OVERHEAD = ("method", "yes/no, time × greedy", "captions, time × greedy", "memory × greedy", "published")
_PRUNING = (
    *("method", "keep", "batch", "tokens, mean", "tokens, end", "prefill ms", "× faster", "answers/s", "× faster"),
    *("decode ms", "10⁹ MACs", "× greedy", "KV MB", "× greedy", "GiB"),
)
_GROWTH = ("method", "image tokens", "questions an image", "new tokens", "answers", "s", "ms an answer", "× greedy")
_INSPECTION = ("workload", "what", "batch", "prompts", "s", "× plain", "GiB", "× plain")
_END_TO_END = ("method", "images", "answers", "answers/s", "device alone", "ratio")
_FLIPS = ("method", "file", "questions", "flipped", "rate")
_PLAIN = ("workload", "attention", "greedy", "batch", "plain", "its batch", "times faster")
_TARGETS = ("target", "wanted", "measured", "met")


def _speed(row: Row) -> list[str]:
    ratios = row.get("ratio_to_greedy") or {}
    names = [row["workload"], row["method"], str(row["batch"])]
    if row["error"]:
        return [*names, row["error"], *[""] * 6]
    peak = row["peak_bytes"]
    return [
        *names,
        _number(row["answers_per_s"]),
        _ratio(ratios.get("answers_per_s")),
        _number(row["tokens_per_s"]),
        _ratio(ratios.get("tokens_per_s")),
        _number(row["prefill_ms"]),
        _number(peak / _GIB) if peak else "",
        _ratio(ratios.get("peak_bytes")),
    ]


def _pruning(row: Row) -> list[str]:
    names = [row["method"], f"{row['keep']:g}", str(row["batch"])]
    if row["error"]:
        return [*names, row["error"].partition(":")[2].strip() or row["error"], *[""] * (len(_PRUNING) - 4)]
    ratios, peak = row["ratio_to_greedy"], row["peak_bytes"]
    faster = ratios.get("prefill_ms")
    return [
        *names,
        _number(row["visual_tokens_mean"]),
        _number(row["visual_tokens_kept"]),
        _number(row["prefill_ms"]),
        _ratio(1 / faster if faster else None),
        _number(row["answers_per_s"]),
        _ratio(ratios.get("answers_per_s")),
        _number(row["decode_ms_per_token"]),
        _number(row["prefill_macs"] / 1e9),
        _ratio(ratios.get("prefill_macs")),
        _number(row["prompt_kv_bytes"] / 1e6),
        _ratio(ratios.get("prompt_kv_bytes")),
        _number(peak / _GIB) if peak else "",
    ]


def _overheads(rows: Sequence[Row]) -> Iterable[list[str]]:
    """Each method's time and memory over greedy's on the same batches, next to what papers say."""
    known = [row for row in rows if row.get("ratio_to_greedy") and row["method"] != "greedy"]
    for method in dict.fromkeys(row["method"] for row in known):
        own = [row for row in known if row["method"] == method]
        times = {
            workload: 1 / row["ratio_to_greedy"][metric]
            for workload, metric in (("pope", "answers_per_s"), ("caption", "tokens_per_s"))
            for row in own
            if row["workload"] == workload and row["ratio_to_greedy"].get(metric)
        }
        peaks = [row["ratio_to_greedy"].get("peak_bytes") or 0 for row in own]
        published = {} if method not in method_names() else method_config(method)["overhead"]
        yield [
            method,
            _ratio(times.get("pope")),
            _ratio(times.get("caption")),
            _ratio(max(peaks) or None),
            f"{published['times_greedy']:g}" if published else "",
        ]


def _inspection(entries: Iterable[Row]) -> Iterable[list[str]]:
    for entry in entries:
        counts = [str(entry["batch"]), str(entry["answers"])]
        if entry["error"]:
            yield [entry["workload"], entry["method"], *counts, entry["error"], "", "", ""]
            continue
        for arm, numbers in entry["arms"].items():
            peak = numbers["peak_bytes"]
            yield [
                entry["workload"],
                arm,
                *counts,
                _number(numbers["seconds"]["median"]),
                _ratio(numbers["time_ratio"]),
                _number(peak / _GIB) if peak else "",
                _ratio(numbers["memory_ratio"]),
            ]


def _growth(row: Row) -> list[str]:
    parameters = row["parameters"]
    cells = [row["method"], str(round(row["image_tokens"])), str(parameters["questions_per_image"])]
    cells += [str(parameters["new_tokens"]), str(row["answers"])]
    if row["error"]:
        return [*cells, row["error"], "", ""]
    seconds = row["seconds"]["median"]
    ratio = _ratio(row["ratio_to_greedy"]["answers_per_s"])
    return [*cells, _number(seconds), _number(1e3 * seconds / row["answers"]), ratio]


def _end_to_end(entry: Row) -> list[str]:
    counts = [entry["method"], str(entry["images"]), str(entry["answers"])]
    return [*counts, _number(entry["end_to_end_per_s"]), _number(entry["device_per_s"]), _ratio(entry["ratio"])]


def _flips(entries: Iterable[Row]) -> Iterable[list[str]]:
    for entry in entries:
        for name, count in (("all", entry), *entry["by_file"].items()):
            yield [
                entry["method"],
                name,
                str(count["questions"]),
                str(count["flipped"]),
                f"{100 * count['rate']:.2f} %",
            ]


def _plain(entry: Row) -> list[str]:
    ours, plain = (f"{_number(entry[key])} {_unit(entry['metric'])}" for key in ("ours", "plain"))
    names = [entry["workload"], entry["attention"]]
    return [*names, ours, str(entry["batch"]), plain, str(entry["plain_batch"]), _ratio(entry["ratio"])]


def _target(entry: Row) -> list[str]:
    least, most = entry["at_least"], entry["at_most"]
    wanted = f"≥ {least:g}" if least is not None else f"≤ {most:g}"
    measured = entry["measured"]
    return [entry["name"], wanted, "–" if measured is None else _precise(measured), "yes" if entry["met"] else "no"]


def _unit(metric: str) -> str:
    return metric.replace("_per_", "/")


def _number(value: float | None) -> str:
    """Three digits or more, for rates and times of any size."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _precise(value: float) -> str:
    return f"{value:.3f}" if value < 100 else f"{value:.0f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
