"""An intervention that keeps all that it is shown, and what transformers itself computes in the same places."""

from typing import Any

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter
from sinkbench.engine.context import Context, Stage
from sinkbench.engine.observe import Observed
from sinkbench.engine.view import AttentionView, MlpParts
from sinkbench.methods.base import Intervention, Method
from sinkbench.request import Request

PARTS = ("input", "gate", "up", "product", "output")


class Keeps(Intervention):
    """Keeps everything, by layer: sums over the prompt's rows, and values of each token with the token last."""

    def __init__(self, n_layers: int, last_token_alone: bool = False) -> None:
        self.hidden_layers = range(n_layers + 1)
        self.last_token_alone = last_token_alone

    def observe_hidden(self, layer: int, hidden: Tensor, ctx: Context) -> None:
        self.append(f"hidden.{layer}", hidden.transpose(1, 2), ctx)

    def observe_attention(self, layer: int, view: AttentionView, ctx: Context) -> None:
        self.append(f"value_norms.{layer}", view.value_norms(), ctx)
        self.append(f"output_norms.{layer}", view.output_norms(), ctx)
        self.append(f"heads.{layer}", view.heads.permute(0, 2, 3, 1), ctx)
        if ctx.stage is Stage.DECODE:
            return
        columns, (gap, gap_rows) = view.columns(), view.logit_gap()
        self.add(f"mass.{layer}", columns.mass, ctx, by_key=True)
        self.add(f"plogp.{layer}", columns.plogp, ctx, by_key=True)
        self.add(f"row_entropy.{layer}", columns.row_entropy, ctx)
        self.add(f"n_rows.{layer}", columns.n_rows, ctx)
        self.add(f"gap.{layer}", gap, ctx)
        self.add(f"gap_rows.{layer}", gap_rows, ctx)
        if ctx.emits:
            ctx.state[f"last_row.{layer}"] = view.rows(ctx.last_row)[:, :, 0]

    def observe_mlp(self, layer: int, parts: MlpParts, ctx: Context) -> None:
        for name in PARTS:
            self.append(f"{name}.{layer}", getattr(parts, name).transpose(1, 2), ctx)

    def append(self, name: str, values: Tensor, ctx: Context) -> None:
        ctx.state[name] = ctx.append(ctx.state.get(name), values)

    def add(self, name: str, values: Tensor, ctx: Context, by_key: bool = False) -> None:
        if name in ctx.state:
            before = ctx.state[name]
            values = values + (ctx.extend(before) if by_key else before)
        ctx.state[name] = values


BY_TOKEN = ("hidden", "value_norms", "output_norms", "heads", "mass", "plogp", "last_row", *PARTS)


def kept(batch: Observed, sample: int) -> dict[str, Tensor]:
    """What was kept of one sample, cut to its prompt's tokens."""
    by_token = {n: batch.cut(v, sample) for n, v in batch.state.items() if n.partition(".")[0] in BY_TOKEN}
    return {name: by_token.get(name, values[sample]) for name, values in batch.state.items()}


class Shown(Method):
    """Puts an intervention where a method is wanted."""

    name = "shown"
    summary = ""
    paper = None

    def __init__(self, intervention: Intervention) -> None:
        object.__setattr__(self, "intervention", intervention)

    def bind(self, model: Any) -> Intervention:
        return self.intervention  # type: ignore[attr-defined]


@torch.inference_mode()
def expected(a: Adapter, request: Request) -> dict[str, Tensor]:
    """What `Keeps` should keep of one prompt, from transformers' own eager attention and its modules' outputs."""
    text, _ = a._render(request)
    images = [[image.load() for image in request.images]] if request.images else None
    inputs = a.processor(text=text, images=images, return_tensors="pt", add_special_tokens=False)
    seen: dict[str, Tensor] = {}
    hooks = []

    def note(name: str, module: torch.nn.Module, of_input: bool = False) -> None:
        def hook(_module: Any, args: Any, kwargs: Any, output: Any) -> None:
            value = (args[0] if args else kwargs["hidden_states"]) if of_input else output
            seen[name] = value[0].T

        hooks.append(module.register_forward_hook(hook, with_kwargs=True))

    for index, layer in enumerate(a.layers):
        note(f"hidden.{index}", layer, of_input=True)
        note(f"heads.{index}", layer.self_attn.o_proj, of_input=True)
        note(f"values.{index}", layer.self_attn.v_proj)
        note(f"input.{index}", layer.mlp, of_input=True)
        note(f"gate.{index}", layer.mlp.gate_proj)
        note(f"up.{index}", layer.mlp.up_proj)
        note(f"product.{index}", layer.mlp.down_proj, of_input=True)
        note(f"output.{index}", layer.mlp)
    note(f"hidden.{len(a.layers)}", a.language_model.norm, of_input=True)
    a.model.set_attn_implementation("eager")
    try:
        attentions = a.model(**inputs, output_attentions=True).attentions
    finally:
        a.model.set_attn_implementation("sdpa")
        for hook in hooks:
            hook.remove()
    for index, (layer, weights) in enumerate(zip(a.layers, attentions, strict=True)):
        _reduce(seen, index, weights[0], layer.self_attn.o_proj.weight)
    return seen


def _reduce(seen: dict[str, Tensor], layer: int, weights: Tensor, projection: Tensor) -> None:
    """From maps (H, N, N) and values to what `Keeps` keeps, in float64 and one row at a time."""
    h, n, _ = weights.shape
    weights = weights.double()
    plogp = torch.xlogy(weights, weights)
    seen[f"mass.{layer}"], seen[f"plogp.{layer}"] = weights.sum(1), plogp.sum(1)
    seen[f"row_entropy.{layer}"] = sum(-plogp[:, i].sum(-1) / torch.tensor(i + 1.0).log() for i in range(1, n))
    logs = [weights[:, i, : i + 1].log() for i in range(1, n)]
    # Scores up to a constant of the row, which the difference does not see.
    seen[f"gap.{layer}"] = sum(row[:, 0] - row[:, 1:].mean(1) for row in logs)
    seen[f"n_rows.{layer}"], seen[f"gap_rows.{layer}"] = torch.tensor(n), torch.tensor(n - 1)
    seen[f"last_row.{layer}"] = weights[:, -1]
    seen[f"heads.{layer}"] = seen[f"heads.{layer}"].unflatten(0, (h, -1))
    by_head = projection.double().view(len(projection), h, -1)
    values = seen.pop(f"values.{layer}").double().unflatten(0, (-1, by_head.shape[-1]))
    seen[f"value_norms.{layer}"] = values.norm(dim=1)
    outputs = torch.einsum("ohd,hdn->hon", by_head, values.repeat_interleave(h // len(values), dim=0))
    seen[f"output_norms.{layer}"] = outputs.norm(dim=1)
