"""Options of the test run. Fixtures live below tests/."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest --vectors DIR` runs the vector tests on the files of another folder."""
    parser.addoption(
        "--vectors",
        type=Path,
        default=Path(__file__).parent / "tests" / "vectors",
        help="folder of <method>*.safetensors with inputs and outputs of published code",
    )
