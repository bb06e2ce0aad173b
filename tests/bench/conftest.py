"""A tiny model with random weights, images, and settings under which a whole benchmark takes seconds."""

import pytest

from sinkbench.bench import workloads
from sinkbench.bench.models import random_adapter
from sinkbench.bench.settings import Settings
from sinkbench.bench.shapes import resolve_shape


@pytest.fixture(scope="session")
def tiny():
    return random_adapter(resolve_shape("tiny"), workloads.TEXTS, "cpu", "float32")


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    return workloads.write_images(tmp_path_factory.mktemp("images"), [(64, 48), (48, 64), (64, 48), (32, 48), (64, 64)])


@pytest.fixture
def settings():
    return Settings(
        model="tiny",
        methods=("var",),
        caption_batches=(2, 1),
        images=2,
        questions=3,
        new_tokens=4,
        repeats=2,
        baseline_batches=(2,),
        baseline_tokens=3,
    )


@pytest.fixture
def clock():
    """Runs the work, and says that it took 1, 2, 4, … seconds."""

    class Clock:
        def __init__(self):
            self.given = []

        def __call__(self, work):
            work()
            self.given.append(2.0 ** len(self.given))
            return self.given[-1]

    return Clock()
