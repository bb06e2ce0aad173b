"""The one probe: what the seam and the hooks show of a pass is reduced on the spot by the functions of diagnostics.

What it keeps lies in `ctx.state` by name and layer, the batch first. Sums over a prompt's query rows are gathered in
the prefix's pass and finished in the pass that ends the prompt; decode passes are summed apart.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sinkbench.diagnostics import extreme, image_attention, sink_metric
from sinkbench.diagnostics.cosine import cosines
from sinkbench.diagnostics.masking import at, masked_sum
from sinkbench.diagnostics.massive import Magnitudes, magnitudes, median_magnitude, top_entries
from sinkbench.diagnostics.massive_dims import MassiveDims
from sinkbench.diagnostics.visual_sinks import SKIPPED, image_centric, phi, portion, tau_for
from sinkbench.engine.context import Context, Role, Stage
from sinkbench.engine.keys import in_steps
from sinkbench.engine.prompt import Prompt
from sinkbench.engine.rows import extremes, row_products, row_statistics
from sinkbench.engine.view import AttentionView, MlpParts
from sinkbench.inspection.words import KINDS, mark_words
from sinkbench.methods.base import Intervention
from sinkbench.methods.facts import ModelInfo

CLASSES = ("first", "image", "query", "template")
"""Classes of prompt tokens; the first token is in none of the others."""

MLP_PARTS = ("input", "gate", "up", "product", "output")


@dataclass(frozen=True)
class Choice:
    """What the probe looks for.

    Attributes:
        sink_dims: Dimensions by which φ marks sink tokens; empty where they are not known.
        primary: Which of a prompt's first three tokens is the primary sink.
        gaze_layer: Layer whose gaze shift is kept; None for none.
        mlp: Whether to compare the insides of MLPs with those of the primary sink.
        heads: Whether to keep the last row's head outputs, for VHD.
        maps: Whether to keep the last row's weights of every head, for pictures of a sample.
    """

    sink_dims: tuple[int, ...] = ()
    primary: int = 0
    gaze_layer: int | None = None
    mlp: bool = True
    heads: bool = False
    maps: bool = False


def sink_tau(info: ModelInfo) -> float:
    """φ above which a token is a sink: the model's own where somebody looked, else VAR's scaled to its width."""
    return info.sink_tau or tau_for(info.hidden_size)


class Probe(Intervention):
    """Observes everything that D1 to D8 need.

    Args:
        info: The model.
        choice: What to look for.
        device: Where the detector of massive dimensions counts.
    """

    def __init__(self, info: ModelInfo, choice: Choice, device: torch.device | str = "cpu") -> None:
        self.info = info
        self.choice = choice
        self.hidden_layers = range(info.n_layers + 1)
        self.tau = sink_tau(info)
        self._sink_dims = torch.tensor(choice.sink_dims, dtype=torch.int64, device=device)
        self.massive = MassiveDims(info.n_layers + 1, info.hidden_size, CLASSES, device=device)

    @property
    def observes_mlp(self) -> bool:
        """As chosen: it is the dearest part."""
        return self.choice.mlp

    def token_marks(self, prompt: Prompt) -> dict[str, Tensor]:
        """Stop words, content words and punctuation among the user's words; what is up to the last image feature."""
        return {**mark_words(prompt), "shown": torch.arange(len(prompt)) < prompt.prefix_length}

    def observe_hidden(self, layer: int, hidden: Tensor, ctx: Context) -> None:
        """Magnitudes, norms, φ and the direction of every token at the input of a layer (D2, D4, D5, D6)."""
        if ctx.stage is Stage.DECODE:
            return
        if layer == 0:
            ctx.state["primary"] = primary_slot(ctx.is_valid, self.choice.primary)
        reference = self._reference(f"state.{layer}", hidden, ctx)
        rows = row_statistics(hidden, reference)
        seen = magnitudes(hidden, ctx.valid_rows, rows, extremes(hidden, ctx.valid_rows), _median(hidden, ctx))
        _append(ctx, f"norm.{layer}", seen.norms)
        _append(ctx, f"largest.{layer}", seen.largest)
        if self.choice.sink_dims:
            _append(ctx, f"phi.{layer}", phi(hidden, self._sink_dims, rows.norms))
        _append(ctx, f"cosine.{layer}", cosines(hidden, reference, rows))
        self._keep_massive(layer, hidden, seen, ctx)

    def _keep_massive(self, layer: int, hidden: Tensor, seen: Magnitudes, ctx: Context) -> None:
        state, top = ctx.state, top_entries(hidden, seen)
        tokens = ctx.valid_rows.sum(1)
        parts = {
            "dim_value": seen.values,
            "dim_slot": seen.tokens + ctx.start,
            "top_value": top.values,
            "top_slot": top.tokens + ctx.start,
            "top_dim": top.dims,
        }
        median = seen.median.nan_to_num()
        if f"median.{layer}" in state:
            larger = seen.values.abs() > state[f"dim_value.{layer}"].abs()
            for name in ("dim_value", "dim_slot"):
                parts[name] = torch.where(larger, parts[name], state[f"{name}.{layer}"])
            joined = {n: torch.cat((state[f"{n}.{layer}"], parts[n]), 1) for n in ("top_value", "top_slot", "top_dim")}
            order = joined["top_value"].abs().topk(top.values.shape[1], dim=1).indices
            parts |= {name: values.gather(1, order) for name, values in joined.items()}
            earlier = ctx.is_valid[:, : ctx.start].sum(1)
            median = (median * tokens + state[f"median.{layer}"] * earlier) / (tokens + earlier)
        state[f"median.{layer}"] = median
        state.update({f"{name}.{layer}": values for name, values in parts.items()})
        if ctx.emits:
            whole = Magnitudes(seen.largest, seen.dim, parts["dim_value"], parts["dim_slot"], seen.norms, median)
            self.massive.update(layer, whole, _codes(ctx))
            del state[f"dim_value.{layer}"], state[f"dim_slot.{layer}"]

    def observe_mlp(self, layer: int, parts: MlpParts, ctx: Context) -> None:
        """The direction of every token's MLP vectors against the primary sink's (D4)."""
        if ctx.stage is Stage.DECODE:
            return
        for name in MLP_PARTS:
            vectors: Tensor = getattr(parts, name)
            reference = self._reference(f"mlp_{name}.{layer}", vectors, ctx)
            _append(ctx, f"align_{name}.{layer}", cosines(vectors, reference, row_products(vectors, reference)))

    def observe_attention(self, layer: int, view: AttentionView, ctx: Context) -> None:
        """Received attention, sink heads, drained values, and the last row's look (D1, D3, D5, D7, D8)."""
        if ctx.stage is Stage.DECODE:
            self._decode_row(layer, view, ctx)
            return
        columns = view.columns()
        gap, gap_rows = view.logit_gap()
        _append(ctx, f"value_norm.{layer}", view.value_norms())
        _append(ctx, f"output_norm.{layer}", view.output_norms())
        several = (ctx.valid_rows & (ctx.keys_seen > 1)).sum(1)
        sums = {
            "mass": columns.mass,
            "plogp": columns.plogp,
            "row_entropy_sum": columns.row_entropy,
            "gap_sum": gap,
            "gap_rows": gap_rows,
            "entropy_rows": several,
        }
        for name, values in sums.items():
            before = ctx.state.get(f"{name}.{layer}")
            if before is not None:
                values = values + (ctx.extend(before) if name in ("mass", "plogp") else before)
            ctx.state[f"{name}.{layer}"] = values
        if self.choice.gaze_layer == layer:
            self._gaze(view, ctx)
        if ctx.emits:
            self._finish(layer, ctx)
            self._look(layer, view, ctx)

    def _finish(self, layer: int, ctx: Context) -> None:
        """Reduce what was gathered over the whole prompt, and let go of it."""
        state, valid = ctx.state, ctx.is_valid
        taken = {name: state.pop(f"{name}.{layer}") for name in _GATHERED}
        first = sink_metric.first_token(valid)
        alpha = sink_metric.received(taken["mass"], valid)
        primary = state["primary"]
        state[f"received.{layer}"] = alpha.mean(1)
        state[f"alpha_first.{layer}"] = at(alpha, first)
        state[f"alpha_image.{layer}"] = sink_metric.largest(alpha, ctx.is_image, valid)
        state[f"top_class.{layer}"] = sink_metric.argmax_class(alpha, _classes(ctx), valid)
        state[f"value_drain.{layer}"] = extreme.value_drain(taken["value_norm"], primary, valid)
        state[f"output_drain.{layer}"] = extreme.value_drain(taken["output_norm"], primary, valid)
        state[f"logit_gap.{layer}"] = extreme.mean_over_rows(taken["gap_sum"], taken["gap_rows"])
        state[f"row_entropy.{layer}"] = extreme.mean_over_rows(taken["row_entropy_sum"], taken["entropy_rows"])
        spread = extreme.column_entropy(taken["mass"], taken["plogp"], valid)
        scanned = sink_metric.scannable(valid)[:, None]
        state[f"column_entropy.{layer}"] = spread.masked_fill(~scanned, 0).amax(-1)
        if (sinks := self._sinks(layer, ctx)) is not None:
            state[f"sink_mass.{layer}"] = sink_metric.set_mass(taken["mass"], sinks & ctx.is_image, valid)

    def _look(self, layer: int, view: AttentionView, ctx: Context) -> None:
        """Where the prompt's last row looks."""
        state, image = ctx.state, ctx.is_image
        row = view.rows(ctx.last_row)[:, :, 0]
        state[f"look.{layer}"] = row.mean(1)
        state[f"image_ratio.{layer}"] = image_attention.image_ratio(row, image)
        state[f"image_entropy.{layer}"] = image_attention.image_entropy(row, image)
        for name, members in zip(CLASSES, _classes(ctx), strict=True):
            state[f"look_{name}.{layer}"] = masked_sum(row, members)
        for kind in KINDS:
            state[f"word_{kind}.{layer}"] = masked_sum(row.mean(1), ctx.extend(state[kind]).bool())
        if (sinks := self._sinks(layer, ctx)) is not None:
            state[f"portion.{layer}"] = portion(row, sinks, image)
            state[f"image_centric.{layer}"] = image_centric(row, sinks, image).float()
        if self.choice.maps:
            state[f"map.{layer}"] = row
        if self.choice.heads:
            state[f"head.{layer}"] = view.heads[:, -1].float()

    def _decode_row(self, layer: int, view: AttentionView, ctx: Context) -> None:
        """Sum the rows of an answer, apart from the prompt's."""
        row = view.rows(ctx.last_row)[:, :, 0]
        first = sink_metric.first_token(ctx.is_valid)
        sums = {
            "answer_first": at(row, first),
            "answer_image": masked_sum(row, ctx.is_image),
            "answer_generated": masked_sum(row, ctx.roles == Role.GENERATED),
            "answer_row": row.mean(1),
            "answer_steps": row.new_ones(len(row)),
        }
        for name, values in sums.items():
            before = ctx.state.get(f"{name}.{layer}")
            if before is not None:
                values = values + (ctx.extend(before) if name == "answer_row" else before)
            ctx.state[f"{name}.{layer}"] = values

    def _gaze(self, view: AttentionView, ctx: Context) -> None:
        """Positive changes of the image row over the question's words (GIFT's stage A, head mean): (B, K) "gaze"."""
        first, words = 0, ctx.is_query[:, ctx.start :]
        if ctx.start == 0:
            # The row before the question's first word is the last image feature's.
            shown, slots = ctx.state["shown"].bool(), torch.arange(ctx.n_keys, device=ctx.roles.device)
            latest = torch.where(shown, slots, 0).amax(1)
            scores = view.keys.scores(view.query.take_along_dim(latest[:, None, None, None], 2), view.scaling)
            weights = scores.masked_fill(~shown[:, None, None], torch.finfo(torch.float32).min).softmax(-1)
            ctx.state["gaze_row"] = weights[:, :, 0]
            # No row up to there counts; a whole prompt has hundreds.
            first, words = int(latest.amin()) + 1, words & (slots > latest[:, None])
        if ctx.stage is not Stage.PREFIX and "gaze_row" in ctx.state:
            before = ctx.extend(ctx.state.pop("gaze_row"))
            gaze = torch.zeros_like(before[:, 0])
            for rows in in_steps(view.query[:, :, first:], ctx.n_keys):
                rows = slice(rows.start + first, rows.stop + first)
                weights, valid = view.rows(rows), ctx.valid_rows[:, rows]
                shift = image_attention.gaze_shift(weights, ctx.is_image, valid, words[:, rows], before)
                gaze += shift.mean(1)
                before = torch.where(valid[:, -1, None, None], weights[:, :, -1], before)
            ctx.state["gaze"] = gaze

    def _sinks(self, layer: int, ctx: Context) -> Tensor | None:
        """(B, K) bool: the layer's sink tokens by φ."""
        phis = ctx.state.get(f"phi.{layer}") if layer >= SKIPPED else None
        return None if phis is None else (ctx.extend(phis) > self.tau) & ctx.is_valid

    def _reference(self, name: str, values: Tensor, ctx: Context) -> Tensor:
        """(B, d): the primary sink's vector, from the pass that it lay in."""
        slot = ctx.state["primary"] - ctx.start
        here = values[torch.arange(len(values), device=values.device), slot.clamp_min(0)]
        if (before := ctx.state.get(name)) is not None:
            here = torch.where((slot >= 0)[:, None], here, before)
        if ctx.emits:
            ctx.state.pop(name, None)
        else:
            ctx.state[name] = here
        return here


