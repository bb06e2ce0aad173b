"""The Qwen-VL family: Qwen2-VL and Qwen2.5-VL (transformers' `Qwen2VL…` and `Qwen2_5_VLForConditionalGeneration`)."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter, ImageInputs
from sinkbench.adapters.presets import ModelPreset
from sinkbench.engine.context import Role
from sinkbench.errors import SampleError
from sinkbench.request import ImageRef


class QwenVLAdapter(Adapter):
    """Qwen2-VL and Qwen2.5-VL: images at their own resolution, three-dimensional positions (M-RoPE).

    The two differ inside the vision encoder only (Qwen2.5-VL attends within windows), which the engine does not see.
    """

    family: ClassVar[str] = "qwen_vl"
    paths: ClassVar[dict[str, str]] = {
        "language_model": "model.language_model",
        "layers": "model.language_model.layers",
        "embed": "model.language_model.embed_tokens",
        "head": "lm_head",
        "vision": "model.visual",
    }

    def __init__(self, preset: ModelPreset, model: Any, processor: Any) -> None:
        super().__init__(preset, model, processor)
        self.image_markup = (int(model.config.vision_start_token_id), int(model.config.vision_end_token_id))

    def image_layout(self, image: ImageRef) -> Tensor:
        """All features are image tokens; the size in the file's header says how many."""
        return _layout(*self._grid(image))

    def preprocess(self, image: ImageRef) -> ImageInputs:
        """Resize, normalise and cut into patches as the processor says."""
        loaded = image.load()
        rows, columns = self.grid_of_size(loaded.height, loaded.width)
        batch = self.processor.image_processor(images=[loaded], return_tensors="pt")
        return ImageInputs(dict(batch), _layout(rows, columns))

    def encode_images(self, images: Sequence[ImageInputs]) -> list[Tensor]:
        """One vision pass over the packed patches of all images; each attends to its own only."""
        patches = torch.cat([image.tensors["pixel_values"] for image in images]).to(self.device, self.dtype)
        grids = torch.cat([image.tensors["image_grid_thw"] for image in images]).to(self.device)
        features = self.model.get_image_features(pixel_values=patches, image_grid_thw=grids, return_dict=True)
        return list(features.pooler_output)

    def positions(self, ids: Tensor, images: Sequence[ImageRef]) -> Tensor:
        """(3, L) temporal, row and column positions: M-RoPE, Qwen2-VL (2409.12191) §2.1.

        Text counts alike on all three axes. An image that starts at position p has time p throughout, its feature in
        row r and column c sits at (p, p + r, p + c), and what follows goes on at p + max(rows, columns).
        """
        places = (ids == self.image_token).nonzero()[:, 0].tolist()
        parts, seen, done, position = [], 0, 0, 0
        for rows, columns in map(self._grid, images):
            place = places[seen]
            parts.append(torch.arange(position, position + place - done).expand(3, -1))
            position += place - done
            axes = torch.meshgrid(torch.arange(1), torch.arange(rows), torch.arange(columns), indexing="ij")
            parts.append(position + torch.stack(axes).flatten(1))
            position += max(rows, columns)
            seen += rows * columns
            done = place + rows * columns
        parts.append(torch.arange(position, position + len(ids) - done).expand(3, -1))
        return torch.cat(parts, dim=1)

    def grid_of_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of features that an image of so many pixels becomes.

        Raises:
            SampleError: One side is more than 200 times the other; the processor refuses such images.
        """
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        processor = self.processor.image_processor
        side = processor.patch_size * processor.merge_size
        least, most = processor.size["shortest_edge"], processor.size["longest_edge"]
        try:
            height, width = smart_resize(height, width, factor=side, min_pixels=least, max_pixels=most)
        except ValueError as error:
            raise SampleError(f"an image of {width}×{height} pixels: {error}") from error
        return height // side, width // side

    def _grid(self, image: ImageRef) -> tuple[int, int]:
        width, height = image.size()
        return self.grid_of_size(height, width)

    def _position_ids(self, positions: Tensor) -> Tensor:
        return positions


def _layout(rows: int, columns: int) -> Tensor:
    return torch.full((rows * columns,), int(Role.IMAGE), dtype=torch.uint8)
