"""A calibration on disk: what was found, on which model, from which data, by which code. No torch here."""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sinkbench.errors import SinkbenchError, UsageError
from sinkbench.methods import calibrated_for, method_class
from sinkbench.paths import NamedFile
from sinkbench.schemas import validate

SCHEMA_VERSION = 1

_FLAT_LIST = re.compile(r"\[([^\[\]{}\"]*)\]")
"""A list of numbers, which is written on one line."""


@dataclass(frozen=True)
class Calibration:
    """The content of a calibration's file (schemas/calibration.schema.json).

    Attributes:
        method: Whose hyper-parameters it holds.
        model: What it was measured on: name, and `record.model_identity` without what is no part of the weights.
        data: The questions behind it: task, split, seed or folder's name, fingerprints, number.
        settings: The calibrator's settings, defaults filled in.
        params: Hyper-parameters by field name.
        evidence: The numbers behind them.
        code: Version, commit and whether the tree was dirty.
        command: What makes it again, without paths of this machine.
        created: ISO 8601, UTC.
        files: Hyper-parameters too large for the file, which lie in one of their own beside it: the SHA-256 of each by
            the hyper-parameter that names it.
        sha256: Of the file that it was read from; empty for one that is not written yet.
        folder: Where that lies; None likewise.
    """

    method: str
    model: dict[str, Any]
    data: dict[str, Any]
    settings: dict[str, Any]
    params: dict[str, Any]
    evidence: dict[str, Any]
    code: dict[str, Any]
    command: str
    created: str
    files: dict[str, str] = field(default_factory=dict)
    sha256: str = ""
    folder: Path | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        rest = dataclasses.asdict(self)
        for name in ("sha256", "folder", *(() if self.files else ("files",))):
            del rest[name]
        return {"schema_version": SCHEMA_VERSION, **rest}

    @property
    def scoring(self) -> str:
        """The method for whose scores it is (`Method.calibrated_for`); empty where that makes no difference."""
        return calibrated_for(self.method, (), self.params)

    def summary(self) -> dict[str, Any]:
        """What run.json says of a calibration that a run used: enough to find it, and no path."""
        return {
            "name": ".".join(filter(None, (f"{self.method}/{self.model['name']}", self.scoring))),
            "created": self.created,
            "commit": self.code["commit"],
            "data": {key: self.data[key] for key in ("task", "split", "fingerprint")},
            "sha256": self.sha256,
            **({"files": self.files} if self.files else {}),
        }

    def values(self) -> dict[str, Any]:
        """The hyper-parameters; those that name files know where these lie."""
        return self.params | {name: NamedFile(self._path_of(name)) for name in self.files}

    def naming(self, contents: Mapping[str, bytes], stem: str) -> "Calibration":
        """The same with further hyper-parameters, each of which names a safetensors file.

        The name tells the content too, so that runs under other contents are other runs.

        Args:
            contents: Of the files, by hyper-parameter.
            stem: What their names begin with.
        """
        files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        names = {name: f"{stem}.{name}-{sha256[:12]}.safetensors" for name, sha256 in files.items()}
        return dataclasses.replace(self, params=self.params | names, files=self.files | files)

    def write(self, path: Path, contents: Mapping[str, bytes] | None = None) -> None:
        """Check against the schema and write the file, whole or not at all.

        What it names is written beside it before, and what an earlier one named there is removed after: whatever
        happens in between, there is a calibration with all its files.

        Args:
            path: The file.
            contents: What `files` has the hashes of, by hyper-parameter.

        Raises:
            SinkbenchError: It cannot be written.
        """
        document = self.to_json()
        validate(json.loads(json.dumps(document)), "calibration")
        before = _named_by(path)
        text = json.dumps(document, indent=1, ensure_ascii=False)
        text = _FLAT_LIST.sub(lambda match: f"[{' '.join(match[1].split())}]", text) + "\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for name, content in (contents or {}).items():
                _replace(path.with_name(self.params[name]), content)
            _replace(path, text.encode())
            for name in before - {self.params[name] for name in self.files}:
                path.with_name(name).unlink(missing_ok=True)
        except OSError as error:
            raise SinkbenchError(
                f"{path} cannot be written: {error.strerror}", "Choose another place with --output FILE."
            ) from error

    @classmethod
    def read(cls, path: Path) -> "Calibration":
        """Read and check a file.

        Raises:
            UsageError: There is none, or it is damaged.
        """
        try:
            content = path.read_bytes()
            document: dict[str, Any] = json.loads(content)
            validate(document, "calibration")
        except OSError as error:
            raise UsageError(
                f"calibration {path} cannot be read: {error.strerror}", "Check --set METHOD.calibration=FILE."
            ) from error
        except ValueError as error:
            raise UsageError(
                f"calibration {path} is damaged: {error}", "Remove it, or make it anew with `sinkbench calibrate`."
            ) from error
        del document["schema_version"]
        for name in document.get("files", {}):
            if not _is_file_name(document["params"].get(name)):
                raise UsageError(
                    f"calibration {path} is damaged: {name} names no file beside it",
                    "Remove it, or make it anew with `sinkbench calibrate`.",
                )
        return cls(**document, sha256=hashlib.sha256(content).hexdigest(), folder=path.parent)

    def check_method(self, method: str) -> None:
        """See that it is one for this method.

        Raises:
            UsageError: It is another's.
        """
        if method != self.method:
            raise UsageError(
                f"{method}.calibration: the file holds a calibration of {self.method}, not of {method}",
                f"sinkbench calibrate {method} --help shows how one is made.",
            )

    def check_model(self, name: str, identity: Mapping[str, Any]) -> None:
        """See that it was measured on these weights.

        Args:
            name: The preset's name.
            identity: From `record.model_identity`.

        Raises:
            UsageError: It was measured on others, or on these under other preprocessing.
        """
        if identifying(identity) == identifying(self.model):
            return
        raise UsageError(
            f"the calibration of {self.method} for {self.model['name']} (of {self.created}) was measured on other "
            f"weights or preprocessing than {name} has here",
            f"Measure anew: {self.again(name, self.data['task'])}. "
            f"Or leave it out: --set {self.method}.calibration=none",
        )

    def check_files(self) -> None:
        """See that the files that it names are there, and as they were written.

        Raises:
            UsageError: One is missing or damaged.
        """
        for name, sha256 in self.files.items():
            path = self._path_of(name)
            try:
                with open(path, "rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                problem = f"cannot be read: {error.strerror}"
            else:
                if found == sha256:
                    continue
                problem = "is damaged, or another one's"
            raise UsageError(
                f"{path}, the {name} of the calibration of {self.method} for {self.model['name']}, {problem}",
                "Put the file that came with the calibration beside it, or make both anew: "
                f"{self.again(self.model['name'], self.data['task'])}",
            )

    def _path_of(self, name: str) -> Path:
        """Where the file lies that a hyper-parameter names."""
        return (self.folder or Path()) / str(self.params[name])

    def check_unseen(self, task: str, *fingerprints: str) -> None:
        """See that it was not learned from the questions that a run asks.

        Args:
            task: Name of the run's task.
            fingerprints: The task's (`tasks.task_fingerprint`), that of its data set as a whole, or both.

        Raises:
            UsageError: It was.
        """
        if {self.data["fingerprint"], self.data["dataset"]} & {*fingerprints} - {""}:
            raise UsageError(
                f"the calibration of {self.method} for {self.model['name']} was learned from the very data that "
                f"{task} asks about here; its score would say nothing",
                f"Evaluate on other data, or measure anew on others: {self.again(self.model['name'], task)}",
            )

    def again(self, model: str, task: str | None) -> str:
        """The command that calibrates the method for a model in this way."""
        parts = ["sinkbench calibrate", self.method, "--model", model]
        if task:
            parts += ["--task", task]
        if self.scoring:
            parts += ["--set", f"{self.method}.{method_class(self.method).calibrated_for}={self.scoring}"]
        return " ".join(parts)


def _is_file_name(value: object) -> bool:
    return isinstance(value, str) and value not in ("", "..") and Path(value).name == value


def _named_by(path: Path) -> set[str]:
    """Names of the files that the calibration at `path` has beside it; none where there is none that can be read."""
    try:
        earlier = Calibration.read(path)
    except UsageError:
        return set()
    return {str(earlier.params[name]) for name in earlier.files}


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def identifying(model: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells models apart: local weights by content, the hub's by id and revision; and the preprocessing."""
    weights = (model["fingerprint"],) if model["fingerprint"] else (model["id"], model["revision"])
    return (*weights, model["options"])
