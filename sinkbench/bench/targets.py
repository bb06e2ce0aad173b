"""What a benchmark's numbers are held to, and against plain transformers; pure functions of the record."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

BASELINE = "greedy"
RATES_FOR = ("llava-1.5-7b", "bfloat16", "NVIDIA H200")
"""Model, dtype and device that the rates below were set for; elsewhere only the ratios are judged."""

POPE_RATE, POPE_METHODS = 450.0, ("greedy", "var", "pai")
DECODE_RATES = {128: 6000.0, 1: 150.0}
"""Tokens a second of greedy decoding by batch size."""

METHOD_RATE = 0.9
METHOD_MEMORY = 1.1
END_TO_END = 0.8
INSPECTION_TIME, INSPECTION_MEMORY = 1.3, 1.1
"""What every diagnostic together may cost over the plain prefill."""

PRUNED = {
    ("llava-next-7b", "visiondrop"): (320 / 2880, {"answers_per_s": 2.7}),
    ("llava-onevision-7b", "vflowopt"): (0.1, {"answers_per_s": 3.8, "prompt_kv_bytes": 0.11}),
}
"""What papers report over the whole model's at a share of its image tokens: rates at least, bytes at most.

VisionDrop: arXiv 2506.22283, abstract. VFlowOpt: arXiv 2508.05211, efficiency on MME: 1040.1 ms and 1786.4 MB become
272.1 ms and 197.1 MB.
"""

_SAME_SHARE = 1e-3

HEADLINE = {
    "pope": "answers_per_s",
    "mixed": "answers_per_s",
    "growth": "answers_per_s",
    "prune": "answers_per_s",
    "caption": "tokens_per_s",
}
"""The rate by which a workload's methods are compared: captions are decoding, the others are prompts for the most."""


def add_ratios(rows: Sequence[dict[str, Any]]) -> None:
    """Set "ratio_to_greedy" of every row to its rates and peak memory over those of greedy on the same batches."""
    greedy = {_subject(row): row for row in rows if row["method"] == BASELINE}
    for row in rows:
        base = greedy.get(_subject(row), {})
        row["ratio_to_greedy"] = {
            name: _over(row.get(name), base.get(name)) for name in ("answers_per_s", "tokens_per_s", "peak_bytes")
        }
        if row["workload"] == "prune":
            row["ratio_to_greedy"] |= {
                name: _over(row.get(name), base.get(name)) for name in ("prefill_ms", "prefill_macs", "prompt_kv_bytes")
            }


def judge(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each target that the record's rows have something to say about: name, target, what was measured, met or not."""
    judged: list[dict[str, Any]] = []
    rates_hold = (record["model"]["name"], record["model"]["dtype"], record["device"]) == RATES_FOR
    for row in record["rows"]:
        if row["workload"] not in ("growth", "prune"):
            judged += [*(_absolute(row) if rates_hold else ()), *_relative(row)]
        elif row["workload"] == "prune":
            judged += _pruned(row, record["model"]["name"])
    for entry in record.get("inspection", ()):
        judged += _inspection(entry)
    for entry in record["end_to_end"]:
        name = f"end to end, {entry['method']}: over the device's rate"
        judged.append(_target(name, entry["ratio"], at_least=END_TO_END))
    return judged


def against_plain(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Greedy's rate over that of plain transformers: for answers at its best batch, for decoding at the same batch."""
    found = []
    for row in record["rows"]:
        metric = HEADLINE[row["workload"]]
        if row["method"] != BASELINE or not row.get(metric):
            continue
        plain = [
            other
            for other in record["baselines"]
            if other["workload"] == row["workload"]
            and other.get(metric)
            and (metric == "answers_per_s" or other["batch"] == row["batch"])
        ]
        for attention in dict.fromkeys(other["attention"] for other in plain):
            best = max((o for o in plain if o["attention"] == attention), key=lambda o: float(o[metric]))
            found.append(
                {
                    "workload": row["workload"],
                    "metric": metric,
                    "batch": row["batch"],
                    "ours": row[metric],
                    "attention": attention,
                    "plain_batch": best["batch"],
                    "plain": best[metric],
                    "ratio": row[metric] / best[metric],
                }
            )
    return found


def _absolute(row: Row) -> Iterable[dict[str, Any]]:
    if row["workload"] == "pope" and row["method"] in POPE_METHODS:
        yield _target(f"{_title(row)}: answers/s", row.get("answers_per_s"), at_least=POPE_RATE)
    if row["workload"] == "caption" and row["method"] == BASELINE and row["batch"] in DECODE_RATES:
        yield _target(f"{_title(row)}: tokens/s", row.get("tokens_per_s"), at_least=DECODE_RATES[row["batch"]])


def _relative(row: Row) -> Iterable[dict[str, Any]]:
    if row["method"] == BASELINE or not (row["leaves_prefix"] or row["workload"] == "caption"):
        return
    metric, ratios = HEADLINE[row["workload"]], row["ratio_to_greedy"]
    yield _target(f"{_title(row)}: {metric} over greedy's", ratios[metric], at_least=METHOD_RATE)
    if ratios["peak_bytes"] is not None:
        yield _target(f"{_title(row)}: peak memory over greedy's", ratios["peak_bytes"], at_most=METHOD_MEMORY)


def _pruned(row: Row, model: str) -> Iterable[dict[str, Any]]:
    keep, published = PRUNED.get((model, row["method"]), (0.0, {}))
    share = row["keep"] if row["keep"] <= 1 else row["keep"] / row["image_tokens"]
    for metric, value in published.items() if abs(share - keep) < _SAME_SHARE else ():
        name, ratio = f"{_title(row)} at {row['keep']:g}: {metric} over greedy's", row["ratio_to_greedy"].get(metric)
        bound = "at_most" if metric.endswith("bytes") else "at_least"
        yield _target(name, ratio, **{bound: value})


def _inspection(entry: Row) -> Iterable[dict[str, Any]]:
    for arm in ("probe", "findings"):
        numbers, name = entry.get("arms", {}).get(arm, {}), f"{entry['workload']}, batch {entry['batch']}, {arm}"
        yield _target(f"{name}: time over plain prefill's", numbers.get("time_ratio"), at_most=INSPECTION_TIME)
        if not numbers or numbers["memory_ratio"] is not None:
            memory = numbers.get("memory_ratio")
            yield _target(f"{name}: peak memory over plain prefill's", memory, at_most=INSPECTION_MEMORY)


def _target(
    name: str, measured: float | None, *, at_least: float | None = None, at_most: float | None = None
) -> dict[str, Any]:
    if measured is None:
        met = False
    elif at_least is not None:
        met = measured >= at_least
    else:
        met = at_most is not None and measured <= at_most
    return {"name": name, "at_least": at_least, "at_most": at_most, "measured": measured, "met": met}


def _title(row: Row) -> str:
    return f"{row['workload']}, batch {row['batch']}, {row['method']}"


def _subject(row: Row) -> tuple[str, ...]:
    """Equal for rows that differ in the method only."""
    return row["workload"], str(row["batch_size"]), repr(sorted(row["parameters"].items()))


def _over(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None