_GATHERED = (
    "mass",
    "plogp",
    "row_entropy_sum",
    "gap_sum",
    "gap_rows",
    "entropy_rows",
    "value_norm",
    "output_norm",
)


def primary_slot(valid: Tensor, number: int) -> Tensor:
    """(B,) int64: the slot of each sample's token `number`, or of its last one if it has fewer; valid (B, K) bool."""
    order = valid.cumsum(1)
    return (order == order[:, -1:].clamp_max(number + 1)).int().argmax(1)


def _append(ctx: Context, name: str, values: Tensor) -> None:
    ctx.state[name] = ctx.append(ctx.state.get(name), values)


def _median(hidden: Tensor, ctx: Context) -> Tensor:
    """(B,) float32 median |x| of a pass; the two parts of a whole prompt count as if each were a pass.

    So it is the same however a prompt is run: the medians up to the last image feature and behind it, weighted by their
    tokens; exact where there is no image.
    """
    if ctx.start or ctx.stage is Stage.PREFIX:
        return median_magnitude(hidden, ctx.valid_rows)
    if "parts" not in ctx.scratch:
        shown = ctx.state["shown"].bool()
        ctx.scratch["parts"] = torch.stack((ctx.is_valid & shown, ctx.is_valid & ~shown))
    parts = ctx.scratch["parts"]
    medians = torch.stack([median_magnitude(hidden, part).nan_to_num() for part in parts])
    return (medians * parts.sum(2)).sum(0) / parts.sum((0, 2))


def _classes(ctx: Context) -> Tensor:
    """(C, B, K) bool in the order of `CLASSES`."""
    slots = torch.arange(ctx.n_keys, device=ctx.roles.device)
    first = slots == sink_metric.first_token(ctx.is_valid)[:, None]
    template = ctx.roles == Role.TEMPLATE
    return torch.stack((first, ctx.is_image & ~first, ctx.is_query & ~first, template & ~first))


def _codes(ctx: Context) -> Tensor:
    """(B, K) int64: index in `CLASSES`, −1 for padding."""
    classes = _classes(ctx)
    return torch.where(classes.any(0), classes.int().argmax(0), -1)
