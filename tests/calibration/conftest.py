"""Scenes to learn from and scenes to evaluate on, and a tiny random model."""

from pathlib import Path

import pytest
from random_models import save_llava

from sinkbench.scenes.dataset import write_dataset


@pytest.fixture(scope="session")
def learning(tmp_path_factory) -> Path:
    """Three images of the split to learn from: 54 questions, 9 different ones about objects that are there."""
    folder = tmp_path_factory.mktemp("data") / "learning"
    write_dataset(folder, 1, 3, "train")
    return folder


@pytest.fixture(scope="session")
def evaluation(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "evaluation"
    write_dataset(folder, 1, 2, "val")
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A random LLaVA of the real class, called tiny-random."""
    return save_llava(tmp_path_factory.mktemp("models") / "tiny-random")
