"""What a calibrator is: frozen settings, and how the hyper-parameters of a method are measured on a model."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from sinkbench.adapters.base import Adapter
from sinkbench.backend import Task
from sinkbench.methods.base import Method
from sinkbench.request import Request

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels of the image."""

Progress = Callable[[int, int], None]
"""Called with the number of steps done and that of all."""


@dataclass(frozen=True)
class Question:
    """A question of the calibration data.

    Attributes:
        request: What is asked.
        answer: The right answer.
        subject: Name of the object that is asked about; empty where the data do not say.
        boxes: Where the image shows objects of that name; empty where the data do not say.
    """

    request: Request
    answer: str
    subject: str = ""
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, eq=False)
class Bench:
    """What a calibrator has to work with.

    Attributes:
        adapter: The model.
        method: The method, with the parameters that hold without calibration.
        questions: Questions that no evaluation asks; empty where a calibrator needs none.
        task: Scores answers to them (`variants.score_variants`); None where there are no questions.
        seed: For whatever is drawn at random.
        batch_size: Most samples a batch.
        progress: To be told how far it is.
        scoring: Parameters, by name, of the method for whose scores it is calibrated (`Method.calibrated_for`).
    """

    adapter: Adapter
    method: Method
    questions: Sequence[Question] = ()
    task: Task | None = None
    seed: int = 0
    batch_size: int | Literal["auto"] = "auto"
    progress: Progress = lambda _done, _total: None
    scoring: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What a calibrator found.

    Attributes:
        params: Hyper-parameters of the method by field name, JSON-ready.
        evidence: The numbers behind them, JSON-ready.
        table: What to show of it: a header and rows.
        tensors: Further hyper-parameters by field name, each of them tensors by name that go into a safetensors file
            beside the calibration; the method is given the file's name, a `paths.NamedFile`.
    """

    params: dict[str, Any]
    evidence: dict[str, Any]
    table: list[tuple[str, ...]] = field(default_factory=list)
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Calibrator:
    """Settings of a calibration; subclass fields are the settings, `--set METHOD.SETTING=VALUE`.

    No setting is called as a hyper-parameter of the method: both are given in the same way.

    Class attributes:
        needs_task: Whether it needs a task's questions. Otherwise it takes those of a task if one is given.
        scoring: The method for whose scores it calibrates unless the field `Method.calibrated_for` names another;
            empty where the method has no such field.
    """

    needs_task: ClassVar[bool] = True
    scoring: ClassVar[str] = ""

    def check_task(self, task: str) -> None:
        """See that a task's questions are of the kind that is needed, before anything is loaded.

        Raises:
            UsageError: They are not.
        """

    def measure(self, bench: Bench) -> Found:
        """Measure.

        Raises:
            SinkbenchError: Nothing was found that the method could use.
        """
        raise NotImplementedError

    def draw(self, evidence: dict[str, Any], title: str, path: Path) -> bool:
        """Draw the evidence into a PNG; whether there is anything to draw."""
        return False

    def settings(self) -> dict[str, Any]:
        """The settings by name, JSON-ready."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
