"""Pictures of calibrations."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sinkbench.inspection.pictures import BLUE, GREEN, GREY, ORANGE, PINK, STYLE, WIDTH, save

LINES = {
    "visual": ("image", ORANGE, "-"),
    "visual_before": ("image before the object", ORANGE, ":"),
    "visual_object": ("object in the image", ORANGE, "-"),
    "visual_after": ("image after the object", ORANGE, "--"),
    "text": ("text", GREEN, "-"),
    "text_early": ("text before its name", GREEN, ":"),
    "text_object": ("its name", PINK, "-"),
    "text_late": ("text after it", GREEN, "--"),
    "last": ("last token", BLUE, "-"),
}
"""Label, colour and line of each token category."""

TITLES = {"attn": "attention", "mlp": "MLP", "block": "layer's output"}


def draw_recovery(curves: Mapping[str, Mapping[str, Sequence[float]]], title: str, path: Path) -> Path:
    """Draw recovery rates by layer, a panel a part and a line a token category.

    Args:
        curves: By part and category, a rate for each layer.
        title: Printed above.
        path: The PNG.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        panels = figure.subplots(1, len(curves), squeeze=False)[0]
        for axes, (part, by_category) in zip(panels, curves.items(), strict=True):
            for name, rates in by_category.items():
                label, colour, line = LINES[name]
                axes.plot(range(len(rates)), rates, line, color=colour, label=label)
            axes.axhline(0, color=GREY, linewidth=0.6)
            axes.set(title=TITLES[part], xlabel="layer")
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        panels[0].set_ylabel("recovery rate")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        return save(figure, title, path)
