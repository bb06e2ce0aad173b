"""Options that several commands share, each written once."""

from pathlib import Path
from typing import Annotated

import typer

WHAT = "What to run"
HOW = "How answers are generated"
WHERE = "Where it runs"
FILES = "Files"

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Preset, local folder or hub id; several: separate by commas.",
        rich_help_panel=WHAT,
        metavar="NAME",
    ),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        "-M",
        help="Method, a+b to compose, or all; several: repeat it or separate by commas. Default: greedy.",
        rich_help_panel=WHAT,
        metavar="NAME",
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task", "-t", help="Task; several: repeat it or separate by commas.", rich_help_panel=WHAT, metavar="NAME"
    ),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="A method's (or task's) parameter, repeatable.",
        rich_help_panel=WHAT,
        metavar="METHOD.PARAM=VALUE",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", "-L", min=1, help="Answer only the first N samples.", rich_help_panel=WHAT, metavar="N"),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option("--max-new-tokens", min=1, help="Instead of the task's own bound.", rich_help_panel=HOW, metavar="N"),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", help="For sampling and random controls. Default: 0.", rich_help_panel=HOW, metavar="S"),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="auto (float32 on a CPU, the model's own on a GPU), float32, bfloat16 or float16.",
        rich_help_panel=HOW,
        metavar="TYPE",
    ),
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="auto, cpu, cuda or cuda:1.", rich_help_panel=WHERE, metavar="DEVICE"),
]
BatchSize = Annotated[
    str | None,
    typer.Option(
        "--batch-size",
        "-b",
        help="Most samples a batch. Default: auto, what the free memory holds (at most 576 on a GPU, 54 on a CPU).",
        rich_help_panel=WHERE,
        metavar="N",
    ),
]
NoShare = Annotated[
    bool,
    typer.Option(
        "--no-share",
        help="Prefill every question by itself and each method alone; slower, for checking.",
        rich_help_panel=WHERE,
    ),
]
Stage = Annotated[
    str | None,
    typer.Option(
        "--stage",
        help="prepare, answer (needs neither lm-eval nor datasets), score, or all.",
        rich_help_panel=WHERE,
        metavar="STAGE",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="YAML file of settings; flags go on top.", rich_help_panel=FILES, metavar="FILE"
    ),
]
Scale = Annotated[
    str,
    typer.Option(
        "--scale",
        help="Of a file of configs/papers: full (the paper's models and tasks) or tiny (its tiny section on top).",
        rich_help_panel=FILES,
        metavar="SCALE",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="Folder for run directories. Default: runs.", rich_help_panel=FILES, metavar="DIR"
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Folder with the task's data.", rich_help_panel=FILES, metavar="DIR"),
]
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Forget what an earlier run of the same id left.", rich_help_panel=FILES),
]
