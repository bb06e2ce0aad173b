"""Writes a data set of scenes: images, annotations and the rows of every task."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinkbench.errors import UsageError
from sinkbench.scenes import rows
from sinkbench.scenes.annotate import MIN_VISIBLE, LabelledScene, captions, file_name, instances, visible_share
from sinkbench.scenes.scene import DEFAULT, SPLITS, Scene, SceneConfig, sample_scene

if TYPE_CHECKING:
    from torch import Tensor

    from sinkbench.scenes.render import Renderer

SCHEMA_VERSION = 1
JPEG_QUALITY = 80
_BATCH = 32
_FILES = (
    "instances.json",
    "captions.json",
    "pope.jsonl",
    "chair.jsonl",
    "mcq.jsonl",
    "text.jsonl",
    "synonyms.txt",
    "dataset.json",
)
Progress = Callable[[int], None]
"""Called with the number of images written since the last call."""


def write_dataset(
    out: str | Path,
    seed: int,
    n: int,
    split: str = "val",
    *,
    device: str = "cpu",
    force: bool = False,
    config: SceneConfig = DEFAULT,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Render `n` scenes and write them with annotations and task rows.

    Scenes are taken in the order of their index; left out are those with fewer than three categories (POPE's rule for
    images) and those with an object of which less than 30 % can be seen.

    Args:
        out: Folder to write; it must be empty or absent unless `force` is given.
        seed: Seed of the data set.
        n: Number of images.
        split: "val" or "test"; "train" is for looking at, not for evaluation.
        device: Where to render.
        force: Replace the data set that `out` holds; other files in it stay.
        config: Difficulty.
        progress: Told about finished images.

    Returns:
        The contents of dataset.json, which is written last.

    Raises:
        UsageError: `n`, `split` or `device` is not usable, or `out` is not empty or cannot be written.
    """
    if n <= 0:
        raise UsageError(f"the number of images must be positive, not {n}", "For example --n 200.")
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}", f"Choose one of {', '.join(SPLITS)}.")
    renderer = _make_renderer(device)
    folder = _prepare(Path(out), force=force)
    chosen: list[LabelledScene] = []
    for image_id, (labelled, pixels) in enumerate(_rendered(renderer, split, seed, n, config), 1):
        _save_jpeg(pixels, folder / "images" / file_name(image_id))
        chosen.append(labelled)
        progress(1)
    scenes = [item.scene for item in chosen]
    texts = row_files(scenes)
    texts["instances.json"] = _json(instances(chosen))
    about = {
        "name": "scenes",
        "schema_version": SCHEMA_VERSION,
        "seed": seed,
        "split": split,
        "n_images": n,
        "renderer_version": _renderer_version(),
        "fingerprint": fingerprint(scenes),
    }
    texts["dataset.json"] = json.dumps(about, indent=2) + "\n"
    for name in _FILES:
        (folder / name).write_text(texts[name], "utf-8")
    return about


def row_files(scenes: list[Scene]) -> dict[str, str]:
    """Text of every file that depends on the scenes but not on pixels: captions, rows and synonyms."""
    return {
        "captions.json": _json(captions(scenes)),
        "pope.jsonl": _json_lines(rows.pope_rows(scenes)),
        "chair.jsonl": _json_lines(rows.chair_rows(scenes)),
        "mcq.jsonl": _json_lines(rows.mcq_rows(scenes)),
        "text.jsonl": _json_lines(rows.text_rows(scenes)),
        "synonyms.txt": "".join(f"{line}\n" for line in rows.synonym_lines()),
    }


def fingerprint(scenes: list[Scene]) -> str:
    """SHA-256 over `row_files`: equal for two data sets that ask the same questions about the same scenes.

    Pixels and masks are left out, since another JPEG library or processor may round them differently.
    """
    digest = hashlib.sha256()
    for name, text in row_files(scenes).items():
        digest.update(f"{name}\n{text}".encode())
    return digest.hexdigest()


def _prepare(folder: Path, *, force: bool) -> Path:
    """Make the folder ready to be written: an old data set is removed, a probe shows that files can be made."""
    try:
        if folder.is_dir() and any(folder.iterdir()) and not force:
            raise UsageError(f"folder {folder} is not empty", "Choose another --out, or add --force to replace it.")
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)
        for image in (folder / "images").glob("*.jpg"):
            image.unlink()
        (folder / "dataset.json").touch()
        (folder / "dataset.json").unlink()
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}", "Choose a writable --out folder.") from error
    return folder


def _rendered(
    renderer: "Renderer", split: str, seed: int, n: int, config: SceneConfig
) -> "Iterator[tuple[LabelledScene, Tensor]]":
    """The first `n` usable scenes with their images, (3, 224, 224) uint8 on the CPU."""
    from sinkbench.scenes.pack import pack

    index = found = 0
    while found < n:
        batch: list[Scene] = []
        while len(batch) < min(_BATCH, n - found):
            scene = sample_scene(split, seed, index, config)
            index += 1
            if len(scene.counts) >= rows.POPE_POSITIVES:
                batch.append(scene)
        packed = pack(batch)
        images = renderer.render_packed(packed).cpu()
        visible, whole = (masks.cpu() for masks in renderer.object_masks(packed))
        for scene, pixels, seen, full in zip(batch, images, visible, whole, strict=True):
            masks = seen[: len(scene.objects)]
            if visible_share(masks, full[: len(scene.objects)]) >= MIN_VISIBLE:
                found += 1
                yield LabelledScene(scene, masks), pixels


def _make_renderer(device: str) -> "Renderer":
    from sinkbench.scenes.render import Renderer

    try:
        return Renderer(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {device!r} is not usable: {error}", "Use --device cpu.") from error


def _renderer_version() -> int:
    from sinkbench.scenes.render import RENDERER_VERSION

    return RENDERER_VERSION


def _save_jpeg(pixels: "Tensor", path: Path) -> None:
    from PIL import Image

    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path, quality=JPEG_QUALITY, optimize=True)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"


def _json_lines(values: list[rows.Row]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)
