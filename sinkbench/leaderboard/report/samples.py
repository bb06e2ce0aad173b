"""Which samples the page shows, and what it shows of them."""

import json
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from sinkbench.leaderboard.report.pictures import Gallery
from sinkbench.leaderboard.report.private import publishable, without_paths
from sinkbench.leaderboard.report.views import Key, SampleView, shown
from sinkbench.leaderboard.table import Row, headline, name
from sinkbench.request import IMAGE_PLACEHOLDER, Request
from sinkbench.store import Row as Line
from sinkbench.store import RunStore

_TARGETS = 3
"""Right answers that are listed: of ten people's answers, those that most gave."""


@dataclass(frozen=True)
class Group:
    """The runs of one model on one task under equal conditions, as columns of answers.

    Attributes:
        rows: Of the board.
        lines: Lines of samples.jsonl by id, a mapping for each row.
        requests: The questions' file, or None where no run has one (imported answers).
        chosen: What was set for the methods of a row, as `--set` takes it, for each row.
    """

    rows: Sequence[Row]
    lines: Sequence[Mapping[str, Line]]
    requests: RunStore | None
    chosen: Sequence[Sequence[str]]

    def baseline(self, name: str) -> int | None:
        """The column of the run that the board compares the others with; None where there is none."""
        named = [index for index, row in enumerate(self.rows) if row["method"] == name]
        return min(named, key=lambda index: headline(self.rows[index])["delta"] is not None, default=None)

    @property
    def ids(self) -> list[str]:
        """Every sample that some run has, in the order of the first run."""
        return list(dict.fromkeys(id for lines in self.lines for id in lines))

    def answers(self, id: str) -> list[Line | None]:
        """The sample's line in every run."""
        return [lines.get(id) for lines in self.lines]


def read_groups(rows: Sequence[Row], folder: Path) -> Iterator[Group]:
    """The board's rows with their samples, group by group in the board's order; groups without samples are left out."""
    questions = {
        (row["task"], row["task_version"]): store
        for row in rows
        if (store := RunStore(folder / row["path"])).is_prepared
    }
    for _, same in groupby(rows, key=lambda row: (row["task"], row["model"], row["conditions"])):
        group = list(same)
        stores = [RunStore(folder / row["path"]) for row in group]
        asked = next((store for store in stores if store.is_prepared), None)
        lines = [store.samples() for store in stores]
        if any(lines):
            asked = asked or questions.get((group[0]["task"], group[0]["task_version"]))
            yield Group(group, lines, asked, [_chosen(store) for store in stores])


def _chosen(store: RunStore) -> list[str]:
    """The methods' parameters that a run was given."""
    record = store.read_run() or {}
    return [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in publishable(record.get("spec", {}).get("params", {})).items()
    ]


def outcome(line: Line | None) -> Any:
    """What tells two answers apart: their scores and what was read in them; unscored ones differ by their words."""
    if line is None:
        return None
    if line["error"]:
        return "failed"
    if line["score"] is None:
        return (line["text"] or "").strip()
    return line["score"], line["parsed"] if isinstance(line["parsed"], str | int | float) else None


def disagree(answers: Sequence[Line | None]) -> bool:
    """Whether two of the answers that are there have different outcomes."""
    return len({repr(outcome(line)) for line in answers if line is not None}) > 1


