"""Published data that is not part of the repository; tests that need it skip where it is absent."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "shared" / "data"


def shared(name: str) -> Path:
    """A file or folder of the shared data."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"the shared data are not at {FOLDER}")
    return path
