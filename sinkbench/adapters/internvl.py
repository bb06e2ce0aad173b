"""The InternVL family (transformers' `InternVLForConditionalGeneration`): `-hf` checkpoints of InternVL3 and 3.5."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter, ImageInputs
from sinkbench.adapters.presets import ModelPreset
from sinkbench.engine.context import Role
from sinkbench.request import ImageRef

_TILING = {"crop_to_patches": True}
"""The processor tiles images whatever its image processor's own file says."""


class InternVLAdapter(Adapter):
    """Square tiles that follow the image's shape, then a thumbnail; pixel shuffle merges the patches of a tile.

    An image of one tile has no thumbnail. The image stands between two tokens of the vocabulary, `<img>` and `</img>`.
    """

    family: ClassVar[str] = "internvl"
    paths: ClassVar[dict[str, str]] = {
        "language_model": "model.language_model",
        "layers": "model.language_model.layers",
        "embed": "model.language_model.embed_tokens",
        "head": "lm_head",
        "vision": "model.vision_tower",
    }

    def __init__(self, preset: ModelPreset, model: Any, processor: Any) -> None:
        super().__init__(preset, model, processor)
        self.image_markup = (int(processor.start_image_token_id), int(processor.end_image_token_id))

    def image_layout(self, image: ImageRef) -> Tensor:
        """All features are image tokens, tile after tile in reading order; the thumbnail's come last."""
        width, height = image.size()
        tiles = self.processor.image_processor.get_number_of_image_patches(height, width, _TILING)
        return torch.full((tiles * self.processor.image_seq_length,), int(Role.IMAGE), dtype=torch.uint8)

    def expand_image(self, image: ImageRef) -> tuple[Tensor, Tensor]:
        """The features between `<img>` and `</img>`, which are TEMPLATE."""
        ids, roles = super().expand_image(image)
        start, end = (ids.new_tensor([token]) for token in self.image_markup)
        template = roles.new_tensor([int(Role.TEMPLATE)])
        return torch.cat((start, ids, end)), torch.cat((template, roles, template))

    def preprocess(self, image: ImageRef) -> ImageInputs:
        """Cut into tiles, resize and normalise as the processor says."""
        batch = self.processor.image_processor(images=[image.load()], return_tensors="pt", **_TILING)
        return ImageInputs({"pixel_values": batch["pixel_values"]}, self.image_layout(image))

    def encode_images(self, images: Sequence[ImageInputs]) -> list[Tensor]:
        """One vision pass over all tiles of all images."""
        tiles = [image.tensors["pixel_values"] for image in images]
        features = self.model.get_image_features(
            pixel_values=torch.cat(tiles).to(self.device, self.dtype), return_dict=True
        ).pooler_output
        return [part.flatten(0, 1) for part in features.split([len(tile) for tile in tiles])]
