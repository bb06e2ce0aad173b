"""Pictures of one prompt: where its last row looks in the image and in the text, and where the sinks are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from sinkbench.adapters.views import View
from sinkbench.diagnostics.visual_sinks import SKIPPED
from sinkbench.inspection.pictures import STYLE, WIDTH, save

if TYPE_CHECKING:
    from PIL.Image import Image

Array = NDArray[Any]

SINK = "#ff2d55"
"""Outlines of sink tokens."""

COLUMNS = 8
"""Tiles in a row."""

LEGEND = "last row's attention: brightest at each tile's largest value, numbers are sums over the view"

SINK_LAYERS = 4
"""Layers whose sinks are marked in the picture."""

TINY = float(np.finfo(np.float32).tiny)

TEXTS = 64
"""Text tokens that fit in a picture's width."""


@dataclass(frozen=True, eq=False)
class Sample:
    """What is drawn of one prompt with n image tokens and t other tokens, in a model with L layers and H heads.

    Attributes:
        title: Printed above each picture.
        pictures: The prompt's images.
        views: Grids of image tokens over them; empty where the family's are not known.
        look: (L, n) attention of the last row to image tokens, mean over heads.
        maps: (L, H, n) the same of every head.
        sinks: (L, n) bool visual sinks; None where they are not known.
        texts: The other tokens, t of them, in order.
        text_look: (L, t) attention of the last row to them, mean over heads.
        marked: (t,) bool, those that are sinks.
    """

    title: str
    pictures: Sequence["Image"]
    views: Sequence[View]
    look: Array
    maps: Array
    sinks: Array | None
    texts: Sequence[str]
    text_look: Array
    marked: Array


def draw_sample(sample: Sample, folder: Path, layer: int | None = None) -> list[Path]:
    """Draw a prompt's pictures: of each view its sinks, its layers, and one layer's heads; and of the text.

    Args:
        sample: The prompt.
        folder: Where the PNGs go; made if it is not there.
        layer: Whose heads are drawn; by default the one behind the first two that looks at the image most.

    Returns:
        The files, such as image1-heads.png: the view, and the number of the image.
    """
    if layer is None:
        layer = min(SKIPPED, len(sample.look) - 1)
        layer += int(sample.look[layer:].sum(1).argmax())
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        return [save(figure, sample.title, folder / f"{name}.png") for name, figure in _figures(sample, layer)]


def _figures(sample: Sample, layer: int) -> Iterator[tuple[str, Figure]]:
    for view in sample.views:
        name = f"{view.name}{view.image + 1}"
        if sample.sinks is not None and sample.sinks.any():
            yield f"{name}-sinks", sinks_figure(sample, view, sample.sinks)
        yield f"{name}-layers", layers_figure(sample, view)
        yield f"{name}-heads", heads_figure(sample, view, layer)
    if sample.look.shape[1] and not sample.views:
        yield "image-tokens", image_tokens_figure(sample)
    yield "text", text_figure(sample)


def sinks_figure(sample: Sample, view: View, sinks: Array) -> Figure:
    """The picture with the cells of sink tokens outlined, in layers spread over those that have any."""
    having = np.flatnonzero(sinks.any(1))
    chosen = having[np.unique(np.linspace(0, len(having) - 1, SINK_LAYERS).round().astype(int))]
    figure, panels = _tiles(len(chosen), SINK_LAYERS, view, sample)
    for axes, layer in zip(panels, chosen.tolist(), strict=True):
        axes.set_title(f"layer {layer}: {int(sinks[layer].sum())} sinks")
        _show(axes, sample, view, None)
        _outline(axes, view, sinks[layer])
    return figure


def layers_figure(sample: Sample, view: View) -> Figure:
    """Attention over the picture in each layer, mean over heads; each tile has its own scale, its title the sum."""
    figure, panels = _tiles(len(sample.look), COLUMNS, view, sample)
    figure.supxlabel(LEGEND, fontsize=8)
    for layer, axes in enumerate(panels):
        _show(axes, sample, view, sample.look[layer])
        axes.set_title(f"layer {layer}: {_percent(sample.look[layer], view)}", fontsize=8)
    return figure


