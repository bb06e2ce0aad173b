"""How much faster is a sweep on several GPUs? One process and 1, 2, … Ray workers, one after the other on one machine.

    python tools/measure_workers.py configs/sweep.yaml --workers 0,1,2 --out results/checks/sweep-workers.json

0 stands for the local executor. `--prepared DIR` has runs whose questions are prepared, for machines without lm-eval
(with `stage: answer` in the file). Seconds are those between the log's "begin" and "end": checks, questions, models and
answers, without the start of Python and Ray, which `wall_s` has too; `steady_per_s` is the rate of the middle half of
the answers, without what each worker does first (weights, kernels, graphs). Samples are compared line by line.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sinkbench.environment import environment
from sinkbench.sweep.log import SweepLog


def measure(config: Path, folder: Path, workers: int, prepared: Path | None) -> dict[str, Any]:
    """Run the sweep once.

    Args:
        config: Of the sweep.
        folder: Its output; made here.
        workers: Ray workers; 0 for the local executor.
        prepared: Folder with prepared runs.
    """
    if prepared:
        shutil.copytree(prepared, folder)
    command = [sys.executable, "-m", "sinkbench", "sweep", str(config), "--output", str(folder)]
    command += ["--executor", "ray", "--workers", str(workers)] if workers else []
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    wall = time.monotonic() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    events = list(SweepLog(folder).events())
    times = {event["event"]: datetime.fromisoformat(event["at"]) for event in events}
    seconds = (times["end"] - times["begin"]).total_seconds()
    stored = [(datetime.fromisoformat(e["at"]), len(e["ids"])) for e in events if e["event"] == "stored"]
    answers = sum(n for _, n in stored)
    return {
        "workers": workers,
        "seconds": round(seconds, 2),
        "wall_s": round(wall, 2),
        "answers": answers,
        "answers_per_s": round(answers / seconds, 1),
        "steady_per_s": round(steady_rate(stored), 1),
    }


def steady_rate(stored: Sequence[tuple[datetime, int]]) -> float:
    """Answers a second of the middle half; NaN where there are too few to tell.

    Args:
        stored: When how many answers were stored, in order.
    """
    total, so_far = sum(n for _, n in stored), 0
    middle: list[tuple[datetime, int]] = []
    for moment, n in stored:
        if total / 4 <= so_far <= 3 * total / 4:
            middle.append((moment, so_far))
        so_far += n
    if len(middle) < 2 or middle[-1][0] == middle[0][0]:
        return float("nan")
    return (middle[-1][1] - middle[0][1]) / (middle[-1][0] - middle[0][0]).total_seconds()


def samples(folder: Path) -> dict[str, dict[str, bytes]]:
    """The lines of each run's samples.jsonl by request id."""
    return {
        file.parent.name: {json.loads(line)["id"]: line for line in file.read_bytes().splitlines()}
        for file in folder.glob("*__*/samples.jsonl")
    }


def n_different(one: dict[str, dict[str, bytes]], other: dict[str, dict[str, bytes]]) -> int:
    """How many samples are not byte for byte the same."""
    ids = {(run, id) for rows in (one, other) for run, lines in rows.items() for id in lines}
    return sum(one.get(run, {}).get(id) != other.get(run, {}).get(id) for run, id in ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--workers", default="0,1,2")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--prepared", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    counts = [int(number) for number in arguments.workers.split(",")]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        reference: dict[str, dict[str, bytes]] = {}
        for repeat in range(arguments.repeats):
            for count in counts:
                output = Path(folder) / f"{count}-{repeat}"
                row = measure(arguments.config, output, count, arguments.prepared)
                made = samples(output)
                reference = reference or made
                row["samples_unlike_first"] = n_different(reference, made)
                rows.append(row)
                print(json.dumps(row), flush=True)
                write(arguments.out, arguments.config, rows)
                shutil.rmtree(output)


def write(path: Path, config: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write what is known so far; a limit on the time must not lose it."""
    import torch  # The environment tells of GPUs once torch is there.

    best: dict[int, float] = {}
    for row in rows:
        best[row["workers"]] = min(row["seconds"], best.get(row["workers"], row["seconds"]))
    document = {
        "command": f"python tools/measure_workers.py {' '.join(sys.argv[1:])}",
        "config": config.read_text("utf-8"),
        "rows": rows,
        "times_faster_than_one_worker": {
            str(count): round(best[1] / seconds, 3) for count, seconds in best.items() if 1 in best
        },
        "torch": torch.__version__,
        "env": environment(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
