"""Disks that fill up, folders that cannot be written, and two processes in one folder."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter

import pytest

COMMAND = [sys.executable, "-m", "sinkbench"]
ASKED = ["-m", "tiny-llava", "-M", "greedy,var", "-t", "scenes_pope", "-L", "72", "--device", "cpu"]
SWEEP = {"model": "tiny-llava", "method": ["greedy", "var"], "task": ["scenes_pope"], "limit": 72, "device": "cpu"}


def can_mount():
    """Whether this machine lets us mount a disk of our own."""
    if not shutil.which("unshare"):
        return False
    trial = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs none /mnt"]
    return subprocess.run(trial, capture_output=True).returncode == 0


own_disk = pytest.mark.skipif(not can_mount(), reason="no disk can be mounted here (unshare -rm)")


def samples(folder):
    return {file.parent.name: sorted(file.read_bytes().splitlines()) for file in folder.glob("*__*/samples.jsonl")}


def on_disk(script, *arguments):
    """Run a shell script that may mount; "$S" is sinkbench."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "S": " ".join(COMMAND)}
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *map(str, arguments)], capture_output=True, text=True, env=env
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run([*COMMAND, "eval", *ASKED, "-o", str(folder)], check=True, capture_output=True)
    return samples(folder)


@own_disk
@pytest.mark.parametrize("size", ["24k", "150k", "176k"])
def test_a_run_that_fills_the_disk_says_so_and_goes_on_when_there_is_room(undisturbed, tmp_path, size):
    full, kept = tmp_path / "full", tmp_path / "kept"
    full.mkdir()
    script = f"""
        mount -t tmpfs -o size={size} none "$1"
        $S eval {" ".join(ASKED)} -o "$1"; echo "first: $?"
        mount -o remount,size=50m "$1"
        find "$1" -name run.json -exec cat {{}} + > /dev/null
        $S eval {" ".join(ASKED)} -o "$1"; echo "second: $?"
        cp -r "$1" "$2"
    """
    done = on_disk(script, full, kept)
    assert "first: 1" in done.stdout, done.stdout + done.stderr
    assert "second: 0" in done.stdout, done.stdout + done.stderr
    assert "cannot be written: No space left on device" in " ".join(done.stderr.split())
    assert "Free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert samples(kept) == undisturbed
    assert list(kept.rglob("*.tmp")) == []


@own_disk
def test_a_read_only_folder_is_refused_before_anything_is_done_and_can_still_be_read(tmp_path):
    folder = tmp_path / "runs"
    subprocess.run([*COMMAND, "eval", *ASKED, "-o", str(folder)], check=True, capture_output=True)
    (folder / "sweep.yaml").write_text(json.dumps(SWEEP))
    script = f"""
        mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"
        $S eval {" ".join(ASKED)} -o "$1"; echo "eval: $?"
        $S sweep "$1/sweep.yaml" -o "$1/new"; echo "sweep: $?"
        $S leaderboard "$1" --json "$1/board.json"; echo "leaderboard: $?"
        $S report "$1" -o "$1/report.html"; echo "report: $?"
    """
    before = sorted(path.name for path in folder.rglob("*"))
    done = on_disk(script, folder)
    for command in ("eval", "sweep", "leaderboard", "report"):
        assert f"{command}: 2" in done.stdout, done.stdout + done.stderr
    assert "scenes_pope" in done.stdout
    assert " ".join(done.stderr.split()).count("cannot be written") >= 4
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_two_sweeps_in_one_folder_leave_each_run_to_one_of_them(undisturbed, tmp_path):
    folder, config = tmp_path / "runs", tmp_path / "sweep.yaml"
    config.write_text(json.dumps(SWEEP))
    command = [*COMMAND, "sweep", str(config), "-o", str(folder)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate() for process in both]
    assert {process.returncode for process in both} <= {0, 3}, told
    for process, (out, err) in zip(both, told, strict=True):
        assert "Traceback" not in err
        if process.returncode == 3:
            assert "another process is writing" in out
    last = subprocess.run(command, capture_output=True, text=True)
    assert last.returncode == 0
    assert samples(folder) == undisturbed
    events = [json.loads(line) for line in (folder / "sweep.jsonl").read_text().splitlines()]
    stored = Counter((event["run"], id) for event in events if event["event"] == "stored" for id in event["ids"])
    assert set(stored.values()) == {1}
    assert len(stored) == 2 * 72
