"""Pictures of what was found in a model: heads, hidden states, attention, sinks and recency, a PNG each."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from sinkbench.diagnostics.recency import RecencyCurve, fit_trend
from sinkbench.diagnostics.summary import summarise
from sinkbench.inspection.collect import Findings, Secondary

Array = NDArray[Any]

WIDTH = 8.0
"""Inches: with `DPI`, about the width of a page of documentation."""

DPI = 110
PALETTE = 256

STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "image.cmap": "viridis",
}

BLUE, ORANGE, GREEN, PINK, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#555555"
"""From Okabe and Ito's palette, told apart by colour-blind readers; images are orange throughout."""

HEAD_MAPS = {
    "alpha_first": ("attention received\nby the first token", 1.0),
    "image_ratio": ("last row's attention\nto the image", None),
    "portion": ("share of it\non visual sinks", 1.0),
    "output_drain": ("sink's output norm\n/ others' median", None),
    "head_divergence": ("output's change\nwithout image (VHD)", None),
}
"""Title and upper end of the colour scale; None: as far as the values reach."""

STATE_CURVES = {
    "norm_primary": ("‖h‖ of the primary sink", BLUE, "-"),
    "largest_first": ("largest |h| at the first token", ORANGE, "-"),
    "top_value": ("largest |h| of all tokens", GREEN, "--"),
    "median": ("median |h|", GREY, "-"),
}
"""Label, colour and line."""

LOOK_CURVES = {
    "look_first": ("first token", BLUE),
    "look_image": ("image", ORANGE),
    "look_query": ("query", GREEN),
    "look_template": ("template", PINK),
}

LABELLED_RUN = 3
"""Successive hidden states with the same largest dimension that are worth a label."""

TIMELINE = 12
"""Most tokens in the timeline of secondary sinks."""

RECENCY_LAYERS = 6


def draw_model(findings: Findings, title: str, folder: Path) -> list[Path]:
    """Draw a model's pictures; those that need what a model lacks are left out.

    Args:
        findings: Of one model.
        title: Printed above each picture.
        folder: Where the PNGs go; made if it is not there.

    Returns:
        The files.
    """
    pictures: dict[str, Callable[[Findings], Figure | None]] = {
        "heads": heads_figure,
        "states": states_figure,
        "attention": attention_figure,
        "sinks": sinks_figure,
        "recency": recency_figure,
    }
    paths = []
    with matplotlib.rc_context(STYLE):
        for name, draw in pictures.items():
            figure = draw(findings)
            if figure is not None:
                paths.append(save(figure, title, folder / f"{name}.png"))
    return paths


