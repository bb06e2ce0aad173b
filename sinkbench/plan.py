"""What is to be run: specs that have passed every check, and which of them share their work."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from sinkbench.backend import Backend
from sinkbench.errors import UsageError
from sinkbench.record import model_identity
from sinkbench.request import Generation
from sinkbench.spec import RunSpec, run_id
from sinkbench.store import check_writable

if TYPE_CHECKING:
    from sinkbench.adapters import ModelPreset
    from sinkbench.calibration.artefact import Calibration
    from sinkbench.methods.base import Method


@dataclass(frozen=True)
class Plan:
    """A run that has passed the checks.

    Attributes:
        spec: What was asked for.
        preset: Its model.
        method: Its method with all parameters.
        identity: What identifies the weights (record.model_identity).
        calibrations: Where parameters of the method come from, by the composed methods' names.
    """

    spec: RunSpec
    preset: "ModelPreset"
    method: "Method"
    identity: dict[str, Any]
    calibrations: "Mapping[str, Calibration]" = field(default_factory=dict)

    @property
    def title(self) -> str:
        """For progress and messages."""
        return joint_title([self])

    @property
    def key(self) -> str:
        """Equal for the same spec."""
        return self.spec.model_dump_json()

    @property
    def stem(self) -> str:
        """The run directory's name without the run id."""
        parts = (self.preset.name, self.spec.method, self.spec.task)
        return "__".join(re.sub(r"[^\w.+-]", "_", part) for part in parts)

    @property
    def conditions(self) -> str:
        """Equal for runs that differ in nothing but their method, and may share their work."""
        method = {"method", "params"} if self.spec.share_prefix else set()
        same = [self.spec.model_dump(mode="json", exclude=method), self.spec.task_params]
        return json.dumps(same, sort_keys=True, default=str)

    def run_id(self, task: dict[str, Any]) -> str:
        """The run's id, given the description of its task."""
        deciding = {key: task[key] for key in ("name", "version", "fingerprint")}
        return run_id(self.spec, model=self.identity, method_params=self.method.params(), task=deciding)


def joint_title(plans: Sequence[Plan]) -> str:
    """A title for runs of one model and task."""
    first = plans[0]
    return f"{first.preset.name} × {', '.join(plan.spec.method for plan in plans)} × {first.spec.task}"


def sweeps(plans: Iterable[Plan]) -> list[list[Plan]]:
    """Runs that may share their work together, in the order of the first of each."""
    groups: dict[str, list[Plan]] = {}
    for plan in plans:
        groups.setdefault(plan.conditions, []).append(plan)
    return list(groups.values())


def check(
    specs: Sequence[RunSpec], backend: Backend, identities: dict[str, dict[str, Any]] | None = None
) -> list[Plan]:
    """Check all runs, the cheap things first, so that a typing error in the last one costs no time.

    Args:
        specs: The runs.
        backend: Knows names, data and models.
        identities: Of models by path, as far as they are known; others are added, for the next call.

    Raises:
        UsageError: Something is wrong.
    """
    presets = [backend.check_names(spec) for spec in specs]
    for output in {spec.output for spec in specs}:
        check_writable(output)
    inputs: list[Callable[[], None]] = []
    for spec, preset in zip(specs, presets, strict=True):
        if spec.stage in ("all", "prepare"):
            inputs.append(partial(backend.check_data, spec))
        if spec.stage in ("all", "answer") or preset.is_local:
            inputs.append(partial(backend.check_model, preset))
    _check_all(inputs)
    identities = {} if identities is None else identities
    for preset in presets:
        if preset.path not in identities:
            identities[preset.path] = model_identity(preset)
    plans = []
    for spec, preset in zip(specs, presets, strict=True):
        calibrations = backend.calibrations(spec, preset, identities[preset.path])
        method = backend.method(spec, preset, calibrations)
        _check_generation(spec, method)
        plans.append(Plan(spec, preset, method, identities[preset.path], calibrations))
    return plans


def _check_generation(spec: RunSpec, method: "Method") -> None:
    """See that the method answers as the run asks, which it does not where it has the same setting of its own.

    Raises:
        UsageError: It does not.
    """
    asked = spec.generation.apply(Generation())
    used = method.generation(asked)
    for name in spec.generation.model_dump(exclude_none=True):
        if (own := getattr(used, name)) != getattr(asked, name):
            raise UsageError(
                f"{spec.method} answers with {name} {own}, and the run asks for {getattr(asked, name)}",
                f"Leave {name} of the run out; `sinkbench list methods` shows what {spec.method} lets you set.",
            )


def _check_all(checks: Sequence[Callable[[], None]]) -> None:
    """Do every check and tell all that is missing at once: fetching a model to learn that data lack too helps nobody.

    Raises:
        UsageError: The errors of all checks that failed.
    """
    faults: dict[str, UsageError] = {}
    for check_input in checks:
        try:
            check_input()
        except UsageError as error:
            faults.setdefault(error.message, error)
    if faults:
        raise UsageError("\n".join(faults), "\n→ ".join(fault.hint for fault in faults.values()))
