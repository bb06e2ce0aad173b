"""Multiple choice: which option did the answer choose, and is the choice stable when the options rotate?

Circular evaluation after Liu et al., "MMBench: Is Your Multi-modal Model an All-around Player?" (ECCV 2024): a question
counts only if it is answered rightly under every rotation of its options.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache

from sinkbench.scoring.letters import REFUSED, parse
from sinkbench.scoring.metric import Metric, Part, Record, Scheme, Score, Unit, quotient, record_units, total

LETTERS = "ABCD"
ROTATION = 1_000_000
"""Row index = question + rotation * ROTATION."""


def names(categories: Iterable[str] = ()) -> tuple[str, ...]:
    """Every metric that a multiple-choice task with these categories reports."""
    return ("accuracy", "vanilla_accuracy", *(f"{category}/accuracy" for category in categories), "n_unparsed")


def options_of(row: Mapping[str, object]) -> dict[str, str]:
    """The options of a row, letter to text, without those that are absent (empty, None or "nan")."""
    found = {letter: str(row.get(letter) or "") for letter in LETTERS}
    return {letter: text for letter, text in found.items() if text and text != "nan"}


def score(
    text: str,
    answer: str,
    options: Mapping[str, str],
    index: int,
    *categories: str,
    parser: str = "vlmevalkit",
    n_rotations: int | None = None,
) -> Score:
    """Judge one row, that is, one rotation of a question.

    Args:
        text: The model's answer.
        answer: The right letter.
        options: Letter to text.
        index: Question number + rotation * 1 000 000.
        categories: The row's categories, none of them twice.
        parser: A key of `letters.PARSERS`.
        n_rotations: Rows of the question; None: as many as options.
    """
    chosen = parse(text, options, parser)
    correct = float(chosen is not None and chosen == answer)
    unparsed = float(chosen is None or chosen == REFUSED)
    counts = {"rows": 1.0, "correct": correct, "unparsed": unparsed}
    if index < ROTATION:
        counts |= {"base": 1.0, "base_correct": correct}
    return Score(
        parsed=chosen,
        score=correct,
        counts={f"{scope}.{name}": value for scope in ("all", *categories) for name, value in counts.items()},
        group=(str(index % ROTATION), n_rotations or len(options)),
    )


def circular_units(records: Iterable[Record]) -> list[Unit]:
    """The rows, and one unit for each question that all of its rotations were answered for.

    A question with a failed or left-out rotation cannot be judged: it is in no group, rather than wrong.
    """
    rows = list(records)
    return [*record_units(rows), *map(_group_unit, complete_groups(rows))]


def complete_groups(records: Iterable[Record]) -> list[list[Record]]:
    """The sets of records that are judged together, without those that lack a record."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for entry in records:
        if entry["group"] is not None:
            groups[entry["group"][0]].append(entry)
    return [group for group in groups.values() if group[0]["group"] and len(group) == group[0]["group"][1]]


def _group_unit(group: list[Record]) -> Unit:
    correct = float(all(row["score"] == 1.0 for row in group))
    scopes = [column.removesuffix(".rows") for column in group[0]["counts"] if column.endswith(".rows")]
    counts = {f"{scope}.{name}": value for scope in scopes for name, value in (("groups", 1.0), ("right", correct))}
    return Unit(group[0]["cluster"], counts)


@cache
def metric(name: str) -> Metric:
    """A metric by its name.

    "accuracy" is circular, "vanilla_accuracy" looks at the unrotated rows only, "row_accuracy" at every row; a category
    as prefix restricts it.

    Raises:
        ValueError: There is no such metric.
    """
    category, _, base = name.rpartition("/")
    scope = category or "all"
    columns = {
        "accuracy": ("right", "groups"),
        "vanilla_accuracy": ("base_correct", "base"),
        "row_accuracy": ("correct", "rows"),
    }
    if base == "n_unparsed":
        return Metric(name, (Part((f"{scope}.unparsed",), total, f"{scope}.rows"),), "count")
    if base not in columns:
        raise ValueError(f"multiple choice has no metric {name!r}")
    right, rows = (f"{scope}.{column}" for column in columns[base])
    return Metric(name, (Part((right, rows), quotient, rows),), "mean")


SCHEME = Scheme(metric, circular_units)