def heads_figure(sample: Sample, view: View, layer: int) -> Figure:
    """Attention of each head of one layer over the picture; each tile has its own scale, its title the sum."""
    maps = sample.maps[layer]
    figure, panels = _tiles(len(maps), COLUMNS, view, sample)
    figure.supxlabel(LEGEND, fontsize=8)
    for head, axes in enumerate(panels):
        _show(axes, sample, view, maps[head])
        axes.set_title(f"head {layer}.{head}: {_percent(maps[head], view)}", fontsize=8)
    return figure


def image_tokens_figure(sample: Sample) -> Figure:
    """Attention to the image tokens in a row, where their places in the picture are not known."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    heat = axes.imshow(sample.look, aspect="auto", interpolation="nearest", vmin=0)
    axes.set(title="places in the picture unknown", xlabel="image token", ylabel="layer")
    figure.colorbar(heat, ax=axes, label="attention")
    return figure


def text_figure(sample: Sample) -> Figure:
    """Attention of the last row to the text in each layer; sinks in red.

    Of longer texts, the tokens with most attention in any layer.
    """
    most = np.sort(sample.text_look.max(0).argsort()[::-1][:TEXTS])
    figure = Figure(figsize=(WIDTH, 1.5 + 0.08 * max(len(sample.look), 16)), layout="constrained")
    axes = figure.subplots()
    heat = axes.imshow(sample.text_look[:, most], aspect="auto", interpolation="nearest", vmin=0)
    axes.set_xticks(range(len(most)), [_shown(sample.texts[index]) for index in most], rotation=90, fontsize=7)
    for label, is_sink in zip(axes.get_xticklabels(), sample.marked[most], strict=True):
        label.set(color=SINK if is_sink else "black", fontweight="bold" if is_sink else "normal")
    axes.set(ylabel="layer", xlabel="text token" + (" (sinks in red)" if sample.marked[most].any() else ""))
    figure.colorbar(heat, ax=axes, label="attention", pad=0.01)
    return figure


def _tiles(count: int, columns: int, view: View, sample: Sample) -> tuple[Figure, list[Any]]:
    """A figure of so many tiles in the shape of the picture with its view, and their axes."""
    left, right, top, bottom = _extent(sample.pictures[view.image], view)
    rows = ceil(count / columns)
    height = WIDTH / columns * min((bottom - top) / (right - left), 2) + 0.2
    figure = Figure(figsize=(WIDTH, rows * height + 0.55), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.set_axis_off()
    return figure, panels[:count]


def _extent(picture: "Image", view: View) -> tuple[float, float, float, float]:
    """Left, right, top and bottom of what picture and view cover together."""
    left, top, right, bottom = view.box
    return min(0, left), max(picture.width, right), min(0, top), max(picture.height, bottom)


def _show(axes: Any, sample: Sample, view: View, values: Array | None) -> None:
    """The picture; values (n,) shine through it, darkened and grey, the more the larger they are."""
    picture = sample.pictures[view.image]
    extent = (0, picture.width, picture.height, 0)
    if values is None:
        axes.imshow(picture, extent=extent)
    else:
        left, top, right, bottom = view.box
        axes.imshow(picture.convert("L"), extent=extent, cmap="gray", vmin=0, vmax=420)
        heat = values[view.tokens]
        alpha = np.clip(heat / max(heat.max(), TINY), 0.1, 0.8)
        place = (left, right, bottom, top)
        axes.imshow(heat, extent=place, cmap="inferno", alpha=alpha, vmin=0, interpolation="nearest")
    left, right, top, bottom = _extent(picture, view)
    axes.set(xlim=(left, right), ylim=(bottom, top))


def _outline(axes: Any, view: View, sinks: Array) -> None:
    """Draw a frame in each cell whose token is a sink; sinks (n,) bool."""
    left, top, right, bottom = view.box
    rows, columns = view.tokens.shape
    across, down = (right - left) / columns, (bottom - top) / rows
    cells = [
        Rectangle((left + column * across, top + row * down), across, down)
        for row, column in np.argwhere(sinks[view.tokens]).tolist()
    ]
    axes.add_collection(PatchCollection(cells, facecolor="none", edgecolor=SINK, linewidth=1.2))


def _percent(values: Array, view: View) -> str:
    """Attention on a view; small shares keep a digit."""
    share = 100 * float(values[view.tokens].sum())
    return f"{share:.0f} %" if share >= 10 else f"{share:.1f} %"


def _shown(text: str) -> str:
    """A token as a tick label: spaces and line breaks visible, no mathematics."""
    return text.replace("\n", "↵").replace(" ", "␣").replace("$", r"\$")
