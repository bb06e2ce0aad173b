"""`sinkbench inspect`: look inside a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sinkbench.inspection.prompts import PROMPTS

if TYPE_CHECKING:
    from sinkbench.adapters.presets import ModelPreset
    from sinkbench.diagnostics.sink_dims import SinkDims
    from sinkbench.inspection.compared import Comparison

app = typer.Typer(help="Look inside a model.", no_args_is_help=True)


@app.command("model")
def model_(
    model: Annotated[str, typer.Option("--model", "-m", help="Preset, local folder, GGUF file or hub id.")],
    task: Annotated[list[str] | None, typer.Option("--task", "-t", help="Task whose questions are asked.")] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="Text without images or template: natural, random or repeated tokens."),
    ] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", help="Text file with a sequence a line.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-L", min=1, help="Questions of a task.")] = 64,
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Tokens of a text sequence.")] = 64,
    count: Annotated[int, typer.Option("--count", min=1, help="Text sequences of a kind.")] = 100,
    new_tokens: Annotated[int, typer.Option("--new-tokens", min=0, help="Tokens of each answer to look at.")] = 8,
    blank: Annotated[bool, typer.Option("--blank", help="Also blank images: which heads rest then?")] = False,
    vhd: Annotated[bool, typer.Option("--vhd", help="Also without images: vision-aware head divergence.")] = False,
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="Draw PNGs.")] = True,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Folder with the tasks' data.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16, float16.")] = "auto",
    batch_size: Annotated[int | None, typer.Option("--batch-size", "-b", min=1, help="Default: automatic.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of random text.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write. Default: runs/inspect/MODEL.")
    ] = None,
) -> None:
    """Measure sinks, massive activations, secondary and visual sinks, and where attention goes.

    Writes inspect.json, arrays by layer and head (.npz) and pictures. Several tasks and texts become parts of one
    document.
    """
    from sinkbench.cli.console import quiet_libraries

    quiet_libraries()
    from sinkbench.cli.inspect_tables import show_document
    from sinkbench.inspection.run import Settings, inspect_model

    settings = Settings(
        model=model,
        tasks=_split(task),
        texts=_split(text),
        lines=prompts,
        output=output or Path("runs") / "inspect" / Path(model).name,
        limit=limit,
        tokens=tokens,
        count=count,
        new_tokens=new_tokens,
        blank=blank,
        head_divergence=vhd,
        data_dir=data_dir,
        pictures=pictures,
        device=device,
        dtype=dtype,
        batch_size=batch_size or "auto",
        seed=seed,
    )
    document = inspect_model(settings, lambda line: typer.echo(line, err=True))
    show_document(document, settings.output)


def _split(values: list[str] | None) -> tuple[str, ...]:
    return tuple(name for value in values or () for name in value.split(",") if name)


@app.command("sample")
def sample_(
    model: Annotated[str, typer.Option("--model", "-m", help="Preset, local folder or hub id.")],
    image: Annotated[Path | None, typer.Option("--image", "-i", help="Image file.")] = None,
    question: Annotated[str, typer.Option("--question", "-q", help="Asked about the image.")] = PROMPTS[3],
    task: Annotated[str | None, typer.Option("--task", "-t", help="Instead: a question of this task.")] = None,
    index: Annotated[int, typer.Option("--index", min=0, help="Which of the task's questions, from 0.")] = 0,
    id: Annotated[str | None, typer.Option("--id", help="The same by its id in samples.jsonl.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-M", help="Also shown with these methods, a+b composed; without is always shown."),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="A method's parameter, repeatable.", metavar="METHOD.PARAM=VALUE"),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option(
            "--step",
            min=0,
            help="With --method: the row of the N-th generated token, 0 the prompt's last. Default: 0, or where the "
            "methods edit later rows only the first of these.",
            metavar="N",
        ),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(
            "--layer",
            min=0,
            help="Whose heads are drawn. Default: which looks most; with --method the mean over layers.",
        ),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Folder with the task's data.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16, float16.")] = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write. Default: runs/inspect/MODEL-sample.")
    ] = None,
) -> None:
    """Draw where a model looks in one image, by layer and head, and mark its sink tokens.

    With --method also before and after: the answers and where they look without and with methods, side by side, as
    pictures, as a page (before_after.html) and as numbers by head (views.json).
    """
    from sinkbench.cli.console import output_console, quiet_libraries

    quiet_libraries()
    from sinkbench.cli.inspect_tables import show_before_after
    from sinkbench.inspection.sample import Question, inspect_sample

    folder = output or Path("runs") / "inspect" / f"{Path(model).name}-sample"
    asked = Question(image, question, task, index, data_dir, _checked_id(id, task, index))
    found = inspect_sample(
        model,
        asked,
        folder,
        lambda line: typer.echo(line, err=True),
        layer=layer,
        device=device,
        dtype=dtype,
        comparison=_comparison(_split(method), assignments or [], step),
    )
    console = output_console()
    console.print(f"{found['question']}\n→ {found['answer']}", markup=False)
    text = [row for row in found["sinks"] if not row["image"]]
    names = ", ".join(f"{row['token']!r} at {row['place']}" for row in text) or "none"
    console.print(f"Sinks: {len(found['sinks']) - len(text)} image tokens; text: {names}.", markup=False)
    written = ["sample.json", *found["pictures"]]
    if shown := found.get("before_after"):
        show_before_after(shown)
        written += [shown["page"], "views.json", *shown["pictures"]]
    console.print(f"Written to {folder}/: {', '.join(written)}.", markup=False)


def _checked_id(id: str | None, task: str | None, index: int) -> str | None:
    from sinkbench.errors import UsageError

    if id is not None and (task is None or index):
        raise UsageError(f"--id {id} is of a task's question, and stands for --index", "Give --task NAME --id ID.")
    return id


def _comparison(methods: tuple[str, ...], assignments: list[str], step: int | None) -> "Comparison | None":
    from sinkbench.cli.assignments import parse_assignments
    from sinkbench.errors import UsageError

    if not methods:
        if assignments or step is not None:
            raise UsageError("--set and --step are for --method", "For example: --method var --set var.tau=5.")
        return None
    from sinkbench.inspection.compared import Comparison

    return Comparison(methods, parse_assignments(assignments), step)


@app.command("sink-dims")
def sink_dims(
    model: Annotated[str, typer.Option("--model", "-m", help="Preset, local folder or hub id.")],
    tau: Annotated[float, typer.Option(help="Threshold on |x_k| / RMS(x); 0: 20, or less for narrow models.")] = 0.0,
    prompts: Annotated[Path | None, typer.Option(help="Text file with a prompt a line.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="YAML file for the entry of a preset.")] = None,
) -> None:
    """Find the dimensions with massive activations that `var` needs."""
    from sinkbench.cli.console import quiet_libraries

    quiet_libraries()
    from sinkbench.adapters import check_available, load_adapter, resolve_model
    from sinkbench.diagnostics.sink_dims import default_layers, default_tau, find_sink_dims
    from sinkbench.errors import UsageError
    from sinkbench.inspection.first_token import first_token_states, massive_evidence
    from sinkbench.request import Message, Request

    preset = resolve_model(model)
    if prompts is not None and not prompts.is_file():
        raise UsageError(f"--prompts {prompts} is no file", "Give a text file with one prompt a line.")
    texts = [line for line in prompts.read_text().splitlines() if line.strip()] if prompts else PROMPTS
    check_available(preset)
    adapter = load_adapter(preset, device, dtype)
    layers = default_layers(adapter.info.n_layers)
    requests = [Request(str(i), (Message("user", text),)) for i, text in enumerate(texts)]
    hidden = first_token_states(adapter, requests, layers)
    found = find_sink_dims(hidden, layers, tau or default_tau(adapter.info.hidden_size))
    report(preset, found, massive_evidence(adapter, requests), output)


def report(preset: "ModelPreset", found: "SinkDims", massive: dict[str, Any], output: Path | None) -> None:
    """Print the dimensions with their evidence, and the lines that a preset takes."""
    import yaml
    from rich.table import Table

    from sinkbench.cli.console import output_console

    table = Table(title=f"{preset.name}: |x_k| / RMS(x) of the first token, median of {found.n_prompts} prompts")
    table.add_column("layer", justify="right")
    for dim in found.dims:
        table.add_column(f"dimension {dim}", justify="right")
    for place, layer in enumerate(found.layers if found.dims else ()):
        table.add_row(str(layer), *(f"{found.ratios[dim][place]:.1f}" for dim in found.dims))
    console = output_console()
    if found.dims:
        console.print(table)
    console.print(f"tau {found.tau:g}; the strongest other dimension reaches {found.runner_up:g}.")
    if not found.dims:
        console.print("No dimension exceeds tau in most layers: no massive activations at the first token.")
    dims = massive["dims"]
    console.print(f"Massive in any token (|x| > 100 and 1000 times the median): {dims or 'no dimension'}.")
    entry: dict[str, Any] = {
        "sink_dims": {
            "dims": list(found.dims),
            "source": f"sinkbench inspect sink-dims --model {preset.name} --tau {found.tau:g}",
            "evidence": {
                "layers": list(found.layers),
                "ratios": {dim: list(ratios) for dim, ratios in found.ratios.items()},
                "runner_up": found.runner_up,
                "prompts": found.n_prompts,
                "massive": massive["evidence"]["massive"],
            },
        }
    }
    text = yaml.safe_dump(entry, sort_keys=False, default_flow_style=None)
    if output is not None:
        output.write_text(text)
        console.print(f"Written to {output}.")
    else:
        console.print("For configs/models/NAME.yaml:")
        typer.echo(text)