def save(figure: Figure, title: str, path: Path) -> Path:
    """Write a figure under a title, in so many colours that the file stays small."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.suptitle(title, fontsize=10.5, fontweight="bold")
    drawn = BytesIO()
    figure.savefig(drawn, dpi=DPI)
    Image.open(drawn).convert("RGB").quantize(PALETTE).save(path, optimize=True)
    return path


def heads_figure(findings: Findings) -> Figure:
    """Heat maps of layers (downwards) and heads, means over samples; grey where no sample has a value."""
    images = max(findings.image_tokens) > 0
    skipped = set() if images else {"image_ratio", "portion", "head_divergence"}
    maps = {name: findings.layers[name] for name in HEAD_MAPS if name in findings.layers and name not in skipped}
    n_layers = next(iter(maps.values())).shape[1]
    figure = Figure(figsize=(WIDTH, 1.6 + 0.09 * max(n_layers, 16)), layout="constrained")
    panels = figure.subplots(1, len(maps), sharey=True, squeeze=False)[0]
    for axes, (name, values) in zip(panels, maps.items(), strict=True):
        label, top = HEAD_MAPS[name]
        heat = axes.imshow(mean(values), aspect="auto", interpolation="nearest", vmin=0, vmax=top)
        axes.set(title=label, xlabel="head")
        axes.grid(False)
        axes.set_facecolor("0.85")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator("auto", integer=True))
        figure.colorbar(heat, ax=axes, location="bottom", shrink=0.9, pad=0.02)
    panels[0].set_ylabel("layer")
    return figure


def states_figure(findings: Findings) -> Figure:
    """Magnitudes in the hidden states on a logarithmic scale, with the dimension that is largest over a run of them."""
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    states = dict(findings.states)
    states["top_value"], top_dim = np.abs(states["top_value"][..., 0]), states["top_dim"][..., 0]
    for name, (label, colour, line) in STATE_CURVES.items():
        band(axes, states[name], label, colour, line)
    peak = mean(states["top_value"])
    runs = [run for run in plateaus(top_dim) if run[1] - run[0] >= LABELLED_RUN]
    for first, end, dim in sorted(runs, key=lambda run: -peak[run[0] : run[1]].max())[:3]:
        height = 2.2 * max(peak[first:end].max(), mean(states["norm_primary"])[first:end].max())
        axes.plot([first, end - 1], [height, height], color="0.3", linewidth=1, marker="|")
        axes.text((first + end - 1) / 2, height * 1.15, f"dimension {dim}", ha="center", va="bottom", color="0.2")
    axes.set(xlabel="hidden state (0: embeddings)", ylabel="magnitude", yscale="log")
    axes.margins(y=0.12)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def attention_figure(findings: Findings) -> Figure:
    """The last row's attention to kinds of tokens, mean over heads with 95 % intervals, and its entropy."""
    images = max(findings.image_tokens) > 0
    figure = Figure(figsize=(WIDTH, 4.6 if images else 3.2), layout="constrained")
    ratios = [2.6, 1] if images else [1]
    panels = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
    for name, (label, colour) in LOOK_CURVES.items():
        if label != "image" or images:
            band(panels[0], findings.layers[name].mean(-1), label, colour)
    panels[0].set(ylabel="attention of the last row", ylim=(0, None))
    panels[0].legend(loc="upper left", bbox_to_anchor=(1, 1), title="on")
    if images:
        band(panels[1], findings.layers["image_entropy"], "", ORANGE)
        panels[1].set_ylabel("entropy\nover the image")
    label_layers(panels[-1])
    return figure


def sinks_figure(findings: Findings) -> Figure | None:
    """Visual sinks by layer, and when tokens follow the primary sink; None where neither is known."""
    visual = max(findings.image_tokens) > 0 and "visual_sinks" in findings.layers
    found = timeline(findings.secondary, findings.layers["alpha_first"].shape[1])
    if not visual and not found:
        return None
    curves = list(_visual_curves(findings.layers)) if visual else []
    rows = [1.0] * bool(curves) + [0.5 + 0.1 * len(found)] * bool(found)
    figure = Figure(figsize=(WIDTH, 0.9 + 2.2 * sum(rows)), layout="constrained")
    parts = figure.subfigures(len(rows), 1, height_ratios=rows, squeeze=False)[:, 0]
    if curves:
        panels = parts[0].subplots(1, len(curves), squeeze=False)[0]
        for axes, (label, series) in zip(panels, curves, strict=True):
            for name, (values, colour) in series.items():
                band(axes, values, name, colour)
            axes.set(title=label, xlim=(-0.5, findings.layers["visual_sinks"].shape[1] - 0.5), ylim=(0, None))
            label_layers(axes)
        panels[0].legend()
    if found:
        _draw_timeline(parts[-1], found)
    return figure


