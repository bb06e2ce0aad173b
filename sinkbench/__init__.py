"""sinkbench: compare training-free interventions on vision-language models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sinkbench.api.attaching import Attached, attach
    from sinkbench.api.evaluating import Evaluation, Evaluations, Metric, evaluate
    from sinkbench.errors import IncompleteError, SinkbenchError, UsageError

__version__ = "0.1.0"

__all__ = [
    "Attached",
    "Evaluation",
    "Evaluations",
    "IncompleteError",
    "Metric",
    "SinkbenchError",
    "UsageError",
    "__version__",
    "attach",
    "evaluate",
]

_MODULES = {
    "Attached": "api.attaching",
    "Evaluation": "api.evaluating",
    "Evaluations": "api.evaluating",
    "IncompleteError": "errors",
    "Metric": "api.evaluating",
    "SinkbenchError": "errors",
    "UsageError": "errors",
    "attach": "api.attaching",
    "evaluate": "api.evaluating",
}
"""Where each name is; imported when it is first used, so that `import sinkbench` costs nothing."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
