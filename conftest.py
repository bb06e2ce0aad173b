"""Options of the test run, and no calibrations but the shipped ones. Fixtures live below tests/."""

import os
from pathlib import Path
from tempfile import mkdtemp

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest --vectors DIR` runs the vector tests on the files of another folder."""
    parser.addoption(
        "--vectors",
        type=Path,
        default=Path(__file__).parent / "tests" / "vectors",
        help="folder of <method>*.safetensors with inputs and outputs of published code",
    )


def pytest_configure(config: pytest.Config) -> None:
    """What this user has measured on a model must not change a test."""
    os.environ["XDG_DATA_HOME"] = mkdtemp(prefix="sinkbench-tests-data-")
