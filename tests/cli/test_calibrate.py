"""`sinkbench calibrate`: what it prints, where it writes, and that a run finds it."""

import json

from scenes_folder import write_scenes


def test_rates_are_found_shown_and_used(here, model, tmp_path):
    learning, home = write_scenes(tmp_path / "learning", 3), {"XDG_DATA_HOME": str(tmp_path / "data")}
    loose = ("--set", "iri.epsilon=0", "--set", "iri.noise=20", "--set", "iri.categories=[last]")
    asked = ("--model", model, "--task", "scenes_pope")
    done = here("calibrate", "iri", *asked, "--data-dir", learning, *loose, "--no-pictures", env=home)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "data" / "sinkbench" / "calibrations" / "iri" / "tiny-random.json"
    assert f"Written to {file}." in done.stdout
    assert "rates_attn: [" in done.stdout
    assert f"Next: sinkbench eval --model {model} --method iri --task scenes_pope" in done.stdout
    assert [path.name for path in file.parent.iterdir()] == ["tiny-random.json"]
    shown = here("list", "methods", "iri", env=home).stdout
    assert "tiny-random" in next(line for line in shown.splitlines() if line.startswith("calibrated for"))
    assert "sinkbench calibrate iri --set iri.SETTING=VALUE" in shown
    assert "Standard deviation of the Gaussian noise" in " ".join(shown.split())
    evaluation = write_scenes(tmp_path / "evaluation", 2)
    run = ("eval", *asked, "--method", "iri", "--output", tmp_path / "runs")
    done = here(*run, "--data-dir", evaluation, env=home)
    assert done.returncode == 0, done.stderr
    record = json.loads(next((tmp_path / "runs").glob("*/run.json")).read_text())
    assert record["method"]["calibration"]["iri"]["name"] == "iri/tiny-random"
    done = here(*run, "--data-dir", learning, env=home)
    assert done.returncode == 2
    assert "learned from the very data" in done.stderr


def test_a_trend_is_found_by_the_composition_that_needs_it(here, model, tmp_path):
    learning, home = write_scenes(tmp_path / "learning", 3), {"XDG_DATA_HOME": str(tmp_path / "data")}
    asked = ("--model", model, "--task", "scenes_pope")
    host = ("--set", "debias.host=himap", "--set", "himap.layers=[1,3]")
    done = here("calibrate", "debias", *asked, "--data-dir", learning, *host, env=home)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/data/sinkbench/calibrations/debias/tiny-random.himap.json." in done.stdout
    following = f"--model {model} --method himap+debias --task scenes_pope --set 'himap.layers=[1, 3]'"
    assert f"Next: sinkbench eval {following}" in done.stdout
    shown = json.loads(here("list", "methods", "debias", "--json", env=home).stdout)
    assert shown["calibrated_for"]["tiny-random"] == ["himap"]
    evaluation = write_scenes(tmp_path / "evaluation", 2)
    run = ("eval", *asked, "--data-dir", evaluation, "--limit", 2, "--output", tmp_path / "runs")
    done = here(*run, "--method", "himap+debias", env=home)
    assert done.returncode == 0, done.stderr
    record = json.loads(next((tmp_path / "runs").glob("*/run.json")).read_text())
    assert record["method"]["calibration"]["debias"]["name"] == "debias/tiny-random.himap"
    assert record["method"]["params"]["debias.host"] == "himap"
    done = here(*run, "--method", "fastv+debias", env=home)
    assert done.returncode == 2
    command = "sinkbench calibrate debias --model tiny-random --task scenes_pope --set debias.host=fastv"
    assert command in " ".join(done.stderr.split())


def test_mistakes_are_usage_errors_that_say_what_to_type(here):
    for arguments, words in (
        (("gredy", "--model", "tiny-llava"), "Did you mean greedy"),
        (("pai", "--model", "tiny-llava"), "Those that do: act, debias, dyvte, iri, var"),
        (("iri",), "Add --model NAME"),
        (("iri", "--model", "tiny-llava"), "Add --task NAME"),
    ):
        done = here("calibrate", *arguments)
        assert done.returncode == 2
        assert words in " ".join(done.stderr.split())
