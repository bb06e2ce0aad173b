"""`sinkbench bench`: how fast a model answers under each method."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sinkbench.cli import options

if TYPE_CHECKING:
    from sinkbench.bench.settings import Settings

SIZES = "Sizes"
PARTS = "What else to measure"

Files = Annotated[
    list[Path] | None, typer.Argument(help="Records that --show prints.", metavar="[FILE]...", show_default=False)
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="random (made on the device, nothing is downloaded) or real. Default: random.",
        rich_help_panel=options.WHAT,
        metavar="KIND",
    ),
]
Workloads = Annotated[
    list[str] | None,
    typer.Option(
        "--workload",
        "-w",
        help="pope, caption, mixed, inspect, or none; repeat it or separate by commas. Default: pope,caption,mixed.",
        rich_help_panel=options.WHAT,
        metavar="NAME",
    ),
]
Baseline = Annotated[
    bool, typer.Option("--baseline/--no-baseline", help="Plain transformers beside it.", rich_help_panel=PARTS)
]
Prune = Annotated[
    str | None,
    typer.Option(
        "--prune",
        help="Methods that drop image tokens, at these budgets: shares or counts, such as 0.5,0.25 or 192,64.",
        rich_help_panel=PARTS,
        metavar="KEEP,...",
    ),
]
Growth = Annotated[
    bool, typer.Option("--growth", help="Time against questions, image and new tokens.", rich_help_panel=PARTS)
]
EndToEnd = Annotated[
    int | None,
    typer.Option("--end-to-end", min=1, help="From N JPEG files on disk.", rich_help_panel=PARTS, metavar="N"),
]
Flips = Annotated[
    int | None,
    typer.Option(
        "--flips",
        min=1,
        help="Answers that differ between batch 32 and 1: N Scenes questions of each kind, real weights.",
        rich_help_panel=PARTS,
        metavar="N",
    ),
]
CaptionBatches = Annotated[
    str | None,
    typer.Option("--caption-batch-size", help="Default: 128,1.", rich_help_panel=SIZES, metavar="N,..."),
]
Images = Annotated[
    int | None,
    typer.Option("--images", min=1, help="Of pope and mixed. Default: 64.", rich_help_panel=SIZES, metavar="N"),
]
ImageSize = Annotated[
    str | None,
    typer.Option("--image-size", help="Of images, in pixels. Default: 640x480.", rich_help_panel=SIZES, metavar="WxH"),
]
Questions = Annotated[
    int | None,
    typer.Option("--questions", min=1, help="On each image. Default: 18.", rich_help_panel=SIZES, metavar="N"),
]
NewTokens = Annotated[
    int | None,
    typer.Option("--new-tokens", min=1, help="Of a caption. Default: 512.", rich_help_panel=SIZES, metavar="N"),
]
Repeats = Annotated[
    int | None,
    typer.Option("--repeats", min=1, help="Of a measurement, at most. Default: 3.", rich_help_panel=SIZES, metavar="N"),
]
RowSeconds = Annotated[
    float | None,
    typer.Option(
        "--row-seconds",
        min=0,
        help="No repeat begins that would end later. Default: 10.",
        rich_help_panel=SIZES,
        metavar="S",
    ),
]
Quick = Annotated[bool, typer.Option("--quick", help="Small sizes: does everything work?", rich_help_panel=SIZES)]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="JSON file, such as results/bench/NAME.json; rewritten after each entry.",
        rich_help_panel=options.FILES,
        metavar="FILE",
    ),
]
Show = Annotated[
    bool, typer.Option("--show", help="Print the tables of FILE... and measure nothing.", rich_help_panel=options.FILES)
]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print tables as Markdown.", rich_help_panel=options.FILES)]


def bench(
    files: Files = None,
    model: options.Model = None,
    weights: Weights = None,
    method: options.Methods = None,
    assignments: options.Parameters = None,
    workload: Workloads = None,
    baseline: Baseline = True,
    prune: Prune = None,
    growth: Growth = False,
    end_to_end: EndToEnd = None,
    flips: Flips = None,
    batch_size: options.BatchSize = None,
    caption_batch_size: CaptionBatches = None,
    images: Images = None,
    image_size: ImageSize = None,
    questions: Questions = None,
    new_tokens: NewTokens = None,
    repeats: Repeats = None,
    row_seconds: RowSeconds = None,
    quick: Quick = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    seed: options.Seed = None,
    output: Output = None,
    show: Show = False,
    markdown: Markdown = False,
) -> None:
    """Measure answers a second, tokens a second and memory under each method, beside plain transformers.

    The model is a shape of configs/shapes/, a preset or a folder with a config.json. Its weights are random unless
    --weights real: speed does not depend on them. Without --method every method is measured.
    """
    from sinkbench.cli.assignments import parse_assignments
    from sinkbench.cli.console import message_console, quiet_libraries
    from sinkbench.errors import IncompleteError, UsageError

    if show or files:
        if not (show and files):
            raise UsageError(
                "--show and files belong together", "Write: sinkbench bench --show results/bench/NAME.json ..."
            )
        return _show(files, markdown)
    settings = _settings(
        {
            "model": model,
            "weights": weights,
            "methods": _names(method),
            "params": parse_assignments(assignments) if assignments else None,
            "workloads": _names(workload),
            "batch_size": _batch_size(batch_size),
            "caption_batches": _sizes("--caption-batch-size", caption_batch_size),
            "images": images,
            "image_size": _width_height(image_size),
            "questions": questions,
            "new_tokens": new_tokens,
            "repeats": repeats,
            "row_seconds": row_seconds,
            "baseline": baseline,
            "prune": _budgets(prune),
            "growth": growth,
            "end_to_end": end_to_end,
            "flips": flips,
            "device": device,
            "dtype": dtype,
            "seed": seed,
        },
        quick,
    )
    settings.check()
    quiet_libraries()
    from sinkbench.bench.suite import run

    messages = message_console()
    record = run(settings, output, lambda line: messages.print(line, highlight=False, markup=False))
    _print(record, markdown)
    if output:
        typer.echo(f"written: {output}")
    broken = [row for row in record["rows"] + record["baselines"] + record["inspection"] if row.get("broken")]
    if broken:
        raise IncompleteError(
            f"{len(broken)} measurements failed; for example {broken[0]['method']}: {broken[0]['error']}",
            "The tracebacks are above; everything else was measured.",
        )


def _settings(given: dict[str, Any], quick: bool) -> "Settings":
    from sinkbench.bench.settings import Settings, variant_names
    from sinkbench.bench.shapes import shape_names
    from sinkbench.errors import UsageError

    given = {key: value for key, value in given.items() if value is not None}
    if "model" not in given:
        raise UsageError(
            "no model is given", f"Add --model NAME: {', '.join(shape_names())}, a preset, or a local folder."
        )
    if given.get("workloads") == ("none",):
        given["workloads"] = ()
    settings = Settings(**{"methods": tuple(variant_names()), **given})
    return settings.quick() if quick else settings


def _names(items: list[str] | None) -> tuple[str, ...] | None:
    names = tuple(name.strip() for item in items or [] for name in item.split(",") if name.strip())
    return names or None


def _batch_size(text: str | None) -> int | str | None:
    return text if text in (None, "auto") else _sizes("--batch-size", text)[0]  # type: ignore[index]


def _sizes(option: str, text: str | None) -> tuple[int, ...] | None:
    from sinkbench.errors import UsageError

    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"{option} {text!r}: not a number of samples", f"Write for example {option} 64.")
    return tuple(map(int, parts))


def _width_height(text: str | None) -> tuple[int, int] | None:
    from sinkbench.errors import UsageError

    if text is None:
        return None
    width, times, height = text.lower().partition("x")
    if not (times and width.isdigit() and height.isdigit()):
        raise UsageError(f"--image-size {text!r}: not a width and a height", "Write for example --image-size 672x672.")
    return int(width), int(height)


def _budgets(text: str | None) -> tuple[float, ...] | None:
    from sinkbench.errors import UsageError

    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--prune {text!r}: not a list of budgets", "Write for example --prune 0.5,0.25.") from error


def _show(files: list[Path], markdown: bool) -> None:
    from sinkbench.bench.record import read_record

    for record in [read_record(file) for file in files]:
        _print(record, markdown)


def _print(record: dict[str, Any], markdown: bool) -> None:
    from sinkbench.bench.tables import grids
    from sinkbench.cli.console import output_console

    console = output_console()
    for grid in grids(record):
        if markdown:
            typer.echo(grid.markdown())
        else:
            console.print(grid.rich())
