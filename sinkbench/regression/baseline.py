"""The baseline file: runs with their samples, packed small enough to be committed."""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sinkbench.errors import IncompleteError, UsageError
from sinkbench.leaderboard.files import write_bytes
from sinkbench.regression.cell import Cell, Sample, Side
from sinkbench.schemas import validate
from sinkbench.scoring.metric import Record
from sinkbench.spec import RunSpec

FORMAT = "sinkbench-baseline"
VERSION = 1

Packed = dict[str, Any]
"""schemas/baseline.schema.json."""

_KEPT = ("run_id", "updated", "status", "model", "method", "task", "metrics", "env")
_PLACES = ("output", "stage")
"""Settings of a run that say nothing about its answers."""

_GZIP_MAGIC = b"\x1f\x8b"


def write_baseline(path: Path, side: Side, *, allow_dirty: bool = False) -> int:
    """Write runs as a baseline; gzip if the name ends in .gz. Equal runs give equal bytes.

    Args:
        path: The file, whose folder is made.
        side: The runs.
        allow_dirty: Take runs that a dirty source tree made.

    Returns:
        Its size in bytes.

    Raises:
        UsageError: A run comes from a dirty tree, was imported or is not finished; or the file cannot be written.
        IncompleteError: Some samples failed or have no score.
    """
    if side.unfinished:
        titles = "; ".join(f"{title} ({status})" for title, status in side.unfinished[:3])
        raise UsageError(f"{len(side.unfinished)} runs are not finished: {titles}", "Finish them first.")
    for cell in side.cells:
        _check_complete(cell)
        if not allow_dirty:
            check_clean(cell.record["env"]["git"]["dirty"], cell.title)
    text = json.dumps(pack(side.cells), ensure_ascii=False, separators=(",", ":")) + "\n"
    content = text.encode()
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    write_bytes(path, content)
    return len(content)


def check_clean(dirty: bool | None, what: str) -> None:
    """Refuse what a dirty tree made.

    Raises:
        UsageError: It did.
    """
    if dirty:
        raise UsageError(
            f"{what}: the source tree differs from its commit, so that nobody could make this baseline again",
            "Commit first; --allow-dirty writes it all the same.",
        )


def read_baseline(path: Path) -> list[Cell]:
    """The runs of a baseline file.

    Raises:
        UsageError: The file is missing, damaged, something else, or of another version.
    """
    packed = _read(path)
    if not isinstance(packed, dict) or packed.get("format") != FORMAT:
        raise UsageError(f"{path} is no baseline file", "Make one: sinkbench regress --write FILE --config CONFIG")
    if packed.get("schema_version") != VERSION:
        raise UsageError(
            f"{path} is a baseline of version {packed.get('schema_version')!r}; this sinkbench reads version {VERSION}",
            "Write it again with this sinkbench: sinkbench regress --write FILE --config CONFIG",
        )
    try:
        validate(packed, "baseline")
        return list(_unpack(packed, str(path)))
    except ValueError as error:
        raise _damaged(path, error) from error


def specs_of(cells: Sequence[Cell], output: Path, data_dir: Path | None = None) -> list[RunSpec]:
    """What to run for each run of a baseline.

    Args:
        cells: The runs.
        output: Folder for run directories.
        data_dir: Folder with the task's data, instead of the one that the baseline names.

    Raises:
        UsageError: This sinkbench does not know a setting of a run.
    """
    places = {"output": output, **({"data_dir": data_dir} if data_dir else {})}
    try:
        return [RunSpec(**{**cell.record["spec"], **places}) for cell in cells]
    except ValidationError as error:
        raise _damaged(Path(cells[0].source), error) from error


