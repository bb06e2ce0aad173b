"""ACT: hand what a head spends on attention sinks behind the first one back to all other keys of the row."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sinkbench.engine.context import Context, Role, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.facts import ModelInfo, Paper

PROTECTED = {"image": Role.IMAGE, "query": Role.QUERY, "template": Role.TEMPLATE}


@dataclass(frozen=True)
class Act(Method):
    """Attention Calibration Technique, at all rows of the prompt (spec §2). The paper's models read text only.

    Attributes:
        beta: What a sink keeps of its attention.
        threshold: How a sink's mean attention is judged: "absolute" against `tau` (the released code), or
            "alpha_over_n" against `alpha` / prompt length (the paper, by a third party's summary of it).
        tau: Absolute threshold.
        alpha: Numerator of the relative one.
        heads: Calibrated heads as "layer.head"; `sinkbench calibrate act` finds them.
        all_heads: Calibrate every head of `layers` instead.
        layers: Layers to act in, 0-based; empty is 2 to L − 2, as the paper's for Llama-2-7B.
        protect: Roles whose tokens are never taken for sinks [ours].
        decode: Go on with the prompt's sinks at generated tokens [ours]; the released code is broken there (spec §5).
    """

    name: ClassVar[str] = "act"
    summary: ClassVar[str] = "hands attention on sinks behind the first one back to the other tokens, in chosen heads"
    paper: ClassVar[Paper] = Paper(
        title="Unveiling and Harnessing Hidden Attention Sinks",
        authors="Yu et al.",
        venue="ICML 2024",
        arxiv="2406.15765",
        code="GATECH-EIC/ACT@a267af7",
    )
    edits: ClassVar[Stage] = Stage.PREFIX | Stage.SUFFIX | Stage.DECODE
    family: ClassVar[str] = "attention"
    cost: ClassVar[str] = "passes"
    calibration: ClassVar[str] = "heads that help when they alone are calibrated"

    beta: float = 0.4
    threshold: Literal["absolute", "alpha_over_n"] = "absolute"
    tau: float = 0.1
    alpha: float = 5.0
    heads: tuple[str, ...] = ()
    all_heads: bool = False
    layers: tuple[int, ...] = ()
    protect: tuple[Literal["image", "query", "template"], ...] = ()
    decode: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise UsageError(f"act.beta={self.beta} is no share of 0 to 1", "The paper's is 0.4.")

    def bind(self, model: ModelInfo) -> "ActIntervention":
        """Sort the heads by layer.

        Raises:
            UsageError: No heads are named, or the model lacks one of them.
        """
        layers = self.layers or tuple(range(2, model.n_layers - 1))
        model.check_layers("act.layers", layers)
        chosen: dict[int, list[int]] = defaultdict(list)
        if self.all_heads:
            chosen.update({layer: list(range(model.n_heads)) for layer in layers})
        for layer, head in map(_parse, () if self.all_heads else self.heads):
            model.check_layers("act.heads", (layer,))
            if not 0 <= head < model.n_heads:
                raise UsageError(f"act.heads: {model.name} has heads 0 to {model.n_heads - 1}, not {head}", _FORM)
            if layer in layers or not self.layers:
                chosen[layer].append(head)
        if not chosen:
            raise UsageError(
                f"act needs to know which heads of {model.name} to calibrate",
                f"Find them with `sinkbench calibrate act --model {model.name} --task TASK`, or take every head with "
                "--set act.all_heads=true.",
            )
        return ActIntervention(self, chosen, model.n_heads)


_FORM = 'Write heads as layer.head, for example --set act.heads=\'["2.0", "3.5"]\'.'


def _parse(name: str) -> tuple[int, int]:
    layer, dot, head = name.partition(".")
    if not (dot and layer.isdigit() and head.isdigit()):
        raise UsageError(f"act.heads: {name!r} is no head", _FORM)
    return int(layer), int(head)


class ActIntervention(Intervention):
    """ACT on a model.

    Args:
        method: Its parameters.
        heads: Calibrated heads of each layer.
        n_heads: H.
    """

    whole_prompt = True
    capturable = True

    def __init__(self, method: Act, heads: Mapping[int, Iterable[int]], n_heads: int) -> None:
        self.method = method
        self.chosen = {layer: torch.zeros(n_heads, dtype=torch.bool) for layer in heads}
        for layer, members in heads.items():
            self.chosen[layer][list(members)] = True

    def rows(self, layer: int, ctx: Context) -> slice | None:
        """All rows of the prompt; of generated tokens only where asked for."""
        if layer not in self.chosen or (ctx.stage is Stage.DECODE and not self.method.decode):
            return None
        return ctx.all_rows

    def edit_weights(self, layer: int, weights: Tensor, ctx: Context) -> Tensor:
        """Find the sinks of each head from the prompt's rows, and calibrate the chosen heads (spec §2 steps 1 to 3)."""
        name = f"act.sinks.{layer}"
        if ctx.stage is not Stage.DECODE:
            sinks = self._sinks(weights, ctx) & self.chosen[layer].to(weights.device)[:, None]
            if self.method.decode:
                ctx.state[name] = sinks
        else:
            sinks = ctx.extend(ctx.state[name].to(torch.uint8)).bool()
        return redistribute(weights, sinks, self.method.beta)

    def _sinks(self, weights: Tensor, ctx: Context) -> Tensor:
        method = self.method
        scores = column_scores(weights, ctx.is_valid)
        length = ctx.is_valid.sum(1)[:, None, None]
        limit = method.tau if method.threshold == "absolute" else method.alpha / length
        found = without_first((scores > limit) & ctx.is_valid[:, None])
        for role in method.protect:
            found &= (ctx.roles != PROTECTED[role])[:, None]
        return found


def column_scores(weights: Tensor, valid: Tensor) -> Tensor:
    """Mean attention that each key gets from the rows that see it (spec §2 step 1).

    Args:
        weights: (B, H, K, K) post-softmax weights of a whole prompt.
        valid: (B, K) bool, no padding.

    Returns:
        (B, H, K); 0 for padding.
    """
    rows = valid.long()
    seen_by = (rows.sum(1, keepdim=True) - rows.cumsum(1) + rows).clamp_min(1)
    total = (weights * valid[:, None, :, None]).sum(2)
    return total * valid[:, None] / seen_by[:, None]


def without_first(sinks: Tensor) -> Tensor:
    """Sinks (B, H, K) bool less the first of each head, the beginning-of-sequence sink as a rule (spec §2 step 2)."""
    return sinks & (sinks.cumsum(-1) > 1)


def redistribute(weights: Tensor, sinks: Tensor, beta: float) -> Tensor:
    """Keep β of the weights on sinks and spread the rest over the other keys by their weights (spec §2 step 3).

    Args:
        weights: (B, H, R, K) rows that sum to one.
        sinks: (B, H, K) bool.
        beta: What a sink keeps.

    Returns:
        (B, H, R, K); sums of rows stay. A row with all its attention on sinks is left alone.
    """
    on_sinks = (weights * sinks[:, :, None]).sum(-1, keepdim=True)
    others = (weights * ~sinks[:, :, None]).sum(-1, keepdim=True)
    gain = 1 + (1 - beta) * on_sinks / others.clamp_min(torch.finfo(weights.dtype).tiny)
    # Exactly 1 where a row has nothing on sinks: such a row is not edited.
    factor = torch.where(sinks[:, :, None], beta, gain)
    return torch.where((on_sinks > 0) & (others > 0), weights * factor, weights)
