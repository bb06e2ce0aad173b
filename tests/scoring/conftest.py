"""Where the shared answer files with known scores lie."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    if not (SHARED / "dev_cases" / "expected.json").is_file():
        pytest.skip(f"the shared answer files are not at {SHARED}")
    return SHARED
