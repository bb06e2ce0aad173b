"""`sinkbench inspect model` from its settings to a folder with inspect.json, arrays and pictures."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sinkbench.adapters import check_available, load_adapter, resolve_model
from sinkbench.adapters.base import Adapter
from sinkbench.engine.prompt import Prompt
from sinkbench.environment import environment
from sinkbench.errors import UsageError
from sinkbench.inspection.collect import Findings, collect, find_primary
from sinkbench.inspection.document import SCHEMA_VERSION, arrays, compare_domains, dumps, report
from sinkbench.inspection.probe import Choice
from sinkbench.inspection.texts import COUNT, KINDS, TOKENS, from_lines, sequences
from sinkbench.request import ImageRef, Request
from sinkbench.schemas import validate

DOCUMENT = "inspect.json"


@dataclass(frozen=True)
class Settings:
    """What to inspect.

    Attributes:
        model: Preset, folder, GGUF file or hub id.
        tasks: Tasks whose questions are asked.
        texts: Kinds of text-only sequences, without a chat template.
        lines: Text file, a sequence a line.
        limit: Questions of each task.
        tokens: Tokens of each text sequence.
        count: Text sequences of each kind.
        new_tokens: Tokens of each answer that are looked at too.
        blank: Also ask the tasks' questions about blank images: which heads rest then?
        head_divergence: Also ask them without the image: how far do the heads' outputs move?
        data_dir: Folder with the tasks' data.
        output: Folder to write.
        pictures: Whether to draw.
        device: Where to run.
        dtype: Weights' type.
        batch_size: Most samples in a batch.
        seed: For random text.
    """

    model: str
    tasks: tuple[str, ...]
    texts: tuple[str, ...]
    output: Path
    lines: Path | None = None
    limit: int = 64
    tokens: int = TOKENS
    count: int = COUNT
    new_tokens: int = 8
    blank: bool = False
    head_divergence: bool = False
    data_dir: Path | None = None
    pictures: bool = True
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | Literal["auto"] = "auto"
    seed: int = 0


def inspect_model(settings: Settings, say: Callable[[str], None]) -> dict[str, Any]:
    """Run everything and write the folder; returns the document.

    Args:
        settings: What to do.
        say: Told what goes on.

    Raises:
        UsageError: A name is unknown, or the model cannot read what it is given.
    """
    preset = resolve_model(settings.model)
    _check(settings, preset.family)
    check_available(preset)
    say(f"loading {preset.name}")
    adapter = load_adapter(preset, settings.device, settings.dtype)
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "command": shlex.join(["sinkbench", *sys.argv[1:]]),
        "env": environment(),
        "model": {
            "name": preset.name,
            "id": preset.path if ":" in preset.path or not preset.is_local else preset.name,
            "dtype": str(adapter.dtype).removeprefix("torch."),
            "layers": adapter.info.n_layers,
            "heads": adapter.info.n_heads,
            "kv_heads": adapter.info.n_kv_heads,
            "hidden_size": adapter.info.hidden_size,
        },
        "parts": [],
    }
    settings.output.mkdir(parents=True, exist_ok=True)
    for name, prompts in _prompts(settings, adapter):
        say(f"{name}: {len(prompts)} prompts")
        document["parts"].append(_part(settings, adapter, name, prompts, say))
        _write(settings.output / DOCUMENT, document)
    return document


def _check(settings: Settings, family: str) -> None:
    from sinkbench.tasks.load import check_data

    if not (settings.tasks or settings.texts or settings.lines):
        raise UsageError("nothing to look at", "Give --task NAME, --text natural or --prompts FILE.")
    unknown = [kind for kind in settings.texts if kind not in KINDS]
    if unknown:
        raise UsageError(f"there is no text {unknown[0]!r}", f"Choose among {', '.join(KINDS)}.")
    if settings.lines is not None and not settings.lines.is_file():
        raise UsageError(f"--prompts {settings.lines} is no file", "Give a text file with one prompt a line.")
    if settings.tasks and family == "text":
        raise UsageError(
            f"{settings.model} reads text only, and {settings.tasks[0]} shows images", "Give --text natural instead."
        )
    for task in settings.tasks:
        check_data(task, settings.data_dir)


def _prompts(settings: Settings, adapter: Adapter) -> Iterator[tuple[str, list[Prompt]]]:
    """Each part's name and prompts."""
    for task in settings.tasks:
        yield task, [adapter.encode(request) for request in _questions(settings, task)]
    for kind in settings.texts:
        yield kind, sequences(adapter, kind, settings.tokens, settings.count, settings.seed)
    if settings.lines is not None:
        lines = [line for line in settings.lines.read_text("utf-8").splitlines() if line.strip()]
        yield settings.lines.stem, from_lines(adapter, lines, settings.tokens)


def _questions(settings: Settings, task: str) -> list[Request]:
    from sinkbench.tasks.load import build_requests, load_task

    loaded = load_task(task, settings.data_dir)
    asked = build_requests(loaded, settings.output / "images", settings.limit)
    # Later turns of a dialogue stand behind answers that nobody has given here.
    return [request for request in asked if not (request.history or request.fault)]


def _part(
    settings: Settings, adapter: Adapter, name: str, prompts: Sequence[Prompt], say: Callable[[str], None]
) -> dict[str, Any]:
    """Look at one set of prompts: its section of the document; arrays and pictures go into the folder."""
    has_images = any(prompt.images for prompt in prompts)
    choice = Choice(
        sink_dims=adapter.info.sink_dims,
        primary=find_primary(adapter, prompts),
        heads=settings.head_divergence and has_images,
    )
    findings = collect(
        adapter,
        prompts,
        choice,
        new_tokens=settings.new_tokens if has_images else 0,
        batch_size=settings.batch_size,
        without_images=choice.heads,
    )
    part: dict[str, Any] = {"name": name, **report(findings)}
    if settings.blank and has_images:
        say(f"{name}: once more with blank images")
        blind = collect(
            adapter,
            _with_blank_images(settings, adapter, prompts),
            replace(choice, mlp=False, heads=False),
            batch_size=settings.batch_size,
        )
        part["domains"] = compare_domains(blind, findings, ("blank", "shown"))
    np.savez_compressed(settings.output / f"{name}.npz", **arrays(findings))  # type: ignore[arg-type]
    if settings.pictures:
        part["pictures"] = _draw(findings, f"{adapter.info.name}, {name}", settings.output / name)
    return part


def _draw(findings: Findings, title: str, folder: Path) -> list[str]:
    from sinkbench.inspection.pictures import draw_model

    folder.mkdir(exist_ok=True)
    return [f"{folder.name}/{path.name}" for path in draw_model(findings, title, folder)]


def _with_blank_images(settings: Settings, adapter: Adapter, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The same questions about grey images of the same sizes."""
    from PIL import Image

    folder = settings.output / "blank"
    folder.mkdir(exist_ok=True)

    def blank(image: ImageRef) -> ImageRef:
        width, height = adapter.image_size(image)
        path = folder / f"{width}x{height}.png"
        if not path.exists():
            Image.new("RGB", (width, height), (128, 128, 128)).save(path)
        return ImageRef.from_file(path)

    requests = [replace(p.request, images=tuple(map(blank, p.request.images))) for p in prompts]
    return [adapter.encode(request) for request in requests]


def _write(path: Path, document: dict[str, Any]) -> None:
    """Write the document whole or not at all, after checking it."""
    validate(document, "inspect")
    part = path.with_suffix(".part")
    part.write_text(dumps(document), "utf-8")
    os.replace(part, path)
