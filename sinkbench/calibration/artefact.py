"""A calibration on disk: what was found, on which model, from which data, by which code. No torch here."""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinkbench.errors import SinkbenchError, UsageError
from sinkbench.methods import calibrated_for, method_class
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
        sha256: Of the file that it was read from; empty for one that is not written yet.
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
    sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        rest = dataclasses.asdict(self)
        del rest["sha256"]
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
        }

    def write(self, path: Path) -> None:
        """Check against the schema and write the file, whole or not at all.

        Raises:
            SinkbenchError: It cannot be written.
        """
        document = self.to_json()
        validate(json.loads(json.dumps(document)), "calibration")
        text = json.dumps(document, indent=1, ensure_ascii=False)
        text = _FLAT_LIST.sub(lambda match: f"[{' '.join(match[1].split())}]", text) + "\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, text)
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
        return cls(**document, sha256=hashlib.sha256(content).hexdigest())

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


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def identifying(model: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells models apart: local weights by content, the hub's by id and revision; and the preprocessing."""
    weights = (model["fingerprint"],) if model["fingerprint"] else (model["id"], model["revision"])
    return (*weights, model["options"])
