"""JSON Schemas of what sinkbench writes, and their check."""

import json
from functools import cache
from pathlib import Path
from typing import Any


@cache
def schema(name: str) -> dict[str, Any]:
    """The JSON Schema NAME.schema.json of this folder: "run", "sample", "board", "baseline" and so on."""
    loaded: dict[str, Any] = json.loads((Path(__file__).parent / f"{name}.schema.json").read_text(encoding="utf-8"))
    return loaded


def validate(document: Any, name: str) -> None:
    """Check a document against a schema.

    Raises:
        ValueError: It does not conform; names the place and the rule.
    """
    problem = next(_validator(name).iter_errors(document), None)
    if problem is not None:
        raise ValueError(f"{name}.schema.json: {problem.json_path}: {problem.message}")


@cache
def _validator(name: str) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema(name))
