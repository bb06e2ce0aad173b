"""What a config file says with the flags of the command line on top."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sinkbench.cli.assignments import parse_assignments
from sinkbench.spec import at_scale, read_config, with_flags


def merged(
    config: Path | None,
    flags: Mapping[str, Any],
    assignments: list[str],
    max_new_tokens: int | None,
    scale: str = "full",
) -> dict[str, Any]:
    """The config file's settings, at a scale, with the flags on top.

    Parameters and generation settings are merged key by key.
    """
    given = {key: value for key, value in flags.items() if value not in (None, [])}
    if str(size := given.get("batch_size")).isdigit():
        given["batch_size"] = int(str(size))
    settings = with_flags(at_scale(read_config(config) if config else {}, scale), given)
    if assignments:
        settings["params"] = {**(settings.get("params") or {}), **parse_assignments(assignments)}
    if max_new_tokens is not None:
        settings["generation"] = {**(settings.get("generation") or {}), "max_new_tokens": max_new_tokens}
    return settings
