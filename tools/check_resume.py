"""Kill a sweep with SIGKILL at random moments, go on, and compare with an undisturbed one.

python tools/check_resume.py configs/sweep.yaml --kills 3 --out results/checks/resume.json
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sinkbench.environment import environment
from sinkbench.leaderboard.board import build
from sinkbench.sweep.log import SweepLog


def run_sweep(config: Path, folder: Path, *, kill_after: float | None = None) -> float:
    """Run the sweep as a command; kill it after some seconds, if it still runs.

    Returns:
        Seconds until its end.
    """
    command = [sys.executable, "-m", "sinkbench", "sweep", str(config), "--output", str(folder)]
    start = time.monotonic()
    with open(folder.with_suffix(".log"), "a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            status = process.wait(timeout=kill_after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        else:
            if status:
                raise SystemExit(f"{' '.join(command)} ended with {status}: see {folder.with_suffix('.log')}")
    return time.monotonic() - start


def stored(folder: Path) -> Counter[tuple[str, str]]:
    """How often each sample was stored, by the sweep's own log."""
    events = SweepLog(folder).events()
    return Counter((event["run"], id) for event in events if event["event"] == "stored" for id in event["ids"])


def samples(folder: Path) -> dict[str, list[bytes]]:
    """The lines of each run's samples.jsonl, sorted."""
    return {file.parent.name: sorted(file.read_bytes().splitlines()) for file in folder.glob("*__*/samples.jsonl")}


def board_rows(folder: Path) -> list[dict[str, Any]]:
    """The board's rows without what the clock decides."""
    return [{key: value for key, value in row.items() if key != "cost"} for row in build(folder)["rows"]]


def check(config: Path, folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Run undisturbed and disturbed, and say what differs.

    Args:
        config: Of the sweep.
        folder: For both outputs; emptied by the caller.
        kills: How often the second sweep is killed.
        seed: Of the moments.
    """
    whole, broken = folder / "whole", folder / "broken"
    seconds = run_sweep(config, whole)
    draw = random.Random(seed)
    told = []
    for _ in range(kills):
        # Within the time that is left on average, so that most kills find the sweep at work.
        after = draw.uniform(0.2, 0.9) * seconds / kills
        lived = run_sweep(config, broken, kill_after=after)
        told.append(
            {"after_s": round(lived, 2), "answers_on_disk": sum(len(rows) for rows in samples(broken).values())}
        )
    run_sweep(config, broken)
    counts = stored(broken)
    return {
        "cells": len(samples(whole)),
        "samples": sum(len(rows) for rows in samples(whole).values()),
        "undisturbed_s": round(seconds, 1),
        "kills": told,
        "stored_by_log": sum(counts.values()),
        "stored_twice": sorted(f"{run}: {id}" for (run, id), times in counts.items() if times > 1),
        "samples_equal": samples(whole) == samples(broken),
        "boards_equal": board_rows(whole) == board_rows(broken),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = check(arguments.config, Path(folder), arguments.kills, arguments.seed)
    document = {"command": f"python tools/check_resume.py {' '.join(sys.argv[1:])}", **found, "env": environment()}
    text = json.dumps(document, indent=1, ensure_ascii=False)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n", "utf-8")
    if found["stored_twice"] or not (found["samples_equal"] and found["boards_equal"]):
        raise SystemExit("the two sweeps differ")


if __name__ == "__main__":
    main()