def recency_figure(findings: Findings) -> Figure | None:
    """The last row's attention over the image in reading order, with its exponential trend; None without images."""
    if findings.recency is None:
        return None
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    panels = figure.subplots(2, RECENCY_LAYERS // 2, sharex=True, sharey=True)
    _draw_recency(panels.flat, findings.recency)
    for axes in panels[-1]:
        axes.set_xlabel("relative position in the image")
    figure.supylabel("attention × image tokens", fontsize=9)
    return figure


def timeline(found: Iterable[Secondary], n_layers: int) -> dict[str, Array]:
    """When tokens follow the primary sink, of the texts that do so most often, most frequent first.

    Returns:
        By text and number of cases (L,), the share of the cases that hold in each layer; a token holds from its first
        layer on for as many layers as it lives.
    """
    cases: defaultdict[str, list[Secondary]] = defaultdict(list)
    for one in found:
        cases[one.token].append(one)
    layers = np.arange(n_layers)
    often = sorted(cases.items(), key=lambda item: -len(item[1]))[:TIMELINE]
    return {
        f"{text!r} ×{len(ones)}": np.mean([(layers >= c.start) & (layers < c.start + c.lifetime) for c in ones], axis=0)
        for text, ones in often
    }


def plateaus(dims: Array) -> Iterator[tuple[int, int, int]]:
    """Runs of hidden states whose largest entry lies in one dimension in most samples.

    Args:
        dims: (N, S) the dimension of the largest entry.

    Yields:
        First state, end, and dimension.
    """
    modes = [Counter(column.astype(int).tolist()).most_common(1)[0] for column in dims.T]
    agreed = [dim if count * 2 > len(dims) else None for dim, count in modes]
    for dim, run in groupby(range(len(agreed)), key=lambda index: agreed[index]):
        states = list(run)
        if dim is not None:
            yield states[0], states[-1] + 1, dim


def mean(values: Array) -> Any:
    """Mean over samples (N, …), masked where none has a value."""
    return np.ma.masked_invalid(values).mean(0)


def band(axes: Any, values: Array, label: str, colour: str, line: str = "-") -> None:
    """Draw the mean (S,) of values (N, S) over samples, and the 95 % bootstrap interval around it."""
    found = summarise(values)
    x = np.arange(len(found.mean))
    axes.plot(x, found.mean, color=colour, label=label, linestyle=line)
    axes.fill_between(x, found.low, found.high, color=colour, alpha=0.2, linewidth=0)


def label_layers(axes: Any) -> None:
    """Name the axis of layers, with whole numbers on it."""
    axes.set_xlabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))


def _visual_curves(layers: dict[str, Array]) -> Iterator[tuple[str, dict[str, tuple[Array, str]]]]:
    """Title, and by label the values (N, L) and the colour."""
    counts = {"image": (layers["visual_sinks"], ORANGE), "text": (layers["text_sinks"], GREEN)}
    yield "sink tokens in", counts
    if not np.isnan(layers["visual_persistence"]).all():
        yield "visual sinks against the layer before\n(Jaccard index)", {"": (layers["visual_persistence"], ORANGE)}
    if "portion" in layers:
        yield "share of the attention to the image\non visual sinks", {"": (layers["portion"].mean(-1), ORANGE)}


def _draw_timeline(part: Any, found: dict[str, Array]) -> None:
    axes = part.subplots()
    shares = np.ma.masked_equal(np.stack(list(found.values())), 0)
    heat = axes.imshow(shares, aspect="auto", interpolation="nearest", vmin=0, vmax=1)
    axes.set_yticks(range(len(found)), found.keys())
    axes.set_title("layers behind which tokens point along the primary sink")
    axes.grid(False)
    label_layers(axes)
    part.colorbar(heat, ax=axes, label="share of\ncases")


def _draw_recency(panels: Iterable[Any], recency: RecencyCurve) -> None:
    curve = recency.curve()
    trend, position = fit_trend(curve), curve.position.numpy()
    n_layers = len(curve.density)
    chosen = np.unique(np.linspace(0, n_layers - 1, RECENCY_LAYERS).round().astype(int)).tolist()
    for axes, layer in zip(panels, chosen, strict=False):
        scale, kappa, r2 = (float(values[layer]) for values in trend)
        axes.plot(position, curve.density[layer].numpy(), color=ORANGE, linewidth=0.8)
        axes.plot(position, scale * np.exp(kappa * position), color="0.1", linestyle="--")
        axes.set(title=f"layer {layer}: κ = {kappa:.2f}, R² = {r2:.2f}", yscale="log")
