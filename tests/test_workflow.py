"""What continuous integration calls exists, and it calls what it should."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def commands(workflow):
    return [line for step in steps(workflow) for line in step.get("run", "").splitlines()]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_every_make_target_of_a_workflow_is_in_the_makefile(file):
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {name for line in commands(yaml.safe_load(file.read_text())) for name in re.findall(r"make (\S+)", line)}
    assert called
    assert called <= targets


def test_ci_tests_every_supported_python_and_keeps_the_comparison():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    assert {"make test", "make check", "make docs", "make regress"} <= set(commands(workflow))
    # YAML 1.1 reads the key `on` as true.
    assert set(workflow[True]) == {"push", "pull_request"}
    (kept,) = [step for step in steps(workflow) if "upload-artifact" in step.get("uses", "")]
    written = re.search(r"^regress:.*\n\t.*--json (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert written is not None
    assert kept["with"]["path"] == written.group(1)
    assert kept["if"], "a job that failed must keep it too"


def test_only_the_installation_may_use_the_network():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert "HF_HUB_OFFLINE" not in workflow["env"]
    offline = {step["run"]: step.get("env", {}).get("HF_HUB_OFFLINE") for step in steps(workflow) if "run" in step}
    assert (offline["make install"], offline["make test"], offline["make regress"]) == (None, "1", "1")
