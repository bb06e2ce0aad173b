"""Findings of `sinkbench inspect model` as tables."""

from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from sinkbench.cli.console import output_console

COLUMNS = {
    "alpha_first": "first",
    "image_ratio": "image",
    "image_entropy": "entropy",
    "output_drain": "drain",
    "logit_gap": "gap",
    "row_entropy": "rows",
    "visual_sinks": "sinks",
    "portion": "on sinks",
    "head_divergence": "VHD",
}
"""What the table by layers shows, of what there is: attention received by the first token, the last row's attention to
the image and its entropy, the primary sink's value norm over the others', its score above the others', the entropy of
rows, visual sinks, the share of the attention to the image on them, vision-aware head divergence."""

OF_IMAGES = ("image_ratio", "image_entropy", "visual_sinks", "portion", "head_divergence")
"""What says nothing without an image."""


def show_document(document: dict[str, Any], folder: Path) -> None:
    """Print a document's parts, and where the files are."""
    console = output_console()
    for part in document["parts"]:
        console.print(_sinks(document, part))
        console.print(_layers(part))
        for line in _lines(part):
            console.print(line)
    console.print(f"Written to {folder}/: inspect.json, arrays by layer and head (.npz) and pictures.")


def _sinks(document: dict[str, Any], part: dict[str, Any]) -> Table:
    samples = part["samples"]
    title = f"{document['model']['name']} × {part['name']}: heads with a sink, %"
    table = Table(title=title, caption=f"{samples['n']} samples of {samples['tokens']['mean']:g} tokens")
    table.add_column("at")
    names = {"first": "the first token"}
    if samples["image_tokens"]["max"]:
        names["image_max"] = "some image token"
    for eps in part["sink_metric"]["first"]:
        table.add_column(f"ε = {eps}", justify="right")
    for key, name in names.items():
        rates = part["sink_metric"][key].values()
        table.add_row(name, *(f"{rate['mean']:.1f} [{rate['low']:.1f}, {rate['high']:.1f}]" for rate in rates))
    return table


def _layers(part: dict[str, Any]) -> Table:
    table = Table(title="By layer, mean over heads and samples", box=None, padding=(0, 1))
    table.add_column("layer", justify="right")
    table.add_column("|h|", justify="right")
    table.add_column("dim", justify="right")
    hidden = () if part["samples"]["image_tokens"]["max"] else OF_IMAGES
    shown = {name: part["layers"][name]["mean"] for name in COLUMNS if name in part["layers"] and name not in hidden}
    shown = {name: values for name, values in shown.items() if any(value is not None for value in values)}
    for name in shown:
        table.add_column(COLUMNS[name], justify="right")
    for layer, top in enumerate(part["massive"]["top"][:-1]):
        cells = ["" if values[layer] is None else f"{values[layer]:.2f}" for values in shown.values()]
        table.add_row(str(layer), f"{top['magnitude']:.0f}", str(top["dim"]), *cells)
    return table


def _lines(part: dict[str, Any]) -> list[str]:
    lines = [f"Massive dimensions (|h| > 100 and 1000 × the median): {part['massive']['dims'] or 'none'}."]
    tokens = part["secondary"]["tokens"]
    if tokens:
        found = ", ".join(f"{one['token']!r} ({one['times']} times, layers {one['start']:g}+)" for one in tokens[:5])
        lines.append(f"Secondary sinks, {part['secondary']['per_sample']:g} a sample: {found}.")
    if not part["sinks"]["dims"]:
        lines.append(
            "No sink dimensions are known, so no visual sinks either: `sinkbench inspect sink-dims` finds some."
        )
    if "recency" in part:
        first, last = part["recency"]["kappa"][0], part["recency"]["kappa"][-1]
        lines.append(
            f"Trend over the image exp(κx), x from 0 to 1: κ {first:.2f} in the first layer, {last:.2f} in the last."
        )
    if "domains" in part:
        top = part["domains"]["top"][0]
        lines.append(
            f"Most dormant on blank images: layer {top['layer']} head {top['head']}, "
            f"{top['blank']:.2f} on the first token against {top['shown']:.2f}."
        )
    return lines


def show_before_after(shown: dict[str, Any]) -> None:
    """Print the answers without and with methods, and the heads that changed most."""
    console = output_console()
    console.print(_answers(shown))
    for view in shown["views"][1:]:
        if view["most_changed"]:
            console.print(_changed_heads(view))


def _answers(shown: dict[str, Any]) -> Table:
    table = Table(title=f"Without and with methods, at {shown['row']}")
    for column in ("method", "answer", "note"):
        table.add_column(column, overflow="fold")
    table.add_column("on image", justify="right")
    for view in shown["views"]:
        share = sum(view["image_share"]) / len(view["image_share"])
        table.add_row(Text(view["method"]), Text(view["answer"]), view["note"], f"{100 * share:.1f} %")
    return table


def _changed_heads(view: dict[str, Any]) -> Table:
    table = Table(title=f"{view['method']}: the most changed heads, share of the row on image tokens in percent")
    for column in ("layer", "head", "before", "after", "change"):
        table.add_column(column, justify="right")
    for head in view["most_changed"]:
        before, after = 100 * head["before"], 100 * head["after"]
        table.add_row(str(head["layer"]), str(head["head"]), f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}")
    return table
