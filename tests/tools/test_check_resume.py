"""A sweep that is killed three times: nothing is lost, and nothing is computed twice."""

import check_resume
import yaml


def test_a_sweep_killed_three_times_ends_with_the_board_of_an_undisturbed_one(tmp_path, monkeypatch):
    config = tmp_path / "sweep.yaml"
    settings = {
        "model": "tiny-llava",
        "method": ["greedy", "var", "pai"],
        "task": ["scenes_pope", "scenes_chair"],
        "limit": {"scenes_pope": 144, "scenes_chair": 4},
        "device": "cpu",
    }
    config.write_text(yaml.safe_dump(settings))
    found = check_resume.check(config, tmp_path, kills=3, seed=1)
    assert found["cells"] == 6
    assert found["samples"] == 3 * (144 + 4)
    assert found["stored_twice"] == []
    assert found["samples_equal"]
    assert found["boards_equal"]
    assert len(found["kills"]) == 3
    # What was stored right before a kill may be missing from the log, never more.
    assert found["samples"] - 3 * 54 <= found["stored_by_log"] <= found["samples"]


def test_what_is_stored_twice_is_noticed(tmp_path):
    from sinkbench.sweep.log import SweepLog

    log = SweepLog(tmp_path)
    for ids in (["a", "b"], ["b"]):
        log.write("stored", run="one", ids=ids)
    assert check_resume.stored(tmp_path) == {("one", "a"): 1, ("one", "b"): 2}
