"""Records what the last row of a batch attends to on the grids of its images, layer by layer and token by token."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sinkbench.adapters.views import View
from sinkbench.engine.context import Context
from sinkbench.methods.base import Intervention
from sinkbench.methods.looks import Seen

_CELLS, _SAMPLE = "looking.cells", "looking.sample"


def number_cells(views: Sequence[View], n_tokens: int) -> Tensor:
    """(n_tokens,) int64: the cell, numbered from 1 on over all views, that each image token fills; 0: none."""
    cells = torch.zeros(n_tokens, dtype=torch.int64)
    done = 0
    for view in views:
        cells[torch.from_numpy(view.tokens).flatten()] = torch.arange(done + 1, done + view.tokens.size + 1)
        done += view.tokens.size
    return cells


def split_maps(maps: Tensor, views: Sequence[View]) -> tuple[Seen, ...]:
    """What was seen in each view, from maps (T, n_layers, C) of C or more cells as `number_cells` numbers them."""
    sizes = [view.tokens.size for view in views]
    parts = torch.split(maps[..., : sum(sizes)], sizes, dim=-1)
    return tuple(
        Seen(part.reshape(*part.shape[:2], *view.tokens.shape), view.box)
        for part, view in zip(parts, views, strict=True)
    )


class Looking(Intervention):
    """Records one batch and edits nothing.

    Unlike a method's intervention it holds what it recorded: rows that finish early leave the batch with their state.

    Args:
        layers: n layers, 0-based.
        cells: (B, N) int64 cells of each sample's image tokens, from `number_cells`, filled up with 0.
    """

    def __init__(self, layers: Sequence[int], cells: Tensor) -> None:
        self._place = {layer: place for place, layer in enumerate(layers)}
        self._cells = cells
        self._n_cells = int(cells.max())
        self._records: list[tuple[int, int, Tensor, Tensor]] = []

    def rows(self, layer: int, ctx: Context) -> slice | None:
        """The row from which the next token comes."""
        return ctx.last_row if ctx.emits and layer in self._place else None

    def edit_weights(self, layer: int, weights: Tensor, ctx: Context) -> Tensor:
        """Keep the head mean of the weights on cells; the weights stay as they are."""
        if _CELLS not in ctx.state:
            self._begin(ctx)
        mean = weights.mean(dim=1)[:, 0]
        cells = ctx.extend(ctx.state[_CELLS])
        sums = mean.new_zeros(len(mean), self._n_cells + 1).scatter_add_(1, cells, mean)
        self._records.append((ctx.step, self._place[layer], ctx.state[_SAMPLE], sums[:, 1:]))
        return weights

    def _begin(self, ctx: Context) -> None:
        """Find each sample's cells among the key slots, whose image tokens stand in the prompt's order."""
        number = ctx.is_image.cumsum(1) * ctx.is_image
        table = F.pad(self._cells.to(number.device), (1, 0))
        ctx.state[_CELLS] = table.gather(1, number)
        ctx.state[_SAMPLE] = torch.arange(len(number), device=number.device)

    def maps(self, lengths: Sequence[int]) -> list[Tensor]:
        """What was recorded of each sample.

        Args:
            lengths: T of each of the B samples: tokens that it generated.

        Returns:
            (T, n_layers, C) float32 each, on the CPU.
        """
        out = torch.zeros(len(lengths), max(lengths), len(self._place), self._n_cells)
        for step, place, samples, values in self._records:
            out[samples.cpu(), step, place] = values.cpu()
        return [maps[:length].clone() for maps, length in zip(out, lengths, strict=True)]
