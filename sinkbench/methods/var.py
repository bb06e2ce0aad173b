"""VAR: take attention from sink tokens and give it to the other image tokens, in heads that look at the image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.facts import ModelInfo, Paper

REST, TEXT_SINK, IMAGE_SINK, IMAGE = range(4)
"""Key groups: neither sink nor image; sinks outside the image; sinks inside it; the other image tokens."""


def sink_statistic(hidden: Tensor, sink_dims: tuple[int, ...]) -> Tensor:
    """φ of every token: its largest sink dimension against its root mean square (VAR, §3; no RMSNorm weight).

    Args:
        hidden: (..., d), the input of a layer.
        sink_dims: Dimensions with massive activations.

    Returns:
        (...) float32, at most √d.
    """
    x = hidden.float()
    rms = (x.square().mean(-1) + 1e-6).sqrt()
    return x[..., list(sink_dims)].abs().amax(-1) / rms


@dataclass(frozen=True)
class Var(Method):
    """Visual Attention Redistribution.

    Attributes:
        tau: A token is a sink where φ > tau.
        rho: A head qualifies where at least this share of its image attention lies off the image's sinks.
        s0: ... and where at least this much of its attention lies on the image.
        take: Share of the sinks' attention that is moved. The released code moves 1 − 0.6.
        start: First layer that is edited; massive activations arise in the layers before.
        layers: Edited layers, 0-based; empty means all from `start` on.
        except_last: Leave the last layer alone, as the paper says. The released code edits it (spec §5c).
        sink_dims: Dimensions with massive activations; empty means those recorded for the model.
    """

    name: ClassVar[str] = "var"
    summary: ClassVar[str] = "moves attention from sink tokens to the other image tokens in image-centric heads"
    paper: ClassVar[Paper] = Paper(
        title="See What You Are Told: Visual Attention Sink in Large Multimodal Models",
        authors="Kang et al.",
        venue="ICLR 2025",
        arxiv="2503.03321",
        code="seilk/VisAttnSink@98e62d6",
    )
    edits: ClassVar[Stage] = Stage.SUFFIX | Stage.DECODE
    observes: ClassVar[Stage] = Stage.PREFIX | Stage.SUFFIX
    family: ClassVar[str] = "attention"
    cost: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "sink dimensions"

    tau: float = 20.0
    rho: float = 0.5
    s0: float = 0.2
    take: float = 0.4
    start: int = 2
    layers: tuple[int, ...] = ()
    except_last: bool = False
    sink_dims: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("rho", "s0", "take"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UsageError(f"var.{name}={value} is no share", "Give a number from 0 to 1.")

    def bind(self, model: ModelInfo) -> "VarIntervention":
        """Resolve layers and sink dimensions."""
        sink_dims = self.sink_dims or model.sink_dims
        if not sink_dims:
            raise UsageError(
                f"var needs the sink dimensions of {model.name}, and none are recorded",
                f"Find them: sinkbench calibrate var --model {model.name}. Or pass --set var.sink_dims=[...], or put "
                "them into the model's preset.",
            )
        if any(not 0 <= dim < model.hidden_size for dim in sink_dims):
            raise UsageError(
                f"var.sink_dims={list(sink_dims)}: {model.name} has dimensions 0 to {model.hidden_size - 1}",
                "Choose among these.",
            )
        end = model.n_layers - (1 if self.except_last else 0)
        layers = self.layers or tuple(range(self.start, end))
        model.check_layers("var.layers", layers)
        return VarIntervention(self, frozenset(layers), sink_dims)


class VarIntervention(Intervention):
    """VAR on a model.

    Args:
        method: Hyper-parameters.
        layers: Edited layers.
        sink_dims: The model's dimensions with massive activations.
    """

    capturable = True
    n_groups = 4

    def __init__(self, method: Var, layers: frozenset[int], sink_dims: tuple[int, ...]) -> None:
        self.method = method
        self.hidden_layers = layers
        self.sink_dims = sink_dims

    def observe_hidden(self, layer: int, hidden: Tensor, ctx: Context) -> None:
        """Find the sinks among the prompt's tokens; they stay the sinks while the answer is generated."""
        if ctx.stage is Stage.DECODE:
            return
        valid = ctx.is_valid[:, ctx.start :]
        found = (sink_statistic(hidden, self.sink_dims) > self.method.tau) & valid
        ctx.state[f"var.sinks.{layer}"] = ctx.append(ctx.state.get(f"var.sinks.{layer}"), found)

    def sinks(self, layer: int, ctx: Context) -> Tensor:
        """(B, K) bool: the sinks of this layer; generated tokens never join them."""
        return ctx.extend(ctx.state[f"var.sinks.{layer}"])

    def rows(self, layer: int, ctx: Context) -> slice | None:
        """Text rows after the last image token, then every decode row."""
        return ctx.all_rows if layer in self.hidden_layers and ctx.stage is not Stage.PREFIX else None

    def key_groups(self, layer: int, ctx: Context) -> Tensor:
        """(B, K) codes REST, TEXT_SINK, IMAGE_SINK or IMAGE."""
        sink, image = self.sinks(layer, ctx), ctx.is_image
        codes = torch.where(image, IMAGE, REST)
        codes = torch.where(sink & image, IMAGE_SINK, codes)
        return torch.where(sink & ~image, TEXT_SINK, codes)

    def scale_groups(self, layer: int, mass: Tensor, ctx: Context) -> Tensor:
        """Factors of the redistribution in the selected heads and rows, 1 elsewhere (spec §2, steps 2 and 3)."""
        take = self.method.take
        selected = self.selected(layer, mass, ctx)
        moved = take * (mass[..., TEXT_SINK] + mass[..., IMAGE_SINK])
        kept = torch.full_like(moved, 1 - take)
        gain = 1 + moved / mass[..., IMAGE].clamp_min(torch.finfo(mass.dtype).tiny)
        factors = torch.stack((torch.ones_like(moved), kept, kept, gain), dim=-1)
        return torch.where(selected[..., None], factors, 1.0)

    def selected(self, layer: int, mass: Tensor, ctx: Context) -> Tensor:
        """(B, H, R) bool: image-centric heads, per row; none where the layer has no sink inside the image."""
        on_image = mass[..., IMAGE] + mass[..., IMAGE_SINK]
        share = mass[..., IMAGE] / on_image.clamp_min(torch.finfo(mass.dtype).tiny)
        has_sink = (self.sinks(layer, ctx) & ctx.is_image).any(dim=1)
        # A head without mass off the sinks has nothing to multiply, whatever rho is.
        receives = mass[..., IMAGE] > 0
        return (on_image >= self.method.s0) & (share >= self.method.rho) & receives & has_sink[:, None, None]
