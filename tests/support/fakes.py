"""A backend without weights and without lm-eval: yes/no questions, and an engine that answers as it is told."""

import json
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

from sinkbench.errors import UsageError, unknown_name
from sinkbench.methods import get_method
from sinkbench.request import Generation, ImageRef, Message, Request, Response
from sinkbench.scoring import pope
from sinkbench.scoring.metric import evaluate, record
from sinkbench.spec import RunSpec

METRICS = {"random/accuracy": "higher", "f1": "higher", "yes_ratio": "neutral", "n_unparsed": "lower"}

Answerer = Callable[[Request], str | BaseException]
"""From a request to its text; an exception given back fails the sample, a KeyboardInterrupt is raised."""


@dataclass
class FakeTask:
    """As many questions an image as there are splits; the answer to question i is yes for even i."""

    folder: Path
    n: int = 12
    fingerprint: str = "f" * 64

    def label(self, index: int) -> str:
        return "yes" if index % 2 == 0 else "no"

    def describe(self) -> dict[str, Any]:
        return {
            "name": "fake",
            "version": "1",
            "split": "test",
            "fingerprint": self.fingerprint,
            "scheme": "pope",
            "headline": "random/accuracy",
            "n_total": self.n,
        }

    def requests(self, image_folder: Path, limit: int | None) -> Iterable[Request]:
        for index in range(self.n if limit is None else min(limit, self.n)):
            path = self.folder / f"{index // 3}.png"
            image = ImageRef.from_file(path) if path.is_file() else ImageRef(str(path))
            text = f"<image>Is there a dog in image {index}?"
            yield Request(f"fake/{index}", (Message("user", text),), (image,), Generation(max_new_tokens=4))

    def review(self) -> None:
        return None

    def score(
        self, answers: Mapping[str, str], replies: Mapping[str, str] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        records = []
        for id, text in answers.items():
            index = int(id.partition("/")[2])
            judged = pope.score(text, self.label(index), pope.SPLITS[index % 3])
            records.append(record(id, str(index // 3), judged))
        metrics = {}
        for name, direction in METRICS.items():
            value = evaluate(pope.SCHEME, name, records)
            metrics[name] = {
                "value": value.value,
                "stderr": None,
                "ci95": None,
                "n": value.n,
                "direction": direction,
            }
        samples = {
            entry["id"]: {
                **{key: value for key, value in entry.items() if key != "id"},
                "targets": [self.label(int(entry["id"].partition("/")[2]))],
            }
            for entry in records
        }
        return metrics, samples


@dataclass
class FakeEngine:
    """Answers in small batches, each under one method after the other.

    Attributes:
        answerers: By the engine's name of a method.
        methods: The methods' own names, by the engine's.
        share_prefix: As the engine was asked for.
        size: Requests a batch.
        asked: Ids of the requests by the methods' own names, in order.
        read: Ids of the requests that were read, in order.
    """

    answerers: Mapping[str, Answerer]
    methods: Mapping[str, str]
    share_prefix: bool = True
    size: int = 2
    asked: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    read: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, answerer: Answerer) -> Self:
        """Of a single method."""
        return cls({"greedy": answerer}, {"greedy": "greedy"})

    def answer(self, requests: Iterable[Request]) -> Iterator[list[Response]]:
        yield from (responses for _, responses in self.sweep(requests, lambda name, request: True))

    def sweep(
        self, requests: Iterable[Request], wanted: Callable[[str, Request], bool]
    ) -> Iterator[tuple[str, list[Response]]]:
        rest = iter(requests)
        while batch := list(islice(rest, self.size)):
            self.read += [request.id for request in batch]
            for name in self.answerers:
                if mine := [request for request in batch if wanted(name, request)]:
                    yield name, [self._response(name, request) for request in mine]

    def _response(self, name: str, request: Request) -> Response:
        self.asked[self.methods[name]].append(request.id)
        given = self.answerers[name](request)
        if isinstance(given, KeyboardInterrupt):
            raise given
        if isinstance(given, BaseException):
            return Response(request.id, finish="error", error=str(given))
        return Response(request.id, given, 20, 1, 16, 16)

    def stats(self, name: str | None = None) -> dict[str, Any]:
        return {"answers_per_s": 100.0}


@dataclass(frozen=True)
class FakePreset:
    name: str = "tiny"
    path: str = "org/tiny"
    revision: str = "abc"
    is_local: bool = False
    location: str = "org/tiny"
    options: dict[str, Any] = field(default_factory=dict)
    sink_dims: tuple[int, ...] = ()


class FakeBackend:
    """Knows the task "fake", the models "tiny" and "small", and the methods "greedy", "var", "pai" and "sample".

    Args:
        task: What `load` gives.
        answerer: Answers of every method, or of one method by name.
    """

    def __init__(self, task: FakeTask, answerer: Answerer | Mapping[str, Answerer], dtype: str = "float32") -> None:
        self._task = task
        self._answerer = answerer
        self._dtype = dtype
        self.calls: list[str] = []
        self.engines: list[FakeEngine] = []

    def check_names(self, spec: RunSpec) -> FakePreset:
        self.calls.append("names")
        for kind, name, known in (
            ("model", spec.model, ["tiny", "small"]),
            ("method", spec.method, ["greedy", "var", "pai", "sample"]),
            ("task", spec.task, ["fake"]),
        ):
            if name not in known:
                raise unknown_name(kind, name, known)
        return FakePreset(spec.model, f"org/{spec.model}")

    def check_data(self, spec: RunSpec) -> None:
        self.calls.append("data")
        if not self._task.folder.is_dir():
            raise UsageError(f"{self._task.folder} does not exist")

    def check_model(self, preset: FakePreset) -> None:
        self.calls.append("model")

    def calibrations(self, spec: RunSpec, preset: FakePreset, identity: Mapping[str, Any]) -> Mapping[str, Any]:
        return {}

    def method(self, spec: RunSpec, preset: FakePreset, calibrations: Mapping[str, Any]) -> Any:
        self.calls.append("method")
        if spec.method == "sample":
            return get_method(spec.method, spec.method_params)
        params = {"tau": 20.0, **{key.partition(".")[2]: value for key, value in spec.method_params.items()}}
        return SimpleNamespace(name=spec.method, params=lambda: params, paper=None, generation=lambda asked: asked)

    def task(self, spec: RunSpec) -> FakeTask:
        self.calls.append("task")
        return self._task

    def adapter(self, preset: FakePreset, device: str, dtype: str) -> Any:
        self.calls.append(f"adapter {preset.name}")
        return SimpleNamespace(device="cpu", dtype=f"torch.{self._dtype}")

    def engine(
        self, adapter: Any, methods: Mapping[str, Any], batch_size: Any, seed: int, share_prefix: bool
    ) -> FakeEngine:
        names = {lane: method.name for lane, method in methods.items()}
        given = self._answerer
        answerers = {lane: given[name] if isinstance(given, Mapping) else given for lane, name in names.items()}
        self.engines.append(FakeEngine(answerers, names, share_prefix))
        return self.engines[-1]


def always(text: str) -> Answerer:
    return lambda request: text


def right(task: FakeTask, wrong: Container[int] = ()) -> Answerer:
    """Answers every question rightly but those numbered in `wrong`."""

    def answer(request: Request) -> str:
        index = int(request.id.partition("/")[2])
        label = task.label(index)
        return label if index not in wrong else {"yes": "no", "no": "yes"}[label]

    return answer


def stopping(answerer: Answerer, at: int, error: BaseException) -> Answerer:
    """Answers `at` questions, then fails with `error`."""
    asked: list[str] = []

    def answer(request: Request) -> str | BaseException:
        asked.append(request.id)
        if len(asked) > at:
            if isinstance(error, KeyboardInterrupt):
                return error
            raise error
        return answerer(request)

    return answer


def vary(spec: RunSpec, **changes: Any) -> RunSpec:
    return RunSpec(**{**spec.to_json(), **changes})


def lines(directory: Path, name: str = "samples.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / name).read_text().splitlines()]


def record_of(directory: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((directory / "run.json").read_text())
    return read


def write_images(folder: Path, n: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(n):
        (folder / f"{index}.png").write_bytes(f"pixels of image {index}".encode())
