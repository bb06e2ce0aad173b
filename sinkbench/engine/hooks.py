"""Where methods look at hidden states and MLPs, and edit them: hooks on the decoder's modules, one pass at a time."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from sinkbench.engine.context import Context
from sinkbench.engine.view import MlpParts
from sinkbench.errors import SinkbenchError

if TYPE_CHECKING:
    from sinkbench.methods.base import Intervention, Part


class Acting(Protocol):
    """A pass: its methods, each with its view of the layer at hand, which may change from layer to layer."""

    acting: "tuple[tuple[Intervention, Context], ...]"


@contextmanager
def observed(language_model: nn.Module, layers: nn.ModuleList, active: Acting) -> Iterator[None]:
    """Within it, methods see the hidden states and the MLPs that they ask for.

    Args:
        language_model: The decoder stack; `norm` is its final norm.
        layers: Its L layers.
        active: The pass.

    Raises:
        SinkbenchError: The model lacks a module that a method wants to look at.
    """
    with ExitStack() as stack:
        for number, (method, _) in enumerate(active.acting):
            for index in method.hidden_layers:
                module = _part(language_model, "norm") if index == len(layers) else layers[index]
                hook = module.register_forward_pre_hook(_hidden_hook(index, number, active), with_kwargs=True)
                stack.callback(hook.remove)
            if method.observes_mlp:
                for index, layer in enumerate(layers):
                    for hook in _mlp_hooks(_part(layer, "mlp"), index, number, active):
                        stack.callback(hook.remove)
        yield


@contextmanager
def edited(layers: nn.ModuleList, active: Acting) -> Iterator[None]:
    """Within it, the one method of a pass edits the parts of layers that it names.

    Raises:
        SinkbenchError: The model lacks one of the parts.
    """
    with ExitStack() as stack:
        for index, layer in enumerate(layers):
            for part in active.acting[0][0].edited_parts:
                module = layer if part == "block" else _part(layer, _MODULES[part])
                stack.callback(module.register_forward_hook(_editing_hook(index, part, active)).remove)
        yield


_MODULES: "dict[Part, str]" = {"attn": "self_attn", "mlp": "mlp"}


def _editing_hook(layer: int, part: "Part", active: Acting) -> Any:
    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        method, ctx = active.acting[0]
        # Attention also returns its weights, which are None here.
        before = output[0] if isinstance(output, tuple) else output
        after = method.edit_hidden(layer, part, before, ctx)
        if ctx.untouched is not None and after is not before:
            after = torch.where(ctx.untouched[:, None, None], before, after)
        return (after, *output[1:]) if isinstance(output, tuple) else after

    return hook


def output_projection(attention: nn.Module) -> Tensor:
    """The weight (d_model, H·d) of an attention module's output projection.

    Raises:
        SinkbenchError: The module has none.
    """
    return _part(attention, "o_proj").weight  # type: ignore[return-value]


def _hidden_hook(layer: int, number: int, active: Acting) -> Any:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        method, ctx = active.acting[number]
        method.observe_hidden(layer, args[0] if args else kwargs["hidden_states"], ctx)

    return hook


def _mlp_hooks(mlp: nn.Module, layer: int, number: int, active: Acting) -> Iterator[Any]:
    """Register what gathers the parts of a gated MLP; they are let go as soon as the method has seen them."""
    parts: dict[str, Tensor] = {}

    def gather(name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            parts[name] = output

        return hook

    def gather_product(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        parts["product"] = args[0]

    def show(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        method, ctx = active.acting[number]
        method.observe_mlp(layer, MlpParts(input=args[0], output=output, **parts), ctx)
        parts.clear()

    yield _part(mlp, "gate_proj").register_forward_hook(gather("gate"))
    yield _part(mlp, "up_proj").register_forward_hook(gather("up"))
    yield _part(mlp, "down_proj").register_forward_pre_hook(gather_product)
    yield mlp.register_forward_hook(show)


def _part(module: nn.Module, name: str) -> nn.Module:
    part = getattr(module, name, None)
    if not isinstance(part, nn.Module):
        raise SinkbenchError(
            f"{type(module).__name__} has no module {name!r}, at which a diagnostic looks",
            "Observing takes decoder layers built as Llama's and Qwen's are.",
        )
    return part
