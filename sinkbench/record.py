"""What a run says about itself: its identity, the content of run.json and of a line of samples.jsonl."""

import dataclasses
import hashlib
import json
import traceback
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinkbench.environment import environment
from sinkbench.request import Generation, Request, Response
from sinkbench.spec import RunSpec
from sinkbench.store import Row

if TYPE_CHECKING:
    from sinkbench.adapters import ModelPreset
    from sinkbench.calibration.artefact import Calibration
    from sinkbench.methods.base import Method

Record = dict[str, Any]
"""The content of run.json (schemas/run.schema.json)."""

SCHEMA_VERSION = 1
UNSCORED: Row = {"parsed": None, "score": None, "cluster": None, "counts": None, "group": None, "targets": None}
"""What scoring adds to a line of samples.jsonl, before it has."""

_LATER = {"num_beams": 1, "length_penalty": 1.0, "candidates": 0, "patience": 0}
"""Generation settings that earlier releases did not have, as these generated; left out, so that hashes stay."""

_WHOLE = 64 * 2**20
"""Files up to this size (bytes) enter a fingerprint whole; of larger ones the size, the first and the last MiB do."""


def model_identity(preset: "ModelPreset") -> dict[str, Any]:
    """What identifies weights and preprocessing on every machine: local folders count by content, not by path.

    Models that `sinkbench assets fetch` makes count by version: their files hold paths and versions of libraries too.
    """
    return {
        "id": preset.path if not Path(preset.path).exists() else preset.name,
        "revision": "" if preset.is_local else preset.revision or "main",
        "fingerprint": _fingerprint(preset),
        "options": preset.options,
        "sink_dims": list(preset.sink_dims),
    }


def _fingerprint(preset: "ModelPreset") -> str:
    if preset.path.startswith("cache:"):
        return hashlib.sha256(Path(preset.location).name.encode()).hexdigest()
    return weights_fingerprint(Path(preset.location)) if preset.is_local else ""


def weights_fingerprint(path: Path) -> str:
    """SHA-256 (hex) over the names and contents of a model's weights, configs and tokenizer files.

    Args:
        path: A folder, or the one file of a model.
    """
    digest = hashlib.sha256()
    kinds = {".json", ".safetensors", ".bin", ".model", ".txt", ".jinja"}
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix in kinds)
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with open(file, "rb") as content:
            if size <= _WHOLE:
                digest.update(content.read())
            else:
                digest.update(content.read(2**20))
                content.seek(-(2**20), 2)
                digest.update(content.read())
    return digest.hexdigest()


def new_record(
    run_id: str,
    spec: RunSpec,
    preset: "ModelPreset",
    identity: dict[str, Any],
    method: "Method",
    task: dict[str, Any],
    calibrations: "Mapping[str, Calibration] | None" = None,
) -> Record:
    """The record of a run that begins."""
    now = _now()
    used = {name: calibration.summary() for name, calibration in (calibrations or {}).items()}
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "status": "started",
        "stage": "none",
        "created": now,
        "updated": now,
        "error": None,
        "spec": spec.to_json(),
        "model": {"name": preset.name, **identity, "dtype": None, "device": None},
        "method": {
            "name": spec.method,
            "params": _plain(method.params()),
            "paper": dataclasses.asdict(method.paper) if method.paper else None,
            "profile": _profile(spec),
            **({"calibration": used} if used else {}),
            **_settled(spec, method),
        },
        "task": {**task, "params": spec.task_params, "n_run": 0, "n_failed": 0},
        "metrics": {},
        "efficiency": {},
        "env": environment(),
        "paper": None,
    }


def resumed(record: Record, earlier: Record) -> Record:
    """A new record with what an earlier process of the same run did and measured; its metrics no longer hold."""
    kept = {key: earlier[key] for key in ("created", "stage", "efficiency", "env")}
    loaded = {key: earlier["model"][key] for key in ("dtype", "device")}
    counts = {key: earlier["task"][key] for key in ("n_run", "n_failed")}
    return {**record, **kept, "model": {**record["model"], **loaded}, "task": {**record["task"], **counts}}


def _profile(spec: RunSpec) -> Any:
    chosen = {key.partition(".")[0]: value for key, value in spec.method_params.items() if key.endswith(".profile")}
    return chosen.get(spec.method, chosen or None)


def _settled(spec: RunSpec, method: "Method") -> dict[str, Any]:
    """The generation settings that the method changes, as it uses them, under "generation"; empty if there are none."""
    asked = spec.generation.apply(Generation())
    used = vars(method.generation(asked))
    changed = {key: value for key, value in used.items() if value != getattr(asked, key)}
    return {"generation": changed} if changed else {}


def _plain(value: Any) -> Any:
    """As it will read back from JSON: tuples become lists."""
    return json.loads(json.dumps(value))


def touch(record: Record, status: str, error: BaseException | None = None) -> Record:
    """The record with a new status and the time of the change."""
    described = None
    if error is not None:
        described = {
            "type": type(error).__name__,
            "message": str(error),
            "traceback": "".join(traceback.format_exception(error)),
        }
    return {**record, "status": status, "updated": _now(), "error": described}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def prompt_hash(request: Request) -> str:
    """SHA-256 (hex) of the conversation and the generation settings."""
    # As dataclasses.asdict has it, which copies so deeply that it takes four times as long as all the rest.
    settings = {key: value for key, value in vars(request.generation).items() if _LATER.get(key) != value}
    asked = {"messages": [vars(message) for message in request.messages], "generation": settings}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def image_hash(request: Request) -> str:
    """Hashes of the images' bytes, joined by "+"; "missing" for a file that was not there when it was prepared."""
    return "+".join(image.sha256 or "missing" for image in request.images)


def answered(rows: Iterable[Row]) -> dict[str, bytes]:
    """What is answered, small enough to be kept for every sample: `question` of the newest line by id, errors left out.

    Args:
        rows: Lines of samples.jsonl, the newest last.
    """
    known: dict[str, bytes] = {}
    for row in rows:
        if row["error"]:
            known.pop(row["id"], None)
        else:
            known[row["id"]] = _digest(row["prompt_hash"], row["image_hash"])
    return known


def question(request: Request) -> bytes:
    """16 bytes that stand for the words, the generation settings and the images of a request."""
    return _digest(prompt_hash(request), image_hash(request))


def _digest(prompt: str, image: str) -> bytes:
    return hashlib.sha256(f"{prompt} {image}".encode()).digest()[:16]


def sample_row(task: str, request: Request, response: Response) -> Row:
    """A line of samples.jsonl, not scored yet."""
    return {
        "id": request.id,
        "task": task,
        "prompt_hash": prompt_hash(request),
        "image_hash": image_hash(request),
        "text": None if response.error else response.text,
        **UNSCORED,
        "tokens": response.new_tokens,
        "prompt_tokens": response.prompt_tokens,
        "visual_tokens": response.visual_tokens,
        "visual_tokens_kept": response.visual_tokens_kept,
        "finish": response.finish,
        "error": response.error,
        **({"details": response.details} if response.details else {}),
    }