def pack(cells: Sequence[Cell]) -> Packed:
    """The content of the file: columns instead of rows, and everything that repeats once.

    Runs that were asked the same share one table of questions; a run has a table of the distinct outcomes
    (parsed answer, score, counts) and each sample's place in it.
    """
    tables: list[dict[str, list[Any]]] = []
    runs = []
    for cell in cells:
        table = _questions(cell)
        if table not in tables:
            tables.append(table)
        spec = {key: value for key, value in cell.record["spec"].items() if key not in _PLACES}
        kept = {key: cell.record[key] for key in _KEPT}
        runs.append({**kept, "spec": spec, "questions": tables.index(table), **_answers(cell)})
    packed = {"format": FORMAT, "schema_version": VERSION, "questions": tables, "runs": runs}
    validate(packed, "baseline")
    return packed


def _questions(cell: Cell) -> dict[str, list[Any]]:
    samples = list(cell.samples.values())
    scored = [sample.scored for sample in samples]
    return {
        "id": list(cell.samples),
        "prompt_hash": [sample.prompt for sample in samples],
        "image_hash": [sample.image for sample in samples],
        "cluster": [entry["cluster"] if entry else None for entry in scored],
        "group": [list(entry["group"]) if entry and entry["group"] else None for entry in scored],
    }


def _answers(cell: Cell) -> dict[str, Any]:
    places: dict[str, int] = {}
    outcomes: list[dict[str, Any]] = []
    outcome: list[int] = []
    for sample in cell.samples.values():
        assert sample.scored is not None
        found = {key: sample.scored[key] for key in ("parsed", "score", "counts")}
        key = json.dumps(found, sort_keys=True)
        if key not in places:
            places[key] = len(outcomes)
            outcomes.append(found)
        outcome.append(places[key])
    return {"text": [sample.text for sample in cell.samples.values()], "outcomes": outcomes, "outcome": outcome}


def _unpack(packed: Packed, source: str) -> Iterator[Cell]:
    for run in packed["runs"]:
        if run["questions"] >= len(packed["questions"]):
            raise ValueError(f"run {run['run_id'][:8]} names a table of questions that is not there")
        table = packed["questions"][run["questions"]]
        lengths = {len(column) for column in (*table.values(), run["text"], run["outcome"])}
        if len(lengths) > 1:
            raise ValueError(f"columns of run {run['run_id'][:8]} differ in length: {sorted(lengths)}")
        if max(run["outcome"], default=-1) >= len(run["outcomes"]):
            raise ValueError(f"run {run['run_id'][:8]} names an outcome that is not there")
        record = {key: run[key] for key in (*_KEPT, "spec")}
        yield Cell(source, record, stored=dict(_stored(table, run)))


def _stored(table: Mapping[str, list[Any]], run: Mapping[str, Any]) -> Iterator[tuple[str, Sample]]:
    columns = (*(table[name] for name in ("id", "prompt_hash", "image_hash", "cluster", "group")), run["text"])
    for id, prompt, image, cluster, group, text, place in zip(*columns, run["outcome"], strict=True):
        found = run["outcomes"][place]
        scored = Record(
            id=id,
            cluster=cluster,
            parsed=found["parsed"],
            score=found["score"],
            counts=found["counts"],
            group=(group[0], group[1]) if group else None,
        )
        yield id, Sample(prompt, image, text, "", scored)


def _check_complete(cell: Cell) -> None:
    if "imported" in cell.record:
        raise UsageError(
            f"{cell.source} was imported: there is nothing to run again", "Leave it out, or use sinkbench compare."
        )
    lacking = {id: sample.error or "no score" for id, sample in cell.samples.items() if sample.scored is None}
    if lacking:
        id, reason = next(iter(lacking.items()))
        raise IncompleteError(
            f"{cell.title}: {len(lacking)} samples have no score; for example {id}: {reason}",
            "A baseline needs every sample. Mend the cause and run the same command again.",
        )


def _read(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(
            f"baseline file {path} does not exist", f"Make it: sinkbench regress --write {path} --config CONFIG"
        )
    try:
        content = path.read_bytes()
        if content.startswith(_GZIP_MAGIC):
            content = gzip.decompress(content)
        return json.loads(content)
    except (OSError, EOFError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UsageError:
    hint = "Take the file from git again, or write a new one: sinkbench regress --write FILE --config CONFIG"
    return UsageError(f"baseline file {path} is damaged: {error}", hint)
