"""Methods of other distributions: a real folder of one on `sys.path`, with good and broken entry points."""

import importlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from sinkbench import methods
from sinkbench.errors import UsageError
from sinkbench.methods import builtin_names, get_method, method_class, method_names
from sinkbench.methods.describe import describe

MODULE = '''
from dataclasses import dataclass
from typing import ClassVar

from sinkbench.methods.base import Method


@dataclass(frozen=True)
class Halve(Method):
    """Halves.

    Attributes:
        share: What is left.
    """

    name: ClassVar[str] = "halve"
    summary: ClassVar[str] = "halves what it is given"
    paper: ClassVar[None] = None

    share: float = 0.5


@dataclass(frozen=True)
class Other(Halve):
    name: ClassVar[str] = "other"


@dataclass(frozen=True)
class Silent(Method):
    name: ClassVar[str] = "silent"


@dataclass(frozen=True)
class Odd(Halve):
    name: ClassVar[str] = "odd"
    family: ClassVar[str] = "wizardry"


@dataclass(frozen=True)
class Unknowable(Halve):
    name: ClassVar[str] = "unknowable"
    part: "Nowhere" = None


def function():
    pass
'''
GOOD = "halve = halve_methods:Halve"
BROKEN = {
    "missing = halve_methods_extra:Missing": "ModuleNotFoundError: No module named 'halve_methods_extra'",
    "gone = halve_methods:Gone": "AttributeError: module 'halve_methods' has no attribute 'Gone'",
    "failing = halve_failing:Failing": "RuntimeError: no licence",
    "function = halve_methods:function": "is no subclass of sinkbench.methods.base.Method",
    "string = halve_methods:Halve.name": "'halve' is no subclass of sinkbench.methods.base.Method",
    "var = halve_methods:Halve": "another method has this name",
    "a+b = halve_methods:Halve": "a name is made of letters, digits, - and _",
    "renamed = halve_methods:Other": "Other calls itself 'other'",
    "silent = halve_methods:Silent": "Silent.summary is missing or no str",
    "odd = halve_methods:Odd": "Odd.family 'wizardry' is none of: decoding, attention",
    "unknowable = halve_methods:Unknowable": "NameError: name 'Nowhere' is not defined",
}


def write_distribution(folder, name, entries):
    """An installed distribution as a package manager leaves it, and its modules."""
    folder.mkdir(exist_ok=True)
    (folder / "halve_methods.py").write_text(MODULE)
    (folder / "halve_failing.py").write_text("raise RuntimeError('no licence')\n")
    info = folder / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("\n".join(["[sinkbench.methods]", *entries, ""]))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution with one good entry point and all broken ones."""
    write_distribution(tmp_path, "halve-methods", [*BROKEN, GOOD])
    monkeypatch.syspath_prepend(tmp_path)
    methods._plugins.cache_clear()
    importlib.invalidate_caches()
    yield tmp_path
    methods._plugins.cache_clear()
    for module in ("halve_methods", "halve_failing"):
        sys.modules.pop(module, None)


def test_a_good_plugin_is_a_method_like_any_other(installed):
    assert method_names() == sorted([*builtin_names(), "halve"])
    assert get_method("halve", {"share": 0.25}).params() == {"share": 0.25}
    assert get_method("halve+var").name == "halve+var"
    described = describe("halve")
    assert described.distribution == "halve-methods 1.2"
    assert [(p.name, p.default, p.meaning) for p in described.parameters] == [("share", 0.5, "What is left.")]
    assert describe("var").distribution == ""


def test_each_broken_plugin_is_named_once_and_left_out(installed, caplog):
    for _ in range(2):
        method_names()
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("sinkbench.")]
    assert len(lines) == len(BROKEN)
    for entry, reason in BROKEN.items():
        name, _, value = entry.partition(" = ")
        (line,) = (line for line in lines if line.startswith(f"method {name!r} of halve-methods 1.2 ({value}) "))
        assert reason in line
        if name != "var":
            with pytest.raises(UsageError, match="unknown method"):
                method_class(name)
    assert method_class("var").__module__ == "sinkbench.methods.var"


def test_the_second_plugin_of_a_name_is_left_out(installed, caplog):
    write_distribution(installed, "imitation", [GOOD])
    importlib.invalidate_caches()
    assert "halve" in method_names()
    taken = [line for line in caplog.messages if "method 'halve' of" in line]
    assert len(taken) == 1
    assert taken[0].endswith("another method has this name")


def test_built_in_methods_load_no_plugin(tmp_path):
    write_distribution(tmp_path, "halve-methods", [GOOD])
    code = (
        "import sys, sinkbench.methods as m\n"
        "assert not {'torch', 'importlib.metadata'} & set(sys.modules)\n"
        "m.method_class('var'); assert 'halve_methods' not in sys.modules\n"
        "assert 'halve' in m.method_names()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})


def test_names_alone_load_no_torch():
    code = "import sys, sinkbench.methods as m; assert m.method_names(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_line_offers_a_plugin_and_warns_of_the_broken(tmp_path):
    script = Path(sysconfig.get_path("scripts")) / "sinkbench"
    if not script.exists():
        pytest.skip(f"sinkbench is not installed: {script} does not exist")
    entries = [GOOD, "function = halve_methods:function", "gone = halve_methods:Gone", "var = halve_methods:Halve"]
    write_distribution(tmp_path, "halve-methods", entries)
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    run = {"capture_output": True, "text": True, "env": env, "cwd": tmp_path}
    listed = subprocess.run([script, "list", "methods"], **run)
    assert listed.returncode == 0, listed.stderr
    assert "halve is a plug-in, of halve-methods 1.2." in listed.stdout
    warned = [line for line in listed.stderr.splitlines() if line.startswith("method ")]
    assert [line.split()[1] for line in warned] == ["'function'", "'gone'", "'var'"]
    assert all(" of halve-methods 1.2 " in line for line in warned)

    task = ("--task", "scenes_pope", "--model", "tiny-llava")
    prepared = subprocess.run([script, "eval", "-M", "halve", *task, "-L", "2", "--stage", "prepare"], **run)
    assert prepared.returncode == 0, prepared.stderr
    refused = subprocess.run([script, "eval", "-M", "gone", *task], **run)
    assert refused.returncode == 2
    assert "unknown method 'gone'" in refused.stderr
