"""Runs for reports: known answers, and answers, names and questions that attack the page."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from fakes import FakeBackend, FakeTask, right
from PIL import Image

from sinkbench import runner
from sinkbench.spec import RunSpec

N = 12
WRONG = {"greedy": {0, 3, 6}, "var": {6}, "pai": {0, 1, 3, 6}}
"""Questions that each method answers wrongly: of the four random ones (0, 3, 6, 9) 3, 1 and 3."""

DIFFER = ["fake/0", "fake/1", "fake/3"]
"""Samples on which the methods disagree."""

ATTACKS = (
    "<script>alert('sinkbench')</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><script>alert(2)</script>",
    "javascript:alert(3)",
    "<!--<script>",
    "{{ 7 * 7 }} ${7 * 7} \u2028\u2029 ' \" ` \\ &lt;",
)


def write_pictures(folder: Path, count: int, size: tuple[int, int] = (800, 400)) -> None:
    """Pictures of one colour each, the last two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        shade = min(index, count - 2)
        Image.new("RGB", size, (40 * shade, 90, 200)).save(folder / f"{index}.png")


def make_runs(folder: Path, models: tuple[str, ...] = ("tiny",)) -> Path:
    """Runs of three methods over twelve questions on four pictures, in folder/runs."""
    write_pictures(folder / "data", N // 3)
    task = FakeTask(folder / "data", n=N)
    backend = FakeBackend(task, {name: right(task, wrong) for name, wrong in WRONG.items()})
    specs = [
        RunSpec(model=model, task="fake", method=method, output=folder / "runs") for model in models for method in WRONG
    ]
    runner.run(specs, backend=backend)
    return folder / "runs"


def edit_record(directory: Path, **changes: dict[str, Any]) -> None:
    """Change entries of the parts of a run.json."""
    file = directory / "run.json"
    record = json.loads(file.read_text())
    for part, values in changes.items():
        record[part] = {**record[part], **values} if isinstance(values, dict) else values
    file.write_text(json.dumps(record))


def edit_lines(directory: Path, name: str, change: Any) -> None:
    """Change every line of a run's file."""
    file = directory / name
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for index, row in enumerate(rows):
        change(row, index)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def add_task(runs: Path, name: str) -> None:
    """The same runs once more, as another task's."""
    for directory in sorted(runs.iterdir()):
        copy = shutil.copytree(directory, runs / f"{name}-{directory.name}")
        record = json.loads((copy / "run.json").read_text())
        edit_record(copy, task={"name": name}, run_id=record["run_id"][::-1])


def attack(runs: Path) -> None:
    """Put attacks wherever a run takes text from outside: answers, questions, file, method, model and task names."""
    for place, directory in enumerate(sorted(runs.iterdir())):
        record = json.loads((directory / "run.json").read_text())
        method = record["method"]["name"]
        edit_record(
            directory,
            model={"name": f"model {ATTACKS[1]}"},
            task={"name": f"task {ATTACKS[0]} {ATTACKS[2]}"},
            method={
                "name": method if method == "greedy" else f"{method} {ATTACKS[1]}",
                "params": {"x": ATTACKS[place]},
            },
        )

        def question(row: dict[str, Any], index: int) -> None:
            row["messages"][-1]["text"] = f"<image>{ATTACKS[index % len(ATTACKS)]}"

        def answer(row: dict[str, Any], index: int) -> None:
            row["text"] = ATTACKS[index % len(ATTACKS)] + " \ud800"
            row["targets"] = [ATTACKS[index % len(ATTACKS)]]
            if index % 3 == 0:
                row["parsed"] = {ATTACKS[0]: [ATTACKS[1], [ATTACKS[2], ATTACKS[3]]]}

        edit_lines(directory, "requests.jsonl", question)
        edit_lines(directory, "samples.jsonl", answer)
        directory.rename(runs / f"{place} <img src=x onerror=alert(4)> javascript:")


def write_views(folder: Path, model: str, task: str, id: str) -> Path:
    """A views.json with two methods, two layers of two heads, and overlays."""
    folder.mkdir(parents=True, exist_ok=True)
    views = []
    for method, after in (("greedy", 0.2), ("var", 0.6)):
        Image.new("RGB", (60, 40), (200, 0, 0) if method == "var" else (0, 200, 0)).save(folder / f"{method}.png")
        heads = [
            {"layer": layer, "head": head, "before": 0.2, "after": after if (layer, head) == (1, 0) else 0.2}
            for layer in range(2)
            for head in range(2)
        ]
        views.append(
            {"method": method, "params": {}, "answer": "yes", "overlay": f"{method}.png", "image_share": [0.2, after]}
            | {"heads": heads}
        )
    document = {"schema_version": 1, "model": model, "task": task, "id": id, "question": "?", "views": views}
    (folder / "views.json").write_text(json.dumps(document))
    return folder


def browser_path() -> str | None:
    """Chromium as $CHROMIUM says, else on the PATH, else playwright's own; None where there is none."""
    named = os.environ.get("CHROMIUM", "")
    for name in (named, "chromium", "chromium-browser", "google-chrome"):
        if name and (found := shutil.which(name)):
            return found
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None
