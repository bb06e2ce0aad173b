"""The tool that measures sweeps on several workers."""

import json
import math
from datetime import datetime

import measure_workers
import pytest


def test_a_sweep_is_timed_by_its_log_and_its_samples_are_read(tmp_path):
    config = tmp_path / "sweep.yaml"
    config.write_text("{model: tiny-llava, method: [greedy, var], task: scenes_pope, limit: 18, device: cpu}")
    row = measure_workers.measure(config, tmp_path / "runs", 0, None)
    assert (row["workers"], row["answers"]) == (0, 36)
    assert 0 < row["seconds"] < row["wall_s"]
    assert row["answers_per_s"] == pytest.approx(36 / row["seconds"], rel=0.02)
    made = measure_workers.samples(tmp_path / "runs")
    assert [len(lines) for lines in made.values()] == [18, 18]


def test_the_steady_rate_is_that_of_the_middle_half():
    # Ten answers at once every second, but for a slow start and end.
    times = [0, 30, 31, 32, 33, 34, 35, 80]
    stored = [(datetime.fromtimestamp(second), 10) for second in times]
    # Stored after 20 to 60 of 80 answers: seconds 31 to 35.
    assert measure_workers.steady_rate(stored) == 10.0
    assert math.isnan(measure_workers.steady_rate(stored[:1]))


def test_samples_that_differ_or_are_missing_are_counted():
    one = {"a": {"1": b"x", "2": b"y"}, "b": {"1": b"x"}}
    other = {"a": {"1": b"x", "2": b"z"}}
    assert measure_workers.n_different(one, one) == 0
    assert measure_workers.n_different(one, other) == 2


def test_what_is_known_is_written_after_every_sweep(tmp_path):
    config, out = tmp_path / "sweep.yaml", tmp_path / "out" / "workers.json"
    config.write_text("{model: tiny-llava}")
    rows = [{"workers": 1, "seconds": 8.0}, {"workers": 2, "seconds": 5.0}, {"workers": 2, "seconds": 4.0}]
    for n in (1, 2, 3):
        measure_workers.write(out, config, rows[:n])
        written = json.loads(out.read_text())
        assert (written["rows"], written["config"]) == (rows[:n], "{model: tiny-llava}")
    assert written["times_faster_than_one_worker"] == {"1": 1.0, "2": 2.0}
