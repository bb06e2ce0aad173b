"""The installed command, a tiny random model and a tiny data set."""

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest
from scenes_folder import write_scenes

SCRIPT = Path(sysconfig.get_path("scripts")) / "sinkbench"


@pytest.fixture(scope="session")
def sinkbench(tmp_path_factory):
    """Run `sinkbench ARGUMENTS` in an empty folder, as a log would see it."""
    if not SCRIPT.exists():
        pytest.skip(f"sinkbench is not installed: {SCRIPT} does not exist")

    def run(*arguments, env=None):
        return subprocess.run(
            [str(SCRIPT), *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path_factory.mktemp("cwd"),
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(env or {})},
            timeout=120,
        )

    run.script = SCRIPT
    return run


@pytest.fixture
def here(tmp_path_factory, monkeypatch, capsys):
    """The same in this process, which has loaded what takes seconds to load."""
    from sinkbench.cli.app import app
    from sinkbench.cli.failure import guarded

    def run(*arguments, env=None):
        capsys.readouterr()
        with monkeypatch.context() as now:
            now.chdir(tmp_path_factory.mktemp("cwd"))
            now.setattr("sys.argv", ["sinkbench", *map(str, arguments)])
            for name, value in (env or {}).items():
                now.setenv(name, str(value))
            try:
                code = guarded(app)
            except SystemExit as end:
                code = end.code or 0
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A random LLaVA of the real class."""
    from random_models import save_llava

    return save_llava(tmp_path_factory.mktemp("models") / "tiny-random")


@pytest.fixture
def scenes(tmp_path):
    """Four images, 36 questions."""
    return write_scenes(tmp_path / "scenes", 4)
