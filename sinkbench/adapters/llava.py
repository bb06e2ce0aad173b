"""The LLaVA family: LLaVA-1.5 (transformers' `Llava…`) and LLaVA-NeXT (`LlavaNext…ForConditionalGeneration`)."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter, ImageInputs
from sinkbench.engine.context import Role
from sinkbench.request import ImageRef


class LlavaAdapter(Adapter):
    """LLaVA-1.5: one square view of each image, a fixed number of tokens."""

    family: ClassVar[str] = "llava"
    paths: ClassVar[dict[str, str]] = {
        "language_model": "model.language_model",
        "layers": "model.language_model.layers",
        "embed": "model.language_model.embed_tokens",
        "head": "lm_head",
        "vision": "model.vision_tower",
    }

    def image_layout(self, image: ImageRef) -> Tensor:
        """All features are image tokens."""
        return torch.full((self.patches_per_side**2 + self._extra_tokens(),), int(Role.IMAGE), dtype=torch.uint8)

    @property
    def patches_per_side(self) -> int:
        """Patches along one side of the encoder's square input."""
        vision = self.model.config.vision_config
        return int(vision.image_size // vision.patch_size)

    def preprocess(self, image: ImageRef) -> ImageInputs:
        """Resize, crop and normalise as the processor says."""
        batch = self.processor.image_processor(images=[image.load()], return_tensors="pt")
        return ImageInputs(dict(batch), self.image_layout(image))

    def encode_images(self, images: Sequence[ImageInputs]) -> list[Tensor]:
        """One vision pass over all images."""
        pixels = torch.cat([image.tensors["pixel_values"] for image in images]).to(self.device, self.dtype)
        return list(self.model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output)

    def _extra_tokens(self) -> int:
        """CLS tokens that the encoder adds, unless the selection drops them."""
        extra: int = self.processor.num_additional_image_tokens
        return extra - (1 if self.model.config.vision_feature_select_strategy == "default" else 0)


class LlavaNextAdapter(LlavaAdapter):
    """LLaVA-NeXT: a base view and tiles that follow the image's shape; each tile row ends in a newline feature."""

    def image_layout(self, image: ImageRef) -> Tensor:
        """Base view, then rows of tiles without their padding, each followed by a separator (TEMPLATE)."""
        width, height = image.size()
        return self.layout_of_size(height, width)

    def layout_of_size(self, height: int, width: int) -> Tensor:
        """Roles (N,) of the features of an image of this size in pixels.

        The grid of tiles is the pinpoint that keeps most of the image; the features of its padding are cut away
        (spatial unpadding of LLaVA-NeXT).
        """
        from transformers.image_processing_utils import select_best_resolution

        config = self.model.config
        side = self.patches_per_side
        rows, columns = select_best_resolution((height, width), config.image_grid_pinpoints)
        rows, columns = (
            rows // config.vision_config.image_size * side,
            columns // config.vision_config.image_size * side,
        )
        if width / height > columns / rows:
            kept = int(round(height * (columns / width), 7))
            rows -= 2 * ((rows - kept) // 2)
        else:
            kept = int(round(width * (rows / height), 7))
            columns -= 2 * ((columns - kept) // 2)
        tiles = torch.full((rows, columns + 1), int(Role.IMAGE), dtype=torch.uint8)
        tiles[:, -1] = int(Role.TEMPLATE)
        base = torch.full((side**2 + self._extra_tokens(),), int(Role.IMAGE), dtype=torch.uint8)
        return torch.cat((base, tiles.flatten()))

    def encode_images(self, images: Sequence[ImageInputs]) -> list[Tensor]:
        """One vision pass over all tiles of all images."""
        most = max(image.tensors["pixel_values"].shape[1] for image in images)
        pixels = torch.cat(
            [
                torch.nn.functional.pad(p, (0, 0, 0, 0, 0, 0, 0, most - p.shape[1]))
                for p in (image.tensors["pixel_values"] for image in images)
            ]
        ).to(self.device, self.dtype)
        sizes = torch.cat([image.tensors["image_sizes"] for image in images])
        features = self.model.get_image_features(pixel_values=pixels, image_sizes=sizes, return_dict=True).pooler_output
        return list(features)
