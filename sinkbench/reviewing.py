"""The part of the score stage that asks a judge; every verdict is on disk before the next one is asked for."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sinkbench.reporter import Reporter
from sinkbench.store import Row, RunStore

if TYPE_CHECKING:
    from sinkbench.tasks.review import Review

GIVE_UP_AFTER = 5
"""Answers in a row without verdict after which no more is asked: the endpoint is down rather than one prompt odd."""


def ask_judge(store: RunStore, review: "Review", rows: Mapping[str, Row], reporter: Reporter) -> dict[str, str]:
    """The judge's replies about answers, by request id; what has none is left out.

    Args:
        store: Takes each verdict as a newer line of its sample, so that what was asked before is not asked again.
        review: Has a judge.
        rows: The newest line of every answered sample, by id.
        reporter: Is told about progress.

    Raises:
        UsageError: The endpoint refuses whoever asks.
    """
    replies: dict[str, str] = {}
    failed_in_a_row = 0
    reporter.answering(len(rows), 0)
    for id, row in rows.items():
        verdict = review.verdict(id, row["text"], row.get("judge"))
        if verdict != row.get("judge"):
            store.append([{**row, "judge": verdict}])
        if verdict["reply"] is not None:
            replies[id] = verdict["reply"]
        failed_in_a_row = failed_in_a_row + 1 if verdict["error"] else 0
        reporter.answered(1, int(bool(verdict["error"])))
        if failed_in_a_row == GIVE_UP_AFTER:
            reporter.note(f"the judge failed {GIVE_UP_AFTER} times in a row and is asked no more: {verdict['error']}")
            break
    reporter.finished()
    return replies
