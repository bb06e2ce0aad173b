"""`sinkbench inspect sink-dims`: from a model to the lines of its preset, and on to a run."""

import yaml


def test_the_entry_of_the_shipped_preset_comes_out(sinkbench, tmp_path):
    done = sinkbench("inspect", "sink-dims", "--model", "tiny-llava", "--output", tmp_path / "entry.yaml")
    assert done.returncode == 0, done.stderr
    entry = yaml.safe_load((tmp_path / "entry.yaml").read_text())["sink_dims"]
    assert entry["dims"] == [210]
    assert entry["evidence"]["runner_up"] < 8 < min(entry["evidence"]["ratios"][210])
    assert "210" in done.stdout


def test_a_model_without_sinks_says_so(sinkbench, model):
    done = sinkbench("inspect", "sink-dims", "--model", model, "--tau", "7.9")
    assert done.returncode == 0, done.stderr
    assert "no massive activations" in " ".join(done.stdout.split())


def test_a_missing_prompt_file_is_named(sinkbench, tmp_path):
    done = sinkbench("inspect", "sink-dims", "--model", "tiny-llava", "--prompts", tmp_path / "none.txt")
    assert done.returncode == 2
    assert "none.txt" in done.stderr.replace("\n", "").replace("│ ", "").replace(" │", "")
