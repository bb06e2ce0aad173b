"""`sinkbench doctor`: is everything there that a run needs?"""

from collections.abc import Iterable

from sinkbench.errors import UsageError


def doctor() -> None:
    """Show versions and devices, and which models and tasks can run without a network."""
    from sinkbench.cli.console import output_console

    console = output_console()
    for title, rows in (
        ("Versions", _versions()),
        ("Devices", _devices()),
        ("Models on this machine", _models()),
        ("Task data on this machine", _tasks()),
        ("Language data", _nltk()),
    ):
        console.print(title, style="bold")
        for name, state in rows:
            console.print(f"  {name:<24} {state}", highlight=False, markup=False, soft_wrap=True)


def _versions() -> Iterable[tuple[str, str]]:
    from sinkbench.environment import environment

    env = environment()
    yield "python", f"{env['python']} on {env['platform']}, {env['cpu_count']} cores"
    for name, version in env["packages"].items():
        yield name, version or "not installed"
    git = env["git"]
    if git["commit"]:
        yield "source", f"{git['commit'][:10]}{', with uncommitted changes' if git['dirty'] else ''}"


def _devices() -> Iterable[tuple[str, str]]:
    import torch

    from sinkbench.environment import gpus

    yield "cpu", f"{torch.get_num_threads()} threads"
    for index, gpu in enumerate(gpus()):
        yield f"cuda:{index}", f"{gpu['name']}, {gpu['total_bytes'] / 2**30:.0f} GiB"


def _models() -> Iterable[tuple[str, str]]:
    from sinkbench.adapters import model_names, resolve_model
    from sinkbench.cli.offline import model_is_here

    for name in model_names():
        preset = resolve_model(name)
        yield name, "ready" if model_is_here(preset) else f"not here; needs {preset.source}, or --model DIR"


def _tasks() -> Iterable[tuple[str, str]]:
    from sinkbench.cli.offline import task_is_here
    from sinkbench.tasks import task_info, task_names

    for name in task_names():
        info = task_info(name)
        needed = info.hub or ("the shipped scenes" if info.source == "scenes" else "")
        missing = f"not here; needs {needed}, or --data-dir DIR" if needed else "needs --data-dir DIR"
        yield name, "ready" if task_is_here(name) else missing


def _nltk() -> Iterable[tuple[str, str]]:
    from sinkbench.scoring.lemmatize import nltk_lemmas

    try:
        nltk_lemmas("two dogs", frozenset())
    except (ImportError, UsageError):
        yield "nltk", "not here; the nltk lemmatizer needs `sinkbench data nltk`"
    else:
        yield "nltk", "ready"
