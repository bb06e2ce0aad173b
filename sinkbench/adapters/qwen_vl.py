"""The Qwen-VL family: Qwen2-VL, Qwen2.5-VL and Qwen3-VL (transformers' `Qwen…VLForConditionalGeneration`)."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter, ImageFeatures, ImageInputs
from sinkbench.adapters.checks import Options
from sinkbench.adapters.presets import ModelPreset
from sinkbench.adapters.vision import EncoderLayer, block_diagonal
from sinkbench.engine.context import Role
from sinkbench.errors import SampleError, UsageError
from sinkbench.request import ImageRef


class QwenVLAdapter(Adapter):
    """Qwen2-VL: images at their own resolution, three-dimensional positions (M-RoPE).

    Options:
        min_pixels: Smaller images are enlarged to so many pixels.
        max_pixels: Larger images are shrunk to so many.
    """

    paths: ClassVar[Mapping[str, str]] = {
        **Adapter.paths,
        "vision": "model.visual",
        "vision_layers": "model.visual.blocks",
    }
    attention_path: ClassVar[str] = "attn"
    options: ClassVar[Options] = {"min_pixels": int, "max_pixels": int}

    def __init__(self, preset: ModelPreset, model: Any, processor: Any) -> None:
        super().__init__(preset, model, processor)
        self.image_markup = (int(model.config.vision_start_token_id), int(model.config.vision_end_token_id))
        size = processor.image_processor.size
        least = preset.options.get("min_pixels", size["shortest_edge"])
        most = preset.options.get("max_pixels", size["longest_edge"])
        if least > most:
            raise UsageError(
                f"{preset.name}: min_pixels {least} is above max_pixels {most}", "Set both in the preset's options."
            )
        processor.image_processor.size = type(size)(shortest_edge=least, longest_edge=most)

    def shared_facts(self) -> dict[str, tuple[Any, Any]]:
        """The image token and how patches are cut and merged."""
        processor, vision = self.processor.image_processor, self.model.config.vision_config
        return super().shared_facts() | {
            "patch size": (processor.patch_size, vision.patch_size),
            "merge size": (processor.merge_size, vision.spatial_merge_size),
        }

    def layout_of_size(self, height: int, width: int) -> Tensor:
        """All features are image tokens."""
        rows, columns = self.grid_of_size(height, width)
        return torch.full((rows * columns,), int(Role.IMAGE), dtype=torch.uint8)

    def preprocess(self, image: ImageRef) -> ImageInputs:
        """Resize, normalise and cut into patches as the processor says."""
        loaded = image.load()
        layout = self.layout_of_size(loaded.height, loaded.width)
        return ImageInputs(dict(self.processor.image_processor(images=[loaded], return_tensors="pt")), layout)

    def encode_images(self, images: Sequence[ImageInputs]) -> list[ImageFeatures]:
        """One vision pass over the packed patches of all images; each attends to its own only."""
        return [ImageFeatures(tokens) for tokens in self._encode(images).pooler_output]

    def patch_values_to_tokens(self, values: Tensor, image: ImageInputs, mean: bool = False) -> Tensor:
        """The patches of a feature follow one another, features in reading order."""
        blocks = values.reshape(-1, self.model.config.vision_config.spatial_merge_size**2, *values.shape[2:])
        return blocks.mean(1) if mean else blocks.amax(1)

    def positions(self, ids: Tensor, images: Sequence[ImageRef]) -> Tensor:
        """(3, L) temporal, row and column positions: M-RoPE, Qwen2-VL (2409.12191) §2.1.

        Text counts alike on all three axes. An image that starts at position p has time p throughout, its feature in
        row r and column c sits at (p, p + r, p + c), and what follows goes on at p + max(rows, columns).
        """
        places = (ids == self.image_token).nonzero()[:, 0].tolist()
        parts, seen, done, position = [], 0, 0, 0
        for image in images:
            width, height = self.image_size(image)
            rows, columns = self.grid_of_size(height, width)
            place = places[seen]
            parts.append(torch.arange(position, position + place - done).expand(3, -1))
            position += place - done
            parts.append(position + _grid_axes(rows, columns))
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

    def _encode(self, images: Sequence[ImageInputs]) -> Any:
        patches = torch.cat([image.tensors["pixel_values"] for image in images]).to(self.device, self.dtype)
        grids = torch.cat([image.tensors["image_grid_thw"] for image in images]).to(self.device)
        return self.model.get_image_features(pixel_values=patches, image_grid_thw=grids, return_dict=True)

    def _by_image(self, seen: list[EncoderLayer], images: Sequence[ImageInputs]) -> list[EncoderLayer]:
        """The encoder attends image by image (or window by window) within one packed sequence."""
        sizes = [len(image.tensors["pixel_values"]) for image in images]
        weights = block_diagonal([block.weights[0] for block in seen], sizes)
        keys = torch.split(torch.cat([block.keys[0] for block in seen]), sizes)
        layers = []
        for image, own_weights, own_keys in zip(images, weights, keys, strict=True):
            if (order := self._patch_order(image)) is not None:
                order = order.to(own_keys.device)
                own_weights, own_keys = own_weights[:, order][:, :, order], own_keys[order]
            layers.append(EncoderLayer(own_weights[None], own_keys[None]))
        return layers

    def _patch_order(self, image: ImageInputs) -> Tensor | None:
        """(N,) where the encoder has each of an image's patches as the processor sorts them; None: in that order."""
        return None

    def _position_ids(self, positions: Tensor) -> Tensor:
        return positions


class Qwen25VLAdapter(QwenVLAdapter):
    """Qwen2.5-VL: most layers of its vision encoder attend within windows.

    `vision_attention` of such a layer is zero between windows, which is what the layer computes.
    """

    def _patch_order(self, image: ImageInputs) -> Tensor | None:
        """The encoder sorts merge blocks by window before its first layer."""
        from transformers.vision_utils import get_vision_window_index

        vision = self.model.config.vision_config
        blocks, _ = get_vision_window_index(
            image.tensors["image_grid_thw"],
            spatial_merge_size=vision.spatial_merge_size,
            window_size=vision.window_size,
            patch_size=vision.patch_size,
        )
        unit = vision.spatial_merge_size**2
        patches: Tensor = (blocks.cpu()[:, None] * unit + torch.arange(unit)).flatten()
        return patches.argsort()


class Qwen3VLAdapter(QwenVLAdapter):
    """Qwen3-VL: features of inner vision layers are added to the first layers of the language model (deepstack)."""

    def encode_images(self, images: Sequence[ImageInputs]) -> list[ImageFeatures]:
        """One vision pass over the packed patches of all images; each attends to its own only."""
        output = self._encode(images)
        tokens = output.pooler_output
        layers = [
            # Newer transformers split these by image as well.
            feature if isinstance(feature, tuple) else feature.split([len(part) for part in tokens])
            for feature in output.deepstack_features
        ]
        return [ImageFeatures(part, torch.stack(deep)) for part, *deep in zip(tokens, *layers, strict=True)]


@lru_cache(1024)
def _grid_axes(rows: int, columns: int) -> Tensor:
    """(3, rows · columns) time, row and column of each feature of an image; not to be written to."""
    axes = torch.meshgrid(torch.arange(1), torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack(axes).flatten(1)
