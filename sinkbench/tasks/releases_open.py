"""Releases of benchmarks with open answers: MM-Vet, MMHal-Bench and LLaVA-Bench (In-the-Wild)."""

from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from sinkbench.errors import UsageError
from sinkbench.tasks.layout import Layout, Row
from sinkbench.tasks.text_rows import read_file


def mm_vet(folder: Path, layout: Layout) -> list[Row] | None:
    """MM-Vet's mm-vet.json: {"v1_0": {"imagename", "question", "answer", "capability": [...], ...}, ...}.

    The names are those that published readers of the file use; the release itself was not at hand.
    """
    path = folder / "mm-vet.json"
    if not path.is_file():
        return None
    return [_mm_vet_row(question, entry, path, layout) for question, entry in _object(path, layout).items()]


def _mm_vet_row(question: str, entry: Row, path: Path, layout: Layout) -> Row:
    _expect(entry, ("imagename", "question", "answer", "capability"), f"{path}, {question}", layout)
    capability = entry["capability"]
    return {
        "question_id": question,
        "image": entry["imagename"],
        "question": entry["question"],
        "answer": entry["answer"],
        "image_source": entry.get("imagesource"),
        "capability": ",".join(capability) if isinstance(capability, list) else capability,
    }


def mmhal(folder: Path, layout: Layout) -> list[Row] | None:
    """MMHal-Bench's response_template.json; an image is named by the end of its address, `image_src`."""
    path = folder / "response_template.json"
    if not path.is_file():
        return None
    rows = read_file(path, layout)
    for number, row in enumerate(rows, start=1):
        _expect(row, ("image_src",), f"{path}, row {number}", layout)
    return [{**row, "image": row["image_src"] and PurePosixPath(urlsplit(row["image_src"]).path).name} for row in rows]


def llava_bench(folder: Path, layout: Layout) -> list[Row] | None:
    """LLaVA-Bench's questions.jsonl, context.jsonl and answers_gpt4.jsonl, joined by image and by question."""
    files = [folder / name for name in ("questions.jsonl", "context.jsonl", "answers_gpt4.jsonl")]
    if not files[0].is_file():
        return None
    for path in files:
        if not path.is_file():
            raise UsageError(f"{path} does not exist", layout.hint)
    questions, contexts, answers = (read_file(path, layout) for path in files)
    for path, rows, names in (
        (files[0], questions, ("question_id", "image", "text", "category")),
        (files[1], contexts, ("image", "caption")),
        (files[2], answers, ("question_id", "text")),
    ):
        for number, row in enumerate(rows, start=1):
            _expect(row, names, f"{path}, row {number}", layout)
    captions = {row["image"]: row["caption"] for row in contexts}
    references = {row["question_id"]: row["text"] for row in answers}
    return [
        {
            "question_id": row["question_id"],
            "image": row["image"],
            "image_id": row["image"],
            "question": row["text"],
            "category": row["category"],
            "caption": captions.get(row["image"]),
            "gpt_answer": references.get(row["question_id"]),
        }
        for row in questions
    ]


def _object(path: Path, layout: Layout) -> dict[str, Row]:
    """A JSON object of objects."""
    rows = read_file(path, layout)
    if len(rows) != 1 or not all(isinstance(entry, dict) for entry in rows[0].values()):
        raise UsageError(f"{path}: expected one JSON object that holds an object for each question", layout.hint)
    return rows[0]


def _expect(row: Row, names: tuple[str, ...], where: str, layout: Layout) -> None:
    missing = [name for name in names if name not in row]
    if missing:
        raise UsageError(f"{where}: {', '.join(missing)} missing (found: {', '.join(row)})", layout.hint)
