"""Gates for `dyvte` that nobody trained."""

import atexit
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from safetensors.torch import save_file

WIDTH = 24


@cache
def _folder() -> Path:
    folder = Path(mkdtemp(prefix="sinkbench-tests-gates-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def gates_file(n_layers: int, hidden: int, by: int = 0, fires: bool = True) -> str:
    """A file with random gates.

    Args:
        n_layers: L.
        hidden: Width of the model.
        by: From the gate of this layer on every gate fires; those before fire by chance.
        fires: Whether any does.
    """
    generator = torch.Generator().manual_seed(0)
    w1 = torch.randn(n_layers, WIDTH, 2 * hidden, generator=generator)
    w2 = torch.randn(n_layers, 2, WIDTH, generator=generator)
    # The activation is above zero on the whole: so is the second logit, and the first below.
    w2[by:] = torch.tensor([-1.0, 1.0])[:, None]
    if not fires:
        w2 = w2 * 0
    path = _folder() / f"{n_layers}-{hidden}-{by}-{fires}.safetensors"
    save_file({"w1": w1, "w2": w2}, path)
    return str(path)