def choose(ids: Sequence[str], tiers: Mapping[str, int], count: int) -> list[str]:
    """So many ids, those of the lowest tiers first, spread evenly over a tier that does not fit; in their own order."""
    taken: set[str] = set()
    for tier in sorted(set(tiers.values())):
        members = [id for id in ids if tiers[id] == tier]
        room = min(count - len(taken), len(members))
        taken |= {members[index * len(members) // room] for index in range(room)}
    return [id for id in ids if id in taken]


def tier(group: Group, id: str, baseline: int | None, viewed: Collection[str]) -> int:
    """0: its attention was drawn; 1: a method's score differs from the baseline's; 2: methods disagree; 3: the rest."""
    if id in viewed:
        return 0
    answers = group.answers(id)
    compared = answers[baseline] if baseline is not None else None
    first = compared["score"] if compared else None
    if first is not None and any(line and line["score"] not in (None, first) for line in answers):
        return 1
    return 2 if disagree(answers) else 3


def targets(answers: Sequence[Line | None]) -> list[str]:
    """The right answers; none where no answer was scored, or by a version that did not record them."""
    recorded = (line.get("targets") for line in answers if line is not None)
    return next(filter(None, recorded), [])[:_TARGETS]


def describe(
    group: Group, baseline_name: str, views: Mapping[Key, Sequence[SampleView]], gallery: Gallery | None, count: int
) -> dict[str, Any]:
    """A group as the page's script reads it.

    Args:
        group: Its runs and samples.
        baseline_name: Of the baseline method.
        views: Attention views by model, task and id.
        gallery: Where images go; None leaves them out.
        count: Most samples.
    """
    first = group.rows[0]
    ids = group.ids
    baseline = group.baseline(baseline_name)
    mine = {id: found for (model, task, id), found in views.items() if (model, task) == (first["model"], first["task"])}
    tiers = {id: tier(group, id, baseline, mine) for id in ids}
    chosen = choose(ids, tiers, count)
    requests = _requests(group, set(chosen))
    differing = {id for id in ids if disagree(group.answers(id))}
    scores = {line["score"] for lines in group.lines for line in lines.values()}
    return {
        "task": first["task"],
        "model": first["model"],
        "conditions": first["conditions"],
        "methods": [name(row, group.rows) for row in group.rows],
        "baseline": baseline,
        "binary": scores <= {0, 1, None},
        "total": len(ids),
        "disagreeing": len(differing),
        "disagreeing_shown": len(differing.intersection(chosen)),
        "items": [_item(group, id, requests.get(id), mine.get(id, ()), gallery, id in differing) for id in chosen],
    }


def _requests(group: Group, wanted: Collection[str]) -> dict[str, Request]:
    if group.requests is None:
        return {}
    return {request.id: request for request in group.requests.requests() if request.id in wanted}


def _item(
    group: Group,
    id: str,
    request: Request | None,
    views: Sequence[SampleView],
    gallery: Gallery | None,
    differs: bool,
) -> dict[str, Any]:
    answers = group.answers(id)
    item: dict[str, Any] = {"id": id, "differs": differs, "answers": [_answer(line) for line in answers]}
    if right := targets(answers):
        item["targets"] = right
    if request is not None:
        turns = [[message.role, message.text.replace(IMAGE_PLACEHOLDER, "").strip()] for message in request.messages]
        item |= {"question": turns[-1][1], "turns": turns[:-1], "n_images": len(request.images)}
        if gallery is not None:
            item["images"] = [gallery.add(image) for image in request.images]
    if views and gallery is not None:
        item["views"] = [shown(view, gallery) for view in views]
    elif not views and (command := _command(group, id)) and request is not None and request.images:
        item["command"] = command
    return item


def _answer(line: Line | None) -> list[Any]:
    """Text, score, what was read where that is not the text itself, and why there is no answer; empty: not asked."""
    if line is None:
        return []
    read = line["parsed"]
    if isinstance(read, str) and read.strip().lower() == (line["text"] or "").strip().strip(".").lower():
        read = None
    return [line["text"], publishable(line["score"]), publishable(read), without_paths(line["error"])]


def _command(group: Group, id: str) -> str:
    """What draws the sample's attention; empty for answers that no model here gave. Of namesakes the first."""
    measured: dict[str, Sequence[str]] = {}
    for row, chosen in zip(group.rows, group.chosen, strict=True):
        if not row.get("imported"):
            measured.setdefault(row["method"], chosen)
    if not measured:
        return ""
    first = group.rows[0]
    drawn = [method for method in measured if method != "greedy"] or ["greedy"]
    folder = "views/" + "".join(sign if sign.isalnum() else "-" for sign in f"{first['model']}-{id}")
    given = ["-m", first["model"], "-t", first["task"], "--id", id, "-M", ",".join(drawn)]
    for setting in dict.fromkeys(setting for method in drawn for setting in measured[method]):
        given += ["--set", setting]
    return shlex.join(["sinkbench", "inspect", "sample", *given, "-o", folder])
