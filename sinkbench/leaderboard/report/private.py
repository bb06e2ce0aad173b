"""What of the machine must not be published: absolute paths in parameters and in reasons of failures."""

import math
import re
from typing import Any

_PATH = re.compile(
    r"(?<![\w:/\\.<])"  # Not within a URL, a relative path or a closing tag.
    r"(?:file://)?(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\"<>|:]+[/\\])+(?P<last>[^\s/\\'\"<>|:,;)\]]*)"
)


def without_paths(text: str) -> str:
    """The text with absolute paths cut down to their last part: "/home/me/cat.jpg is gone" to "cat.jpg is gone"."""
    return _PATH.sub(lambda match: match["last"] or "…", text)


def publishable(value: Any) -> Any:
    """A JSON value without absolute paths, and with null for numbers that JSON does not know (NaN, infinities)."""
    if isinstance(value, str):
        return without_paths(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {without_paths(str(key)): publishable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [publishable(entry) for entry in value]
    return value
