"""Pictures of one question under several methods: where a row looks, what that changes, and the share by layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from math import ceil
from pathlib import Path
from textwrap import fill, shorten
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

from sinkbench.inspection.compared import Array, MethodView
from sinkbench.inspection.gallery import Gallery, Tile
from sinkbench.inspection.pictures import BLUE, DPI, GREEN, GREY, ORANGE, PALETTE, PINK, STYLE, WIDTH

COLUMNS = 4
"""Views side by side."""

TILE = 2.3
"""Width of a tile in inches."""

HEAT, CHANGE = "YlOrBr", "PuOr_r"
"""Colour maps whose order the colour-blind see too; of changes orange is more than before, purple less."""

SKY, AMBER = "#56b4e9", "#e69f00"
"""From the palette of `pictures` too. Crops are outlined in sky blue on the picture that they were cut from."""

LINES = ((GREY, "-"), (ORANGE, "-"), (BLUE, "--"), (GREEN, "-."), (PINK, "-"), (SKY, "-"), (AMBER, "--"))
"""Colours and styles of curves, the plain model's first."""

_PARTS = 12
"""Columns of the big picture's grid."""

_BAR, _CURVE = 0.12, 2.2
"""Heights of colour bars and of the curves in inches."""

_STYLE = STYLE | {"axes.grid": False, "hatch.linewidth": 0.6, "hatch.color": "0.55"}


@contextmanager
def drawing() -> Iterator[None]:
    """Within it, figures have the style of these pictures."""
    with matplotlib.rc_context(_STYLE):
        yield


def draw(gallery: Gallery, folder: Path, title: str) -> dict[str, str]:
    """Write before_after.png and one overlay a method.

    Args:
        gallery: What is drawn.
        folder: Where the files go.
        title: The question.

    Returns:
        File name of each method's overlay, by the method's name.
    """
    (folder / "before_after.png").write_bytes(png(before_after_figure(gallery), fill(title, 90)))
    files = {view.method: f"overlay-{view.method}.png" for view in gallery.seen.views}
    for number, name in enumerate(files.values()):
        (folder / name).write_bytes(png(overlay_figure(gallery, number)))
    return files


def png(figure: Figure, title: str = "") -> bytes:
    """A figure as a PNG of few colours; those of the curves, thin as they are, stay apart."""
    if title:
        figure.suptitle(_plain(title), fontsize=10.5, fontweight="bold")
    drawn, written = BytesIO(), BytesIO()
    figure.savefig(drawn, dpi=DPI)
    picture = Image.open(drawn).convert("RGB")
    own = [round(255 * part) for colour in ("white", *(colour for colour, _ in LINES)) for part in to_rgb(colour)]
    left = PALETTE - len(own) // 3
    palette = Image.new("P", (1, 1))
    palette.putpalette([*own, *(picture.quantize(left, kmeans=2).getpalette() or [])[: 3 * left]])
    few = picture.quantize(palette=palette, dither=Image.Dither.NONE)
    # The nearest colour is looked up roughly: see that the paper stays white.
    colours, paper = few.getpalette() or [], few.tobytes()[0]
    colours[3 * paper : 3 * paper + 3] = [255] * 3
    few.putpalette(colours)
    few.save(written, "PNG", optimize=True)
    return written.getvalue()


