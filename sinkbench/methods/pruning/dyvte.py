"""DyVTE: a small trained gate behind each layer says whether all image tokens may leave."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Method
from sinkbench.methods.facts import ModelInfo, Paper
from sinkbench.methods.pruning.budget import PruningIntervention
from sinkbench.methods.pruning.stages import after_images
from sinkbench.paths import NamedFile

if TYPE_CHECKING:
    from sinkbench.engine.prompt import Prompt
    from sinkbench.engine.pruning import Entry, Kept

BEHIND = "dyvte.behind"
"""What `ctx.state` holds: (B, K) bool, the tokens behind a prompt's last image."""


@dataclass(frozen=True)
class DyVte(Method):
    """Dynamic Visual-Token Exit with gates from a file.

    A sample leaves its image tokens at the first layer whose gate fires; separators in the image stay here, which the
    paper's models do not have. `sinkbench calibrate dyvte` trains gates.

    Attributes:
        gates: A safetensors file with the gates' weights: w1 (L, width, 2 d) and w2 (L, 2, width) for L layers of
            width d, by which the gate of layer l is w2 GELU(w1 x), both without bias.
    """

    name: ClassVar[str] = "dyvte"
    summary: ClassVar[str] = "drops all image tokens at the layer where a trained gate says so"
    paper: ClassVar[Paper] = Paper(
        title="Accelerating Multimodal Large Language Models via Dynamic Visual-Token Exit and the Empirical Findings",
        authors="Wu et al.",
        venue="NeurIPS 2025",
        arxiv="2411.19628",
        code="DoubtedSteam/DyVTE@b4a3396",
    )
    edits: ClassVar[Stage] = Stage.PREFIX | Stage.SUFFIX
    family: ClassVar[str] = "pruning"
    cost: ClassVar[str] = "free"
    calibration: ClassVar[str] = "gates trained on the model"
    prunes: ClassVar[bool] = True

    gates: str = ""

    def bind(self, model: ModelInfo) -> "DyVteIntervention":
        """Read the gates.

        Raises:
            UsageError: There are none, or they are another model's.
        """
        if not self.gates:
            raise UsageError(
                f"dyvte has no gates for {model.name}",
                f"Train them with `sinkbench calibrate dyvte --model {model.name} --task scenes_pope`, or give a file: "
                "--set dyvte.gates=FILE.safetensors. Without any, visual_exit drops the image at a fixed layer.",
            )
        path = self.gates.path if isinstance(self.gates, NamedFile) else Path(self.gates)
        return DyVteIntervention(read_gates(path, model))


def read_gates(path: Path, model: ModelInfo) -> tuple[Tensor, Tensor]:
    """The weights (L, width, 2 d) and (L, 2, width) of a file.

    Raises:
        UsageError: The file is missing or damaged, or its gates do not fit the model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: Mapping[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"dyvte.gates={path} cannot be read: {error}", "Give a safetensors file.") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    width = shapes.get("w1", (0, 0))[1]
    expected = {"w1": (model.n_layers, width, 2 * model.hidden_size), "w2": (model.n_layers, 2, width)}
    if shapes != expected:
        raise UsageError(
            f"dyvte.gates={path} holds {shapes}; {model.name} takes w1 ({model.n_layers}, width, "
            f"{2 * model.hidden_size}) and w2 ({model.n_layers}, 2, width)",
            "Give gates that were trained on this model.",
        )
    return tensors["w1"], tensors["w2"]


def gate_input(hidden: Tensor, behind: Tensor) -> Tensor:
    """What a gate reads of a layer's output (spec §2 step 2).

    Args:
        hidden: (B, Q, d), samples padded on the left.
        behind: (B,) int64, tokens behind the last image.

    Returns:
        (B, 2 d): the mean of these tokens without the last one (0 if there is no other), then the last one.
    """
    slots = torch.arange(hidden.shape[1], device=hidden.device)
    counted = (slots >= hidden.shape[1] - behind[:, None]) & (slots < hidden.shape[1] - 1)
    sums = (hidden.float() * counted[..., None]).sum(1)
    mean = sums / counted.sum(1, keepdim=True).clamp_min(1)
    return torch.cat((mean.to(hidden.dtype), hidden[:, -1]), dim=1)


def read_entry(entry: "Entry", ctx: Context) -> Tensor:
    """(B, 2 d): what the gate of the layer before reads at the entry of a layer, in a pass with `mark_behind`."""
    # Tokens behind the image are never dropped, so that counting them from the end holds in every layer.
    return gate_input(entry.hidden, ctx.state[BEHIND].sum(1))


def mark_behind(prompt: "Prompt") -> dict[str, Tensor]:
    """The mark of what stands behind the last image; text between images does not count [ours]."""
    return {BEHIND: after_images(prompt)}


def gate_logits(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """(N, 2) of a gate w1 (width, 2 d) and w2 (2, width) for inputs (N, 2 d) (spec §2 step 1)."""
    return F.gelu(x @ w1.T) @ w2.T


def fires(logits: Tensor) -> Tensor:
    """(N,) bool of logits (N, 2): whether the image may leave (step 3)."""
    return logits[:, 1] > logits[:, 0]


class DyVteIntervention(PruningIntervention):
    """DyVTE on a model.

    Args:
        gates: Weights (L, width, 2 d) and (L, 2, width). The last layer's gate is not asked: nothing comes behind it.
    """

    def __init__(self, gates: tuple[Tensor, Tensor]) -> None:
        super().__init__(tuple(range(1, len(gates[0]))))
        self.gates = gates

    def token_marks(self, prompt: "Prompt") -> dict[str, Tensor]:
        """What stands behind the last image."""
        return mark_behind(prompt)

    def logits(self, layer: int, x: Tensor) -> Tensor:
        """(B, 2) of a layer's gate for its inputs (B, 2 d), in their type."""
        if (self.gates[0].device, self.gates[0].dtype) != (x.device, x.dtype):
            self.gates = self.gates[0].to(x), self.gates[1].to(x)
        w1, w2 = self.gates
        return gate_logits(x, w1[layer], w2[layer])

    def keep_tokens(self, entry: "Entry", ctx: Context) -> "Kept | None":
        """Ask the gate of the layer that has just run for each sample that still has an image (step 3)."""
        from sinkbench.engine.pruning import Kept

        leaves = fires(self.logits(entry.layer - 1, read_entry(entry, ctx)))[:, None] & ctx.is_image
        return Kept.of(ctx.is_valid & ~leaves) if leaves.any() else None
