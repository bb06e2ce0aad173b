"""The Triton kernels against a float64 reference, on the CPU through Triton's interpreter."""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.version import Version

FOLDER = Path(__file__).parent


def triton_version() -> Version:
    try:
        return Version(version("triton"))
    except PackageNotFoundError:
        return Version("0")


@pytest.mark.skipif(triton_version() < Version("3.7"), reason="no Triton, or its interpreter fails with NumPy 2.4")
@pytest.mark.parametrize("checks", ["interpreted_kernels.py", "interpreted_columns.py", "interpreted_rows.py"])
def test_kernels_under_the_interpreter(checks):
    """In a process of its own: Triton reads TRITON_INTERPRET when it is imported, and another test may have done so."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider", str(FOLDER / checks)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
