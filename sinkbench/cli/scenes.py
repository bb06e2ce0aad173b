"""`sinkbench scenes`: make evaluation data that nobody has seen."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The embedded data set: fresh scenes with annotations and task rows.", no_args_is_help=True)


@app.callback()
def scenes() -> None:
    """Keep `render` a sub-command, although it is the only one so far."""


@app.command()
def render(
    seed: Annotated[int, typer.Option("--seed", help="Decides every scene, with the split.", metavar="S")],
    n: Annotated[int, typer.Option("--n", help="Number of images.", metavar="N")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; empty or absent.", metavar="DIR")],
    split: Annotated[str, typer.Option(help="val, test, or train (the scenes models learn from).")] = "val",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Replace the data set that DIR holds.")] = False,
) -> None:
    """Render N scenes with COCO annotations, captions and the rows of every scenes task.

    Evaluate on them with `sinkbench eval --task scenes_pope --data-dir DIR`.
    """
    from rich.console import Console
    from rich.progress import Progress

    from sinkbench.scenes.dataset import write_dataset

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("Rendering", total=max(n, 0))
        about = write_dataset(
            out, seed, n, split, device=device, force=force, progress=lambda done: bar.advance(task, done)
        )
    typer.echo(f"{about['n_images']} images in {out} (split {split}, seed {seed}, {about['fingerprint'][:12]})")
