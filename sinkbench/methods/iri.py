"""IRI: add what the causally most important layers computed to later important layers, at the last token."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method, Part
from sinkbench.methods.facts import ModelInfo, Paper


@dataclass(frozen=True)
class Iri(Method):
    """Intermediate Representation Injection.

    Attributes:
        lambda_attn: Strength at attention outputs.
        lambda_mlp: Strength at MLP outputs.
        k_sources: Layers of highest recovery rate whose outputs are injected.
        k_targets: Layers of highest recovery rate that receive them.
        rates_attn: Recovery rate of each layer's attention at the last token (FCCT), L numbers.
        rates_mlp: The same of the MLPs.
        record: Whether a source that is itself a target gives what it computed ("raw") or with what it received; the
            paper does not say.
    """

    name: ClassVar[str] = "iri"
    summary: ClassVar[str] = "injects what causally important layers computed into later ones, at the last token"
    paper: ClassVar[Paper] = Paper(
        title="Causal Tracing of Object Representations in Large Vision Language Models",
        authors="Li et al.",
        venue="AAAI 2026",
        arxiv="2511.05923",
    )
    edits: ClassVar[Stage] = Stage.SUFFIX | Stage.DECODE
    family: ClassVar[str] = "hidden states"
    cost: ClassVar[str] = "free"
    calibration: ClassVar[str] = "recovery rates of each layer's attention and MLP, by causal tracing"

    lambda_attn: float = 0.26
    lambda_mlp: float = 0.16
    k_sources: int = 3
    k_targets: int = 10
    rates_attn: tuple[float, ...] = ()
    rates_mlp: tuple[float, ...] = ()
    record: Literal["raw", "injected"] = "raw"

    def __post_init__(self) -> None:
        if self.k_sources < 1 or self.k_targets < 1:
            raise UsageError(
                f"iri.k_sources={self.k_sources}, iri.k_targets={self.k_targets}: IRI needs layers of both kinds",
                "Give numbers of at least 1.",
            )

    def bind(self, model: ModelInfo) -> "IriIntervention":
        """Rank the layers.

        Raises:
            UsageError: The recovery rates are missing, or not one a layer.
        """
        rates: dict[Part, tuple[float, ...]] = {"attn": self.rates_attn, "mlp": self.rates_mlp}
        for part, values in rates.items():
            if len(values) != model.n_layers:
                raise UsageError(
                    f"iri.rates_{part}: {len(values)} recovery rates for the {model.n_layers} layers of {model.name}",
                    f"Measure them by causal tracing: sinkbench calibrate iri --model {model.name} --task scenes_pope. "
                    f"Or give one a layer: --set iri.rates_{part}=[...].",
                )
        return IriIntervention(self, rates)


class IriIntervention(Intervention):
    """IRI on a model; layers are ranked apart for attention and MLPs (spec §2b step 1)."""

    edited_parts: Collection[Part] = frozenset({"attn", "mlp"})
    capturable = True

    def __init__(self, method: Iri, rates: dict[Part, tuple[float, ...]]) -> None:
        self.method, self.rates = method, rates
        self.sources = {part: frozenset(_top(values, method.k_sources)) for part, values in rates.items()}
        self.targets = {part: frozenset(_top(values, method.k_targets)) for part, values in rates.items()}
        self.strength = {"attn": method.lambda_attn, "mlp": method.lambda_mlp}

    def edit_hidden(self, layer: int, part: Part, hidden: Tensor, ctx: Context) -> Tensor:
        """Inject into the last row, and record it."""
        if not ctx.emits or layer not in self.sources[part] | self.targets[part]:
            return hidden
        raw = hidden[:, -1]
        last = self._inject(layer, part, raw, ctx) if layer in self.targets[part] else raw
        if layer in self.sources[part]:
            ctx.scratch[f"iri.{part}.{layer}"] = raw if self.method.record == "raw" else last
        return hidden if last is raw else torch.cat((hidden[:, :-1], last[:, None]), dim=1)

    def _inject(self, layer: int, part: Part, raw: Tensor, ctx: Context) -> Tensor:
        """Steps 2 and 3 on a component's output (B, d): add earlier sources by their rates, keep the length."""
        earlier = [source for source in sorted(self.sources[part]) if source < layer]
        if not earlier or not self.strength[part]:
            return raw
        before = raw.float()
        mixed = before
        for source in earlier:
            mixed = mixed + self.strength[part] * self.rates[part][source] * ctx.scratch[f"iri.{part}.{source}"].float()
        before_length, length = (vectors.norm(dim=-1, keepdim=True) for vectors in (before, mixed))
        restored: Tensor = mixed * before_length / length.clamp_min(torch.finfo(torch.float32).tiny)
        return restored.to(raw.dtype)


def _top(rates: tuple[float, ...], count: int) -> list[int]:
    """The layers of highest rate; of equal ones the earlier."""
    return sorted(range(len(rates)), key=lambda layer: (-rates[layer], layer))[:count]