def before_after_figure(gallery: Gallery) -> Figure:
    """Every view's overlays, below each the change, and below all the image's share by layer."""
    views = gallery.seen.views
    bands = [range(start, min(start + COLUMNS, len(views))) for start in range(0, len(views), COLUMNS)]
    columns = min(COLUMNS, len(views))
    originals = sum(tile.original for tile in gallery.tiles[0])
    rows: list[tuple[range, str, int]] = []
    for band in bands:
        added = max(sum(not tile.original for tile in gallery.tiles[number]) for number in band)
        rows += [(band, "attention", index) for index in range(originals)]
        rows += [(band, "added", index) for index in range(added)]
        rows += [(band, "change", index) for index in range(originals)]
    heights = [*(TILE * _shape(gallery, kind, index) for _, kind, index in rows), _BAR, _CURVE]
    around = sum(0.38 if kind == "attention" else 0.22 for _, kind, _ in rows) + 1.9
    figure = Figure(figsize=(TILE * max(columns, 3) + 0.8, sum(heights) + around), layout="constrained")
    # Nested grids would have to fit between a bar's edges: all is on one grid, which halves, thirds and quarters fit.
    grid = figure.add_gridspec(len(heights), _PARTS, height_ratios=heights)
    width = _PARTS // columns
    for row, (band, kind, index) in enumerate(rows):
        for column, number in enumerate(band):
            axes = figure.add_subplot(grid[row, column * width : (column + 1) * width])
            axes.set_axis_off()
            _fill(axes, gallery, number, kind, index)
    _heat_bar(figure, gallery, figure.add_subplot(grid[len(rows), : _PARTS // 2]))
    _change_bar(figure, gallery, figure.add_subplot(grid[len(rows), _PARTS // 2 :]))
    share_axes(figure.add_subplot(grid[len(rows) + 1, :]), gallery)
    figure.supxlabel(gallery.caption, fontsize=8)
    return figure


def _shape(gallery: Gallery, kind: str, index: int) -> float:
    """Height over width of a row's tiles."""
    rows = [[tile for tile in own if tile.original is (kind != "added")] for own in gallery.tiles]
    return max(_ratio(own[index]) for own in rows if index < len(own))


def _fill(axes: Any, gallery: Gallery, number: int, kind: str, index: int) -> None:
    """Draw one tile of the big picture, or nothing where a view has none."""
    view = gallery.seen.views[number]
    tiles = [tile for tile in gallery.tiles[number] if tile.original is (kind != "added")]
    if index >= len(tiles):
        if kind == "attention" and index == 0:
            axes.set_title(_heading(view))
        return
    tile = tiles[index]
    if kind != "change":
        show_heat(axes, gallery, view, tile)
        heading = f"{_heading(view)}\n" if kind == "attention" and index == 0 else ""
        axes.set_title(heading + _named(tile, gallery.heat(view, tile)), fontsize=8.5)
    elif number == 0:
        axes.imshow(tile.picture)
        axes.set_title("the picture", fontsize=8.5)
    elif (change := gallery.change(view, tile)) is not None:
        show_change(axes, gallery, tile, change)
        axes.set_title(f"change: {_points(change)}", fontsize=8.5)


def _heading(view: MethodView) -> str:
    answer = shorten(view.answer, 70, placeholder=" …")
    return _plain(fill(f"{view.method} → {answer or '(nothing)'}", 32))


def _named(tile: Tile, heat: Array) -> str:
    return f"{tile.label}: {100 * float(heat.sum()):.1f} %"


def _points(change: Array) -> str:
    """The sum of a change in percentage points."""
    return f"{100 * float(change.sum()):+.1f} points".replace("-", "−").replace("+0.0", "±0.0").replace("−0.0", "±0.0")


def overlay_figure(gallery: Gallery, number: int) -> Figure:
    """All tiles of one view, on the colour scale that all views share."""
    view, tiles = gallery.seen.views[number], gallery.tiles[number]
    columns = min(COLUMNS, max(len(tiles), 1))
    rows = max(1, ceil(len(tiles) / columns))
    height = max((_ratio(tile) for tile in tiles), default=1.0)
    figure, panels, bar = _panels(rows, columns, height)
    for axes in panels:
        axes.set_axis_off()
    for axes, tile in zip(panels, tiles, strict=False):
        show_heat(axes, gallery, view, tile)
        axes.set_title(_named(tile, gallery.heat(view, tile)), fontsize=8.5)
    _heat_bar(figure, gallery, bar)
    return figure


def change_figure(gallery: Gallery, number: int) -> Figure | None:
    """What a view changes on each tile that the plain model has too; None where there is none."""
    view = gallery.seen.views[number]
    changes = [(tile, change) for tile in gallery.tiles[number] if (change := gallery.change(view, tile)) is not None]
    if not changes:
        return None
    figure, panels, bar = _panels(1, len(changes), max(_ratio(tile) for tile, _ in changes))
    for axes, (tile, change) in zip(panels, changes, strict=True):
        axes.set_axis_off()
        show_change(axes, gallery, tile, change)
        axes.set_title(f"{tile.label}: {_points(change)}", fontsize=8.5)
    _change_bar(figure, gallery, bar)
    return figure


def share_figure(gallery: Gallery) -> Figure:
    """The curves alone."""
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    share_axes(figure.subplots(), gallery)
    return figure


def _panels(rows: int, columns: int, height: float) -> tuple[Figure, list[Any], Any]:
    """A figure of tiles with so much height for their width; their axes, and those of a colour bar below."""
    heights = [TILE * height] * rows + [_BAR]
    figure = Figure(figsize=(TILE * columns, sum(heights) + 0.32 * rows + 0.6), layout="constrained")
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=heights)
    tiles = [figure.add_subplot(grid[row, column]) for row in range(rows) for column in range(columns)]
    return figure, tiles, figure.add_subplot(grid[rows, :])


def share_axes(axes: Any, gallery: Gallery) -> None:
    """The image's share of the row by layer, mean over heads, a curve for each view."""
    for number, view in enumerate(gallery.seen.views):
        colour, line = LINES[number % len(LINES)]
        marker = "" if number < len(LINES) else "ovs^D"[number // len(LINES) % 5]
        # Below the others, but wider: where a method changes nothing both are seen.
        look = {"linewidth": 4.5, "alpha": 0.5} if number == 0 else {"marker": marker, "markersize": 4}
        axes.plot(view.by_layer, color=colour, linestyle=line, label=view.method, **look)
    axes.grid(True)
    axes.set(xlabel="layer", ylabel="share of the row on\nimage tokens", ylim=(0, None))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.legend(ncols=2)


def show_heat(axes: Any, gallery: Gallery, view: MethodView, tile: Tile) -> None:
    """A tile's picture, grey, with the weights shining through; dropped tokens are hatched, crops outlined."""
    heat = gallery.heat(view, tile)
    alpha = _alpha(heat, gallery.top)
    _lay_over(axes, tile, heat, alpha, cmap=HEAT, vmin=0, vmax=gallery.top)
    gone = view.dropped(gallery.layer)[tile.view.tokens]
    left, top, right, bottom = tile.view.box
    across, down = (right - left) / gone.shape[1], (bottom - top) / gone.shape[0]
    cells = [Rectangle((left + x * across, top + y * down), across, down) for y, x in np.argwhere(gone).tolist()]
    axes.add_collection(
        PatchCollection(cells, facecolor="0.93", edgecolor="0.65", hatch="////", linewidth=0, alpha=0.9)
    )
    for x0, y0, x1, y1 in tile.boxes:
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=SKY, linewidth=1.6))


def show_change(axes: Any, gallery: Gallery, tile: Tile, change: Array) -> None:
    """A tile's picture, grey, with what a method changes."""
    alpha = _alpha(np.abs(change), gallery.widest)
    _lay_over(axes, tile, change, alpha, cmap=CHANGE, vmin=-gallery.widest, vmax=gallery.widest)


def _alpha(values: Array, top: float) -> Array:
    """How opaque cells are: small values let the picture through."""
    return np.asarray(0.9 * np.clip(values / top, 0, 1) ** 0.7)


def _lay_over(axes: Any, tile: Tile, values: Array, alpha: Array, **colours: Any) -> None:
    picture = tile.picture
    axes.imshow(picture.convert("L"), extent=(0, picture.width, picture.height, 0), cmap="gray", vmin=-200, vmax=255)
    left, top, right, bottom = tile.view.box
    axes.imshow(values, extent=(left, right, bottom, top), alpha=alpha, interpolation="nearest", **colours)
    left, right, top, bottom = _extent(tile)
    axes.set(xlim=(left, right), ylim=(bottom, top))


def _heat_bar(figure: Figure, gallery: Gallery, axes: Any) -> None:
    """The scale of all overlays; pointed where values lie beyond it."""
    scale = ScalarMappable(Normalize(0, gallery.top), HEAT)
    figure.colorbar(
        scale, cax=axes, orientation="horizontal", extend="max", ticks=MaxNLocator(4), label=f"weight, {gallery.what}"
    )


def _change_bar(figure: Figure, gallery: Gallery, axes: Any) -> None:
    """The scale of all changes, likewise."""
    scale = ScalarMappable(Normalize(-gallery.widest, gallery.widest), CHANGE)
    figure.colorbar(
        scale,
        cax=axes,
        orientation="horizontal",
        extend="both",
        ticks=MaxNLocator(4),
        label="its change: orange is more",
    )


def _extent(tile: Tile) -> tuple[float, float, float, float]:
    """Left, right, top and bottom of what picture and grid cover together."""
    left, top, right, bottom = tile.view.box
    return min(0, left), max(tile.picture.width, right), min(0, top), max(tile.picture.height, bottom)


def _ratio(tile: Tile) -> float:
    left, right, top, bottom = _extent(tile)
    return min((bottom - top) / (right - left), 2)


def _plain(text: str) -> str:
    """Text in which nothing is mathematics."""
    return text.replace("$", r"\$")
