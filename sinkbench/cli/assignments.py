"""What `--set` says."""

import re
from collections.abc import Iterable
from typing import Any

import yaml

from sinkbench.errors import UsageError


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Parameters from `--set OWNER.PARAM=VALUE`; values are YAML scalars or flow lists.

    Raises:
        UsageError: An assignment has another form.
    """
    params: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        owner, dot, name = key.strip().partition(".")
        if not (equals and dot and owner and name):
            raise UsageError(
                f"--set {assignment!r} is not of the form METHOD.PARAM=VALUE", "For example: --set var.tau=5"
            )
        params[f"{owner}.{name}"] = _scalar(text)
    return params


def task_params(task: str, assignments: Iterable[str]) -> dict[str, Any]:
    """Parameters of one task from `--set TASK.PARAM=VALUE`, keys without the task's name.

    Raises:
        UsageError: An assignment has another form, or belongs to something else.
    """
    params = parse_assignments(assignments)
    for key in params:
        if key.partition(".")[0] != task:
            raise UsageError(
                f"parameter {key!r} does not belong to {task}",
                f"This command takes parameters of the task only: --set {task}.PARAM=VALUE.",
            )
    return {key.partition(".")[2]: value for key, value in params.items()}


def _scalar(text: str) -> Any:
    # YAML 1.1 reads 1e-3 as a string, because it wants a dot.
    if re.fullmatch(r"\s*[+-]?\d+[eE][+-]?\d+\s*", text):
        return float(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
