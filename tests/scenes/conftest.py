import pytest

from sinkbench.scenes.dataset import write_dataset
from sinkbench.scenes.scene import sample_scene


@pytest.fixture(scope="session")
def scenes():
    return [sample_scene("train", 11, index) for index in range(400)]


@pytest.fixture(scope="session")
def fresh(tmp_path_factory):
    """A freshly written data set of 40 images."""
    folder = tmp_path_factory.mktemp("fresh")
    write_dataset(folder, seed=3, n=40)
    return folder
