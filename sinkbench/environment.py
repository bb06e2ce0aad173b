"""What a run was made with: versions, machine, git commit."""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from typing import Any

from sinkbench.paths import PACKAGE

PACKAGES = (
    "sinkbench",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "pillow",
    "numpy",
    "lm_eval",
    "datasets",
    "pycocotools",
    "nltk",
)


def environment() -> dict[str, Any]:
    """The `env` entry of run.json.

    The accelerator is described only where torch is loaded already: preparing or scoring a run needs none.
    """
    commit, dirty = git_state()
    return {
        "git": {"commit": commit, "dirty": dirty},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "packages": package_versions(),
        "gpu": gpus() if "torch" in sys.modules else [],
    }


def package_versions() -> dict[str, str | None]:
    """Versions of the packages that can change a score; None where one is not installed."""
    return {name: _version(name) for name in PACKAGES}


@cache
def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def git_state() -> tuple[str | None, bool | None]:
    """Commit of the source checkout and whether tracked files differ from it; (None, None) for an installed wheel.

    Files below results/ are output, so that writing one board does not mark the next run as dirty. A copy of the tree
    on another machine may have another history or none: there, `SINKBENCH_COMMIT` names the commit that was copied.
    """
    copied = os.environ.get("SINKBENCH_COMMIT")
    if copied:
        return copied, None
    if not (PACKAGE.parent / ".git").exists():
        return None, None
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)results")
    return commit or None, None if changed is None else bool(changed)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(PACKAGE.parent), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def gpus() -> list[dict[str, Any]]:
    """Name, memory in bytes and compute capability of every visible CUDA device."""
    import torch

    if not torch.cuda.is_available():
        return []
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    cuda = torch.version.cuda
    return [
        {"name": p.name, "total_bytes": p.total_memory, "capability": f"{p.major}.{p.minor}", "cuda": cuda}
        for p in properties
    ]
