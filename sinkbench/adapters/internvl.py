"""The InternVL family (transformers' `InternVLForConditionalGeneration`): `-hf` checkpoints of InternVL3 and 3.5."""

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any, ClassVar

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter, ImageFeatures, ImageInputs
from sinkbench.adapters.checks import Options
from sinkbench.adapters.presets import ModelPreset
from sinkbench.engine.context import Role
from sinkbench.request import ImageRef

_TILING = {"crop_to_patches": True}
"""The processor tiles images whatever its image processor's own file says."""


class InternVLAdapter(Adapter):
    """Square tiles that follow the image's shape, then a thumbnail; pixel shuffle merges the patches of a tile.

    An image of one tile has no thumbnail. The image stands between two tokens of the vocabulary, `<img>` and `</img>`.

    Options:
        max_tiles: Most tiles of an image, the thumbnail not counted.
    """

    paths: ClassVar[Mapping[str, str]] = {**Adapter.paths, "vision_layers": "model.vision_tower.encoder.layer"}
    attention_path: ClassVar[str] = "attention"
    options: ClassVar[Options] = {"max_tiles": int}

    def __init__(self, preset: ModelPreset, model: Any, processor: Any) -> None:
        super().__init__(preset, model, processor)
        self.image_markup = (int(processor.start_image_token_id), int(processor.end_image_token_id))
        images = processor.image_processor
        images.max_patches = preset.options.get("max_tiles", images.max_patches)

    def shared_facts(self) -> dict[str, tuple[Any, Any]]:
        """The image token and the number of features of a tile."""
        tokens = (self.processor.image_seq_length, self.model.config.image_seq_length)
        return super().shared_facts() | {"number of tokens a tile": tokens}

    @property
    def class_tokens(self) -> int:
        """InternViT has one; the projector leaves it out."""
        return 1

    def layout_of_size(self, height: int, width: int) -> Tensor:
        """All features are image tokens, tile after tile in reading order; the thumbnail's come last."""
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
        loaded = image.load()
        batch = self.processor.image_processor(images=[loaded], return_tensors="pt", **_TILING)
        return ImageInputs({"pixel_values": batch["pixel_values"]}, self.layout_of_size(loaded.height, loaded.width))

    def encode_images(self, images: Sequence[ImageInputs]) -> list[ImageFeatures]:
        """One vision pass over all tiles of all images."""
        tiles = [image.tensors["pixel_values"] for image in images]
        features = self.model.get_image_features(
            pixel_values=torch.cat(tiles).to(self.device, self.dtype), return_dict=True
        ).pooler_output
        return [ImageFeatures(part.flatten(0, 1)) for part in features.split([len(tile) for tile in tiles])]

    def patch_values_to_tokens(self, values: Tensor, image: ImageInputs, mean: bool = False) -> Tensor:
        """Pixel shuffle makes a feature of each block of neighbouring patches; blocks stay in reading order."""
        views, patches, *rest = values.shape
        side = isqrt(patches)
        merged = round(1 / self.model.config.downsample_ratio)
        blocks = values.reshape(views, side // merged, merged, side // merged, merged, *rest)
        return (blocks.mean((2, 4)) if mean else blocks.amax((2, 4))).flatten(0, 2)
