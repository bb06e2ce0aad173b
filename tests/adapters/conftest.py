"""Fixtures of the adapter tests."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from harness import model_folder

from sinkbench.adapters import load_adapter, resolve_model
from sinkbench.adapters.base import Adapter


@pytest.fixture
def load() -> Callable[..., Adapter]:
    """Loads a tiny model of a family with preprocessing options, shared with no other test."""

    def load(family: str, **options: object) -> Adapter:
        return load_adapter(replace(resolve_model(str(model_folder(family))), options=options), "cpu", "float32")

    return load
