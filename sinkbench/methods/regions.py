"""Connected regions of a mask."""

import numpy as np
from numpy.typing import NDArray


def label_regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
    """Number the regions of a mask whose pixels touch along their sides (4 neighbours).

    Args:
        mask: (H, W).

    Returns:
        (H, W): 0 outside the mask, else the region's number from 1 on, in the order of their first pixels row by row;
        and how many there are.
    """
    runs = _number_runs(mask)
    count = int(runs.max(initial=0))
    both = mask[:-1] & mask[1:]
    touching = np.unique(np.stack((runs[:-1][both], runs[1:][both]), axis=1), axis=0)
    parent = list(range(count + 1))
    for above, below in touching.tolist():
        first, second = _root(parent, above), _root(parent, below)
        parent[max(first, second)] = min(first, second)
    roots = np.array([_root(parent, run) for run in range(count + 1)])
    numbers = np.unique(roots, return_inverse=True)[1].reshape(-1)
    return numbers[runs], int(numbers.max())


def _number_runs(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(H, W): runs of pixels within a row, numbered from 1 on; 0 outside the mask."""
    starts = mask.copy()
    starts[:, 1:] &= ~mask[:, :-1]
    return np.where(mask, starts.cumsum().reshape(mask.shape), 0)


def _root(parent: list[int], run: int) -> int:
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run
