"""A board as LaTeX: a table for each model, methods by tasks; it needs the package booktabs and nothing else."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sinkbench.leaderboard.table import Row, best_rows, headline, name, number

ARROWS = {"higher": r" $\uparrow$", "lower": r" $\downarrow$", "neutral": ""}

_SPECIAL = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}

_TESTS = {
    "mcnemar": "McNemar's exact test",
    "clustered_mcnemar": "the exact sign-flip test over images (McNemar's for clusters)",
    "paired_bootstrap": "the paired bootstrap over images",
    "joint_bootstrap": "the paired bootstrap over the images of all tasks",
}


def escape(text: str) -> str:
    """Text as LaTeX shows it, whatever signs it has."""
    plain = re.sub(r'[&%$#_{}\\~^<>|"]', lambda match: _SPECIAL[match.group()], text)
    return re.sub(r"\s+", " ", plain)


def to_latex(board: Mapping[str, Any], *, intervals: bool = False) -> str:
    r"""The board as LaTeX.

    Columns are tasks (more than one where a task ran under several conditions), each with the headline value, the best
    bold, and its difference from the baseline; then the averages. Rows that were not run have a dash.

    Args:
        board: See schemas/board.schema.json.
        intervals: Add the 95 % intervals.

    Returns:
        `table` environments, one a model, with `\usepackage{booktabs}` in a comment.
    """
    models = dict.fromkeys(row["model"] for row in board["rows"])
    tables = [_table(board, model, intervals) for model in models]
    return "\n".join(["% Needs \\usepackage{booktabs} in the preamble.", *tables])


def _table(board: Mapping[str, Any], model: str, intervals: bool) -> str:
    rows = [row for row in board["rows"] if row["model"] == model]
    columns = list(dict.fromkeys((row["task"], row["conditions"]) for row in rows))
    averages = [entry for entry in board.get("averages", ()) if entry["model"] == model]
    names = dict.fromkeys(
        name(row, rows) for row in sorted(rows, key=lambda row: (row["method"] != board["baseline"], row["method"]))
    )
    groups = [_task_group(rows, column) for column in columns]
    titles = [*(group[0] for group in groups), *(_average_title(entry) for entry in averages)]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_caption(board, model, rows, averages)}}}",
        rf"\begin{{tabular}}{{l{'rr' * len(titles)}}}",
        r"\toprule",
        " & ".join(["", *(rf"\multicolumn{{2}}{{c}}{{{title}}}" for title in titles)]) + r" \\",
        " ".join(rf"\cmidrule(lr){{{2 * index + 2}-{2 * index + 3}}}" for index in range(len(titles))),
        " & ".join(["method", *[r"value & $\Delta$"] * len(titles)]) + r" \\",
        r"\midrule",
    ]
    for method in names:
        own = [row for row in rows if name(row, rows) == method]
        cells = [_cells(found.get(method), best, intervals) for _, found, best in _named(groups, rows)]
        cells += [_average_cells(entry, own[0], intervals) for entry in averages]
        lines.append(" & ".join([f"{escape(method)}{_marks(own)}", *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _task_group(rows: Sequence[Row], column: tuple[str, str]) -> tuple[str, list[Row]]:
    """The title of a task's two columns, and its runs."""
    own = [row for row in rows if (row["task"], row["conditions"]) == column]
    metric = headline(own[0])
    return f"{escape(own[0]['task'])}, {escape(own[0]['headline'])}{ARROWS[metric['direction']]}", own


def _named(groups: Sequence[tuple[str, list[Row]]], rows: Sequence[Row]) -> list[tuple[str, dict[str, Row], set[str]]]:
    """For each task its title, its runs by the method's name, and the best of them."""
    return [(title, {name(row, rows): row for row in own}, best_rows(own)) for title, own in groups]


def _cells(row: Row | None, best: set[str], intervals: bool) -> str:
    """Value and difference of a run."""
    if row is None:
        return "-- & --"
    metric = headline(row)
    value = number(metric["value"]).replace("–", "--")
    shown = rf"\textbf{{{value}}}" if row["run_id"] in best else value
    return f"{shown}{_ends(metric['ci95'], intervals)} & {_difference(metric['delta'], intervals)}"


def _average_cells(entry: Mapping[str, Any], like: Row, intervals: bool) -> str:
    found = [row for row in entry["rows"] if (row["method"], row["params"]) == (like["method"], like["params"])]
    if not found:
        return "-- & --"
    pick = max if entry["direction"] == "higher" else min
    is_best = len(entry["rows"]) > 1 and found[0]["value"] == pick(row["value"] for row in entry["rows"])
    value = number(found[0]["value"])
    shown = rf"\textbf{{{value}}}" if is_best else value
    return f"{shown} & {_difference(found[0]['delta'], intervals)}"


def _difference(delta: Mapping[str, Any] | None, intervals: bool) -> str:
    if not delta:
        return ""
    # Without a width, so that the digits of a column stand below each other.
    star = r"\rlap{$^{\ast}$}" if delta.get("p_holm") is not None and delta["p_holm"] < 0.05 else ""
    return f"${delta['value']:+.3f}{star}${_ends(delta['ci95'], intervals)}"


def _ends(ci95: Sequence[float] | None, intervals: bool) -> str:
    return rf" {{\scriptsize $[{ci95[0]:.3f}, {ci95[1]:.3f}]$}}" if intervals and ci95 else ""


def _marks(rows: Sequence[Row]) -> str:
    """Marks of a method's runs on any of the tasks."""
    signs = (
        (r"\dagger", any(row.get("imported") for row in rows)),
        (r"\circ", any(row["dirty"] for row in rows)),
        ("!", any(row["n_failed"] for row in rows)),
    )
    marks = "".join(sign for sign, present in signs if present)
    return f"$^{{{marks}}}$" if marks else ""


def _average_title(entry: Mapping[str, Any]) -> str:
    return f"mean of {len(entry['metrics'])}{ARROWS[entry['direction']]}"


def _caption(board: Mapping[str, Any], model: str, rows: Sequence[Row], averages: Sequence[Mapping[str, Any]]) -> str:
    """Model, numbers of samples, what is compared, how it was tested, and what the marks mean."""
    sizes = dict.fromkeys(f"{row['task']} {_n(row)}" for row in rows)
    deltas = [headline(row)["delta"] for row in rows]
    deltas += [row["delta"] for entry in averages for row in entry["rows"]]
    tests = dict.fromkeys(_TESTS[delta["test"]] for delta in deltas if delta and delta["test"])
    parts = [f"{escape(model)}. Samples: {escape(', '.join(sizes))}."]
    if tests:
        parts.append(
            rf"$\Delta$: against {escape(board['baseline'])} on the same samples; $^{{\ast}}$: $p < 0.05$ by "
            f"{'; '.join(tests)}; Holm-adjusted over the methods."
        )
    parts += [f"Mean{ARROWS[entry['direction']]}: of {escape(', '.join(entry['metrics']))}." for entry in averages]
    legend = (
        ("$^{\\dagger}$: answers read from a file.", any(row.get("imported") for row in rows)),
        ("$^{\\circ}$: made from a dirty source tree.", any(row["dirty"] for row in rows)),
        ("$^{!}$: some samples failed.", any(row["n_failed"] for row in rows)),
    )
    return " ".join([*parts, *(text for text, present in legend if present)])


def _n(row: Row) -> str:
    delta = headline(row)["delta"]
    pairs = f" ({delta['n_pairs']} pairs)" if delta and delta["n_pairs"] != row["n"] else ""
    return f"{row['n']}{pairs}{' (the first)' if row['limit'] else ''}"
