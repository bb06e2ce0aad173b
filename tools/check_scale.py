"""How long and how much memory does VQAv2's size take? `python tools/check_scale.py --out results/checks/scale.json`.

Questions as in VQAv2 (five an image, ten annotators each) are made in both of its forms, parquet of the hub with an
image in every row and the release with image files, and run through all of sinkbench but the model: in its place an
engine answers at once. A subprocess for each form tells seconds and peak memory when the first question reaches the
engine and when all are scored. Exits with 1 if the start takes more than a minute of processor time (the clock also
counts what else the machine does, and is reported beside it) or anything more than 2 GB.
"""

import argparse
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

QUESTIONS_AN_IMAGE = 5
MAX_START_S = 60.0
MAX_PEAK_MB = 2000.0
FORMS = ("hub", "release")
_ROWS_A_FILE = 20_000
_BATCH = 256


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--image-bytes", type=int, default=20_000, help="size of an image file")
    parser.add_argument("--work", type=Path, help="folder for the data; by default a temporary one")
    parser.add_argument("--write", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--run", nargs=2, metavar=("DATA", "OUTPUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        {"hub": _write_hub, "release": _write_release}[args.write](args.out, args.rows, args.image_bytes)
        return 0
    if args.run:
        args.out.write_text(json.dumps(_measure(*map(Path, args.run))))
        return 0
    from sinkbench.environment import git_state

    commit, dirty = git_state()
    report = {
        "command": f"python tools/check_scale.py {shlex.join(sys.argv[1:])}",
        "commit": commit,
        "dirty": dirty,
        "rows": args.rows,
        "image_bytes": args.image_bytes,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "limits": {"start_cpu_s": MAX_START_S, "peak_mb": MAX_PEAK_MB},
        "forms": {},
    }
    with TemporaryDirectory(dir=args.work) as work:
        for form in FORMS:
            data = Path(work) / form
            # In a process of its own: a process begins with the peak memory of the one that started it.
            size = ["--rows", str(args.rows), "--image-bytes", str(args.image_bytes)]
            subprocess.run([sys.executable, __file__, "--out", str(data), "--write", form, *size], check=True)
            report["forms"][form] = _in_subprocess(data)
            print(form, report["forms"][form], flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    each = report["forms"].values()
    return int(any(form["start_cpu_s"] > MAX_START_S or form["peak_mb"] > MAX_PEAK_MB for form in each))


def _in_subprocess(data: Path) -> dict[str, Any]:
    result = data.with_suffix(".json")
    # The cache of `datasets` too: a first start is measured.
    environment = {**os.environ, "HF_DATASETS_CACHE": str(data.with_suffix(".cache")), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--out", str(result), "--run", str(data), str(data.with_suffix(".runs"))]
    subprocess.run(command, check=True, env=environment)
    measured: dict[str, Any] = json.loads(result.read_text())
    return measured


# The data


def _rows(n: int) -> Iterator[dict[str, Any]]:
    for index in range(n):
        image = index // QUESTIONS_AN_IMAGE
        words = ("yes", "no", str(index % 7), f"thing {index % 999}")
        yield {
            "question_type": "what is the",
            "multiple_choice_answer": words[index % 4],
            "answers": [
                {"answer": words[(index + turn // 8) % 4], "answer_confidence": "yes", "answer_id": turn + 1}
                for turn in range(10)
            ],
            "image_id": image,
            "answer_type": ("yes/no", "yes/no", "number", "other")[index % 4],
            "question_id": image * 1000 + index % QUESTIONS_AN_IMAGE,
            "question": f"What is the thing number {index} doing in this photograph?",
        }


def _image(number: int, size: int) -> bytes:
    """A small JPEG with as many bytes after its end as make it a large one; each differs."""
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.new("RGB", (64, 48), (number % 256, 90, 120)).save(buffer, "JPEG")
    return buffer.getvalue() + str(number).encode().rjust(max(8, size - buffer.tell()), b"\0")


def _write_hub(folder: Path, rows: int, size: int) -> None:
    from datasets import Dataset, Features, Image, Value

    answer = {"answer": Value("string"), "answer_confidence": Value("string"), "answer_id": Value("int64")}
    features = {
        name: Value("string") for name in ("question_type", "multiple_choice_answer", "answer_type", "question")
    }
    features |= {"image_id": Value("int64"), "question_id": Value("int64"), "answers": [answer], "image": Image()}
    every, number = _rows(rows), 0
    while some := list(islice(every, _ROWS_A_FILE)):
        for row in some:
            row["image"] = {"bytes": _image(row["image_id"], size), "path": None}
        path = folder / "data" / f"validation-{number:05}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_list(some, features=Features(features)).to_parquet(str(path), batch_size=100)
        number += 1


def _write_release(folder: Path, rows: int, size: int) -> None:
    (folder / "val2014").mkdir(parents=True)
    for image in range(-(-rows // QUESTIONS_AN_IMAGE)):
        (folder / "val2014" / f"COCO_val2014_{image:012}.jpg").write_bytes(_image(image, size))
    asked = ("image_id", "question", "question_id")
    questions = [{name: row[name] for name in asked} for row in _rows(rows)]
    name = "v2_OpenEnded_mscoco_val2014_questions.json"
    (folder / name).write_text(json.dumps({"info": {}, "questions": questions}))
    annotations = [{name: value for name, value in row.items() if name != "question"} for row in _rows(rows)]
    (folder / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"info": {}, "annotations": annotations}))


# The measurement


def _measure(data: Path, output: Path) -> dict[str, Any]:
    """Seconds and peak memory of this process; it must not have done anything before."""
    begin = time.monotonic()
    from sinkbench.backend import LocalBackend
    from sinkbench.request import Request, Response
    from sinkbench.runner import run
    from sinkbench.spec import RunSpec

    marks: dict[str, Any] = {}

    class Instant:
        """Answers "yes" at once."""

        def sweep(
            self, requests: Iterable[Request], wanted: Callable[[str, Request], bool]
        ) -> Iterator[tuple[str, list[Response]]]:
            rest = iter(requests)
            while batch := list(islice(rest, _BATCH)):
                if "start_s" not in marks:
                    marks.update(start_s=time.monotonic() - begin, start_cpu_s=time.process_time())
                    marks["start_peak_mb"] = _peak_mb()
                yield marks["name"], [Response(request.id, "yes", 20, 1, 16, 16) for request in batch]

        def stats(self, name: str | None = None) -> dict[str, Any]:
            return {}

    class Backend(LocalBackend):
        """Everything but the model."""

        def engine(self, adapter: Any, methods: Mapping[str, Any], *_: Any) -> Any:
            marks["name"] = next(iter(methods))
            return Instant()

    spec = RunSpec(model="tiny-llava", task="vqav2", data_dir=data, output=output)
    (outcome,) = run([spec], backend=Backend())
    return {
        **{
            name: value if isinstance(value, str) else round(value, 1)
            for name, value in marks.items()
            if name != "name"
        },
        "whole_s": round(time.monotonic() - begin, 1),
        "whole_cpu_s": round(time.process_time(), 1),
        "peak_mb": round(_peak_mb(), 1),
        "n": outcome.record["task"]["n_run"],
        "vqa_accuracy": outcome.record["metrics"]["vqa_accuracy"]["value"],
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    raise SystemExit(main())
