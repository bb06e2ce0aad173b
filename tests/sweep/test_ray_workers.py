"""Ray workers on this machine give the answers of one process, also where one of them is killed."""

import os
import signal
import threading
import time

import pytest

from sinkbench.errors import UsageError
from sinkbench.spec import expand
from sinkbench.sweep.engines import SharedBackend, WindowedBackend
from sinkbench.sweep.run import sweep

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'sinkbench[ray]'")

WINDOW = 12


def test_more_workers_than_there_are_processors_is_refused():
    from sinkbench.sweep.ray_workers import ray_workers

    with pytest.raises(UsageError, match="10000 workers were asked for"), ray_workers(10000):
        pytest.fail("workers were started")


@pytest.fixture(scope="module")
def workers():
    from sinkbench.sweep.ray_workers import ray_workers

    with ray_workers(2) as started:
        yield started


def specs(folder):
    settings = {
        "model": ["tiny-llava", "tiny-qwen"],
        "method": ["greedy", "var"],
        "task": ["scenes_pope", "scenes_chair"],
        "limit": {"scenes_pope": 54, "scenes_chair": 4},
        "params": {"var.tau": 3.0},
        "device": "cpu",
        "output": folder,
    }
    return expand(settings)


def samples(folder):
    files = sorted(folder.glob("*__*/samples.jsonl"))
    return {file.parent.name: sorted(file.read_bytes().splitlines()) for file in files}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process answers."""
    folder = tmp_path_factory.mktemp("alone")
    cells = sweep(specs(folder), backend=WindowedBackend(WINDOW))
    assert {cell.status for cell in cells} == {"done"}
    return samples(folder)


def test_two_workers_give_the_samples_of_one_process_byte_for_byte(workers, alone, tmp_path):
    cells = sweep(specs(tmp_path), workers=workers, backend=SharedBackend(workers, WINDOW))
    assert {cell.status for cell in cells} == {"done"}
    assert samples(tmp_path) == alone
    figures = cells[0].outcome.record["efficiency"]
    assert figures["n_answers"] == 54
    assert figures["answers_per_s"] > 0
    assert cells[0].outcome.record["env"]["packages"]["torch"] is not None


def test_the_questions_of_a_worker_that_is_killed_are_answered_by_its_successor(workers, alone, tmp_path):
    pids = [ray.get(actor.__ray_call__.remote(lambda self: os.getpid())) for actor in workers._actors]

    def kill_the_first_worker_once_it_answers():
        while not list(tmp_path.glob("*/samples.jsonl")):
            time.sleep(0.01)
        os.kill(pids[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_the_first_worker_once_it_answers)
    killer.start()
    cells = sweep(specs(tmp_path), workers=workers, backend=SharedBackend(workers, WINDOW))
    killer.join()
    assert {cell.status for cell in cells} == {"done"}
    assert samples(tmp_path) == alone
    after = [ray.get(actor.__ray_call__.remote(lambda self: os.getpid())) for actor in workers._actors]
    assert after[0] != pids[0]
    assert after[1] == pids[1]


def test_a_method_that_a_worker_cannot_run_is_a_failed_cell(workers, tmp_path):
    wrong = [spec for spec in specs(tmp_path) if (spec.model, spec.task) == ("tiny-qwen", "scenes_chair")]
    wrong[1] = wrong[1].model_copy(update={"params": {"var.layers": [400]}})
    cells = sweep(wrong, workers=workers, backend=SharedBackend(workers, WINDOW))
    assert [cell.status for cell in cells] == ["done", "failed"]
    assert cells[1].hint
