"""The LLaVA family: LLaVA-1.5, LLaVA-NeXT and LLaVA-OneVision (transformers' `Llava…ForConditionalGeneration`)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from sinkbench.adapters.base import Adapter, ImageFeatures, ImageInputs
from sinkbench.adapters.checks import Options
from sinkbench.adapters.presets import ModelPreset
from sinkbench.engine.context import Role
from sinkbench.errors import UsageError
from sinkbench.request import ImageRef

if TYPE_CHECKING:
    from PIL.Image import Image


class LlavaAdapter(Adapter):
    """LLaVA-1.5: one square view of each image, a fixed number of tokens.

    Options:
        image_padding: "square" pads the image to a square with the processor's mean colour before it is resized, as
            LLaVA-1.5 was trained and evaluated (its image_aspect_ratio "pad"); "none" leaves it to the processor, which
            resizes the shorter side and crops the rest of the longer one away.
    """

    paths: ClassVar[Mapping[str, str]] = {**Adapter.paths, "projector": "model.multi_modal_projector"}
    options: ClassVar[Options] = {"image_padding": ("none", "square")}

    def shared_facts(self) -> dict[str, tuple[Any, Any]]:
        """The image token and whether the encoder has a class token."""
        return super().shared_facts() | {
            "number of class tokens": (self.processor.num_additional_image_tokens, self.class_tokens)
        }

    @property
    def class_tokens(self) -> int:
        """CLIP has one, SigLIP none."""
        return int(hasattr(self.vision.embeddings, "class_embedding"))

    @property
    def projected_layer(self) -> nn.Module | None:
        """The layer that features are read from; None where they are read from several."""
        named = self.model.config.vision_feature_layer
        return self._vision_layers[self._vision_layer] if isinstance(named, int) and named != 0 else None

    @property
    def patches_per_side(self) -> int:
        """Patches along one side of the encoder's square input."""
        vision = self.model.config.vision_config
        return int(vision.image_size // vision.patch_size)

    def layout_of_size(self, height: int, width: int) -> Tensor:
        """All features are image tokens, as many whatever the size."""
        dropped = 1 if self.model.config.vision_feature_select_strategy == "default" else 0
        tokens = self.patches_per_side**2 + self.class_tokens - dropped
        return torch.full((tokens,), int(Role.IMAGE), dtype=torch.uint8)

    def image_layout(self, image: ImageRef) -> Tensor:
        """The same for every image, so that not even the header is read."""
        side = self.model.config.vision_config.image_size
        return self._layout(side, side)

    def preprocess(self, image: ImageRef) -> ImageInputs:
        """Pad to a square if the preset says so; resize, crop and normalise as the processor says."""
        loaded = image.load()
        if self.preset.options.get("image_padding") == "square":
            loaded = pad_to_square(loaded, self.processor.image_processor.image_mean)
        batch = self.processor.image_processor(images=[loaded], return_tensors="pt")
        return ImageInputs(dict(batch), self.layout_of_size(loaded.height, loaded.width))

    def encode_images(self, images: Sequence[ImageInputs]) -> list[ImageFeatures]:
        """One vision pass over all images."""
        pixels = torch.cat([image.tensors["pixel_values"] for image in images]).to(self.device, self.dtype)
        features = self.model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
        return [ImageFeatures(tokens) for tokens in features]

    def patch_values_to_tokens(self, values: Tensor, image: ImageInputs, mean: bool = False) -> Tensor:
        """Every patch is a feature; a class token that stays comes first."""
        kept = len(LlavaAdapter.layout_of_size(self, 0, 0)) - values.shape[1]
        return torch.cat((values.new_zeros(kept, *values.shape[2:]), values[0]))


class LlavaNextAdapter(LlavaAdapter):
    """LLaVA-NeXT: a base view and tiles that follow the image's shape; each tile row ends in a newline feature.

    Options:
        max_tiles: Most tiles of an image, the base view not counted; larger grids are not considered.
    """

    options: ClassVar[Options] = {"max_tiles": int}

    def __init__(self, preset: ModelPreset, model: Any, processor: Any) -> None:
        super().__init__(preset, model, processor)
        if "max_tiles" in preset.options:
            room = preset.options["max_tiles"] * model.config.vision_config.image_size**2
            grids = [grid for grid in model.config.image_grid_pinpoints if math.prod(grid) <= room]
            if not grids:
                raise UsageError(
                    f"{preset.name}: no grid has as few as {preset.options['max_tiles']} tiles", "Raise max_tiles."
                )
            model.config.image_grid_pinpoints = processor.image_processor.image_grid_pinpoints = grids

    def shared_facts(self) -> dict[str, tuple[Any, Any]]:
        """Also which grids of tiles there are."""
        return super().shared_facts() | {"image grids": self._grids()}

    @property
    def separator(self) -> Tensor:
        """The newline that ends each row of tiles."""
        newline: Tensor = self.model.model.image_newline
        return newline

    def image_layout(self, image: ImageRef) -> Tensor:
        """Base view and tiles; reads the file's header."""
        return Adapter.image_layout(self, image)

    def layout_of_size(self, height: int, width: int) -> Tensor:
        """Base view, then rows of tiles without their padding, each followed by a separator (TEMPLATE).

        The grid of tiles is the pinpoint that keeps most of the image; the features of its padding are cut away
        (spatial unpadding of LLaVA-NeXT).
        """
        rows, columns = self._shrunk(*self._unpadded(height, width, *self._tiled(height, width)))
        tiles = torch.full((rows, columns + 1), int(Role.IMAGE), dtype=torch.uint8)
        tiles[:, -1] = int(Role.TEMPLATE)
        return torch.cat((super().layout_of_size(height, width), tiles.flatten()))

    def encode_images(self, images: Sequence[ImageInputs]) -> list[ImageFeatures]:
        """One vision pass over all tiles of all images."""
        return self._encode(images)

    @property
    def projected_layer(self) -> nn.Module | None:
        """None: features of tiles are put together, and separators are among them."""
        return None

    def patch_values_to_tokens(self, values: Tensor, image: ImageInputs, mean: bool = False) -> Tensor:
        """The base view, then the tiles side by side without their padding, each row followed by a separator."""
        rest = values.shape[2:]
        height, width = image.tensors["image_sizes"][0].tolist()
        side = self.patches_per_side
        all_rows, all_columns = self._tiled(height, width)
        tiles = values[1:].view(all_rows // side, all_columns // side, side, side, *rest)
        whole = tiles.transpose(1, 2).reshape(all_rows, all_columns, *rest)
        rows, columns = self._unpadded(height, width, all_rows, all_columns)
        top, left = (all_rows - rows) // 2, (all_columns - columns) // 2
        shown, shrunk = whole[top : top + rows, left : left + columns], self._shrunk(rows, columns)
        kept = mean_read(shown, *shrunk) if mean else largest_read(shown, *shrunk)
        separated = torch.cat((kept, kept.new_zeros(shrunk[0], 1, *rest)), dim=1)
        return torch.cat((super().patch_values_to_tokens(values[:1], image), separated.flatten(0, 1)))

    def _tiled(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches in the grid of tiles of an image of so many pixels."""
        from transformers.image_processing_utils import select_best_resolution

        config = self.model.config
        best = select_best_resolution((height, width), config.image_grid_pinpoints)
        rows, columns = (pixels // config.vision_config.image_size * self.patches_per_side for pixels in best)
        return rows, columns

    def _unpadded(self, height: int, width: int, rows: int, columns: int) -> tuple[int, int]:
        """Those of the rows and columns of patches that show some of the image; as many are cut off at either end."""
        if width / height > columns / rows:
            kept = int(round(height * (columns / width), 7))
            return rows - 2 * ((rows - kept) // 2), columns
        kept = int(round(width * (rows / height), 7))
        return rows, columns - 2 * ((columns - kept) // 2)

    def _encode(self, images: Sequence[ImageInputs], **settings: Any) -> list[ImageFeatures]:
        views = [image.tensors["pixel_values"] for image in images]
        most = max(view.shape[1] for view in views)
        pixels = torch.cat([torch.nn.functional.pad(v, (0, 0, 0, 0, 0, 0, 0, most - v.shape[1])) for v in views])
        sizes = torch.cat([image.tensors["image_sizes"] for image in images])
        features = self.model.get_image_features(
            pixel_values=pixels.to(self.device, self.dtype), image_sizes=sizes, return_dict=True, **settings
        ).pooler_output
        return [ImageFeatures(tokens) for tokens in features]

    def _shrunk(self, rows: int, columns: int) -> tuple[int, int]:
        """The grid of features after what the family does to large ones."""
        return rows, columns

    def _grids(self) -> tuple[list[list[int]], list[list[int]]]:
        both = (self.processor.image_processor.image_grid_pinpoints, self.model.config.image_grid_pinpoints)
        processor, model = ([list(grid) for grid in grids] for grids in both)
        return processor, model


@dataclass(frozen=True)
class OneOfSeveral(ImageRef):
    """An image that shares its prompt with others: LLaVA-OneVision sees it as a whole, without tiles.

    Attributes:
        image: The same image alone in its prompt.
    """

    image: ImageRef = field(kw_only=True)

    @property
    def on_disk(self) -> bool:
        """As the image alone."""
        return self.image.on_disk

    def size(self) -> tuple[int, int]:
        """As the image alone."""
        return self.image.size()

    def load(self) -> "Image":
        """As the image alone."""
        return self.image.load()

    @property
    def key(self) -> str:
        """Not that of the same image alone in its prompt, whose features are others."""
        return f"{super().key}/one-of-several"


class LlavaOnevisionAdapter(LlavaNextAdapter):
    """LLaVA-OneVision: LLaVA-NeXT's views with SigLIP; the features of many tiles are interpolated to fewer.

    Several images in one prompt are padded to squares and seen once each (2408.03326, appendix C.1).

    Options:
        max_tiles: As for LLaVA-NeXT.
    """

    def shared_facts(self) -> dict[str, tuple[Any, Any]]:
        """The image token, the features of a view, the grids, and when their features are interpolated."""
        return Adapter.shared_facts(self) | {
            "number of tokens a view": (self.processor.num_image_tokens, self.patches_per_side**2),
            "image grids": self._grids(),
            "aspect ratio": (self.processor.vision_aspect_ratio, self.model.config.vision_aspect_ratio),
        }

    def prompt_images(self, images: tuple[ImageRef, ...]) -> tuple[ImageRef, ...]:
        """Several images are each marked as one of several."""
        return images if len(images) == 1 else tuple(OneOfSeveral(i.path, i.sha256, image=i) for i in images)

    def image_layout(self, image: ImageRef) -> Tensor:
        """Base view and tiles, or one view; either ends in a separator (TEMPLATE)."""
        if not isinstance(image, OneOfSeveral):
            return super().image_layout(image)
        newline = torch.tensor([int(Role.TEMPLATE)], dtype=torch.uint8)
        return torch.cat((LlavaAdapter.layout_of_size(self, 0, 0), newline))

    def preprocess(self, image: ImageRef) -> ImageInputs:
        """Cut into tiles, or pad to a square; resize and normalise as the processor says."""
        if not isinstance(image, OneOfSeveral):
            return super().preprocess(image)
        loaded = image.load()
        # The processor leaves tiles out where a prompt has several images, so that it is shown two.
        batch = self.processor.image_processor(images=[[loaded, loaded]], return_tensors="pt")
        tensors = {name: batch[name][:1] for name in ("pixel_values", "image_sizes")}
        return ImageInputs(tensors, self.image_layout(image))

    def encode_images(self, images: Sequence[ImageInputs]) -> list[ImageFeatures]:
        """One vision pass over a run of images with tiles, or without."""
        features = []
        for is_single, run in groupby(images, lambda image: image.tensors["pixel_values"].shape[1] == 1):
            inputs = list(run)
            # How many images the prompt of each image has; the model asks only whether it is one.
            features += self._encode(inputs, batch_num_images=[2 if is_single else 1] * len(inputs))
        return features

    def patch_values_to_tokens(self, values: Tensor, image: ImageInputs, mean: bool = False) -> Tensor:
        """As for LLaVA-NeXT; one of several images is one view and a separator.

        An interpolated feature has the largest value of the at most four cells that it is read from. Cells that the
        interpolation skips are lost, as what they show is to the model.
        """
        if len(values) > 1:
            return super().patch_values_to_tokens(values, image, mean)
        base = LlavaAdapter.patch_values_to_tokens(self, values, image)
        return torch.cat((base, base.new_zeros(1, *base.shape[1:])))

    def _shrunk(self, rows: int, columns: int) -> tuple[int, int]:
        """More than `anyres_max_N` views' worth of features are interpolated down to about that many."""
        most = int(self.model.config.vision_aspect_ratio.removeprefix("anyres_max_")) * self.patches_per_side**2
        ratio = math.sqrt(rows * columns / most)
        return (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)


def largest_read(values: Tensor, rows: int, columns: int) -> Tensor:
    """Shrink a grid (R, C, …) to (rows, columns, …): the largest value that bilinear interpolation reads for each cell.

    The interpolation is torch's with corners not aligned: cell i is read at (i + ½)·R/rows − ½, from the cells on
    either side.
    """
    for axis, size in enumerate((rows, columns)):
        before = values.shape[axis]
        if size == before:
            continue
        # In whole numbers: a cell that would count by a rounding error is not read.
        at = (2 * torch.arange(size, device=values.device) + 1) * before - size
        low, high = at // (2 * size), -(-at // (2 * size))
        values = torch.maximum(values.index_select(axis, low), values.index_select(axis, high.clamp_max(before - 1)))
    return values


def mean_read(values: Tensor, rows: int, columns: int) -> Tensor:
    """Shrink a grid (R, C, d) to (rows, columns, d) by that bilinear interpolation itself."""
    if values.shape[:2] == (rows, columns):
        return values
    first = values.permute(2, 0, 1)[None]
    return torch.nn.functional.interpolate(first, (rows, columns), mode="bilinear")[0].permute(1, 2, 0)


def pad_to_square(image: "Image", mean: Sequence[float]) -> "Image":
    """Centre an image on a square of its longer side.

    Args:
        image: RGB.
        mean: Colour of the square, 0 to 1: what becomes 0 when the processor normalises.
    """
    from PIL import Image

    side = max(image.size)
    square = Image.new(image.mode, (side, side), tuple(int(255 * value) for value in mean))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
