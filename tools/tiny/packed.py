"""The packed training forward: what the families share."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from sinkbench.scenes.scene import SIZE
from tiny.packing import IGNORED, Turns, attention_bias
from tiny.recipe import Optimisation
from tiny.text import Chat


class PackedForward(nn.Module, ABC):
    """Next-token logits for packed turns; parameters are those of the model it wraps.

    It calls the model's parts directly: one vision pass and one prefix an image, and logits at turn positions only.
    tests/tools hold it to the model's own `forward` on separate questions.

    Args:
        model: A model of transformers.
        processor: Its processor; decides the prefix's tokens and the pixel statistics.
        chat: The conversation form.
    """

    prefix_ids: Tensor
    prefix_positions: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, processor: Any, chat: Chat) -> None:
        super().__init__()
        self.model = model
        blank = torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)
        inputs = processor(images=[blank], text=[chat.prefix], return_tensors="pt")
        ids = inputs["input_ids"][0]
        at = (ids == model.config.image_token_id).nonzero()[:, 0]
        self.image_start, self.image_stop = int(at[0]), int(at[-1]) + 1
        images = processor.image_processor
        self.register_buffer("prefix_ids", ids, persistent=False)
        self.register_buffer("prefix_positions", self.positions(inputs), persistent=False)
        self.register_buffer("mean", torch.tensor(images.image_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(images.image_std).view(3, 1, 1), persistent=False)

    @property
    @abstractmethod
    def projector(self) -> nn.Module:
        """What maps features of the vision encoder into the language model's space."""

    @abstractmethod
    def image_features(self, images: Tensor) -> Tensor:
        """What the language model reads in place of the image tokens.

        Args:
            images: (B, 3, SIZE, SIZE) uint8.

        Returns:
            (B, N, D) projected features.
        """

    @abstractmethod
    def compile_vision(self) -> None:
        """Compile every layer of the vision encoder by itself."""

    def positions(self, inputs: Any) -> Tensor:
        """(A, P) rotary positions of the prefix on A axes; `inputs` are the processor's for one image."""
        return torch.arange(inputs["input_ids"].shape[1])[None]

    def compile_layers(self) -> None:
        """Compile every transformer layer by itself; the layers of a stack share one graph, so this stays short."""
        self.compile_vision()
        for layer in self.model.model.language_model.layers:
            layer.compile(dynamic=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Pixel values 0 to 255 of any shape (…, 3, H, W) as the vision encoder reads them."""
        return (images.float() / 255.0 - self.mean) / self.std

    def parameter_groups(self, settings: Optimisation) -> list[dict[str, Any]]:
        """What the optimiser trains: matrices inside layers decay, norms, biases and embeddings do not."""
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        decayed = [p for name, p in named if p.ndim >= 2 and "embed" not in name]
        rest = [p for name, p in named if p.ndim < 2 or "embed" in name]
        return [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}]

    def loss(self, images: Tensor, turns: Turns) -> Tensor:
        """Mean cross-entropy of the answers' tokens; arguments as in `forward`."""
        logits = self(images, turns)
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), turns.targets.flatten(), ignore_index=IGNORED)

    def forward(self, images: Tensor, turns: Turns) -> Tensor:
        """Logits of the token that follows each turn token.

        Args:
            images: (B, 3, SIZE, SIZE) uint8.
            turns: The packed questions and answers, (B, S) each.

        Returns:
            (B, S, V) logits.
        """
        logits: Tensor = self.model.lm_head(self.hidden(images, turns))
        return logits

    def hidden(self, images: Tensor, turns: Turns) -> Tensor:
        """Final hidden states (B, S, D) of the turns' tokens; arguments as in `forward`."""
        language = self.model.model.language_model
        features = self.image_features(images)
        batch, prefix = len(images), len(self.prefix_ids)
        fixed = language.embed_tokens(self.prefix_ids).expand(batch, -1, -1)
        parts = [
            fixed[:, : self.image_start],
            features,
            fixed[:, self.image_stop :],
            language.embed_tokens(turns.ids),
        ]
        embeddings = torch.cat([part.to(fixed.dtype) for part in parts], dim=1)
        autocast = torch.is_autocast_enabled(images.device.type)
        dtype = torch.get_autocast_dtype(images.device.type) if autocast else embeddings.dtype
        hidden = language(
            inputs_embeds=embeddings,
            attention_mask=attention_bias(turns.turn, prefix, dtype),
            position_ids=self._position_ids(turns.offset),
            use_cache=False,
        ).last_hidden_state
        turn_states: Tensor = hidden[:, prefix:]
        return turn_states

    def _position_ids(self, offset: Tensor) -> Tensor:
        """Positions of the prefix and of (B, S) turn tokens: (B, P + S) on one axis, (A, B, P + S) on several."""
        axes = len(self.prefix_positions)
        prefix = self.prefix_positions[:, None].expand(-1, len(offset), -1)
        turns = (self.prefix_positions.max() + 1 + offset).expand(axes, -1, -1)
        positions = torch.cat([prefix, turns], dim=-1)
        return positions if axes > 1 else positions[0]


def parameter_counts(forward: PackedForward) -> dict[str, int]:
    """Parameters of the whole model and of its three parts; tied weights count once."""
    total, projector, language = (
        sum(p.numel() for p in module.parameters())
        for module in (forward.model, forward.projector, forward.model.model.language_model)
    )
    return {"total": total, "vision": total - projector - language, "projector": projector, "language": language}
