"""D2, the detector of sink dimensions [ours]: dimensions whose entries are massive across inputs and layers.

A dimension is found if it is massive (`massive.is_massive`) at some token in at least half of the calibration samples
in three or more consecutive hidden states X[i]. It asks for absolute size, in any token; `sink_dims` is VAR's own
procedure, which asks for a share of the first token's energy and so also answers for models without massive values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sinkbench.diagnostics.massive import FACTOR, FLOOR, Magnitudes, is_massive

SHARE = 0.5
"""Samples in which a dimension must be massive."""
RUN = 3
"""Consecutive hidden states in which it must be."""


@dataclass(frozen=True)
class MassiveDim:
    """A dimension that the detector found.

    Attributes:
        dim: The dimension.
        spans: Runs of at least `RUN` hidden states, first and last index of each; the outermost are onset and offset.
        strongest: The hidden state, inside a span, where the mean magnitude is largest; what follows is measured there.
        mean: Mean over the samples where it is massive of the entry of largest magnitude, with its sign.
        variation: Coefficient of variation of these values (population).
        share: Samples where it is massive, of all.
        classes: For each token class, the share of these values that lie on its tokens.
    """

    dim: int
    spans: tuple[tuple[int, int], ...]
    strongest: int
    mean: float
    variation: float
    share: float
    classes: dict[str, float]

    @property
    def onset(self) -> int:
        """First hidden state of the first span."""
        return self.spans[0][0]

    @property
    def offset(self) -> int:
        """Last hidden state of the last span."""
        return self.spans[-1][1]


class MassiveDims:
    """Accumulates batches of a calibration set; holds a few numbers a hidden state and dimension.

    Args:
        n_states: Hidden states, L + 1.
        width: Dimensions d.
        classes: Names of the token classes.
        floor: |x| must exceed this,
        factor: ... and be at least this many medians of the hidden state.
        device: Where the numbers are held; the model's device saves synchronisation.
    """

    def __init__(
        self,
        n_states: int,
        width: int,
        classes: Sequence[str],
        floor: float = FLOOR,
        factor: float = FACTOR,
        device: torch.device | str = "cpu",
    ) -> None:
        self.classes, self.floor, self.factor = tuple(classes), floor, factor
        self.samples = [0] * n_states
        self.hits = torch.zeros(n_states, width, device=device, dtype=torch.int64)
        self.sums = torch.zeros(n_states, width, device=device, dtype=torch.float64)
        self.squares = torch.zeros_like(self.sums)
        self.on_class = torch.zeros(n_states, len(self.classes), width, device=device, dtype=torch.int64)

    def update(self, index: int, seen: Magnitudes, codes: Tensor) -> None:
        """Take in one batch.

        Args:
            index: Which hidden state, 0 … L.
            seen: Its magnitudes.
            codes: (B, K) integer, the index of each token's class in `classes`; others count for none.
        """
        massive = is_massive(seen.values.abs(), seen.median[:, None], self.floor, self.factor)
        values = torch.where(massive, seen.values, 0.0).to(self.sums)
        kinds = codes.gather(1, seen.tokens)
        self.samples[index] += len(massive)
        self.hits[index] += massive.sum(0).to(self.hits)
        self.sums[index] += values.sum(0)
        self.squares[index] += values.square().sum(0)
        for kind in range(len(self.classes)):
            self.on_class[index, kind] += (massive & (kinds == kind)).sum(0).to(self.hits)

    def found(self) -> tuple[MassiveDim, ...]:
        """The dimensions found, largest mean magnitude first."""
        samples = torch.tensor(self.samples, device=self.hits.device)[:, None]
        often = (self.hits >= SHARE * samples) & (samples > 0)
        candidates = often.any(0).nonzero()[:, 0].tolist()
        described = (self._describe(dim, _spans(often[:, dim].tolist())) for dim in candidates)
        return tuple(sorted((one for one in described if one), key=lambda one: -abs(one.mean)))

    def _describe(self, dim: int, spans: tuple[tuple[int, int], ...]) -> MassiveDim | None:
        if not spans:
            return None
        hits, sums = self.hits[:, dim].clamp_min(1), self.sums[:, dim]
        means = sums / hits
        inside = [index for first, last in spans for index in range(first, last + 1)]
        at = max(inside, key=lambda index: abs(float(means[index])))
        spread = (self.squares[at, dim] / hits[at] - means[at].square()).clamp_min(0).sqrt()
        return MassiveDim(
            dim=dim,
            spans=spans,
            strongest=at,
            mean=float(means[at]),
            variation=float(spread / means[at].abs()),
            share=float(self.hits[at, dim]) / self.samples[at],
            classes={
                name: float(count / hits[at])
                for name, count in zip(self.classes, self.on_class[at, :, dim], strict=True)
            },
        )

    def evidence(self) -> dict[str, Any]:
        """What an entry in configs/models/ says of the found dimensions: `dims`, and `evidence` in plain types."""
        found = self.found()
        return {
            "dims": sorted(one.dim for one in found),
            "evidence": {
                "criterion": {"floor": self.floor, "factor": self.factor, "share": SHARE, "run": RUN},
                "prompts": max(self.samples, default=0),
                "massive": {
                    one.dim: {
                        "spans": [list(span) for span in one.spans],
                        "strongest": one.strongest,
                        "mean": round(one.mean, 2),
                        "variation": round(one.variation, 4),
                        "share": round(one.share, 3),
                        "classes": {name: round(share, 3) for name, share in one.classes.items() if share},
                    }
                    for one in found
                },
            },
        }


def _spans(often: Sequence[bool]) -> tuple[tuple[int, int], ...]:
    """First and last index of each run of at least `RUN` true values."""
    edges = [index for index, (a, b) in enumerate(pairwise([False, *often, False])) if a != b]
    runs = zip(edges[::2], edges[1::2], strict=True)
    return tuple((first, end - 1) for first, end in runs if end - first >= RUN)
