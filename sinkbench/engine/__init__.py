"""The engine: prompts in, answers out, with a method consulted at each stage it touches."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sinkbench.engine.generate import Engine

__all__ = ["Engine"]


def __getattr__(name: str) -> Any:
    # Methods import engine.context; loading the whole engine for that would be a cycle.
    if name == "Engine":
        from sinkbench.engine.generate import Engine

        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
