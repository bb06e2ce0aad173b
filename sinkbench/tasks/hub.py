"""Data sets on the Hugging Face hub: is one in the cache or within reach, and where do its files lie?"""

from pathlib import Path

from sinkbench.errors import UsageError

TIMEOUT_S = 5.0


def cached_snapshot(hub: str, pattern: str) -> Path | None:
    """The folder of a data set in the hub cache, or None.

    Args:
        hub: Data-set id.
        pattern: Glob of the files that it must hold.
    """
    from huggingface_hub import constants

    snapshots = Path(constants.HF_HUB_CACHE) / f"datasets--{hub.replace('/', '--')}" / "snapshots"
    found = [folder for folder in snapshots.glob("*") if any(folder.glob(pattern))]
    return max(found, key=lambda folder: folder.stat().st_mtime, default=None)


def reachable(hub: str) -> str:
    """Why a data set cannot be downloaded; empty when it can."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        HfApi().dataset_info(hub, timeout=TIMEOUT_S)
    except Exception as error:  # The client's errors have no common base, and each means: get the data another way.
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no answer'}"
    return ""


def check_hub(hubs: list[str], pattern: str, task: str, layout: str) -> None:
    """Make sure that one of several copies of a data set can be had.

    Args:
        hubs: Data-set ids, the preferred one first.
        pattern: Glob of the files needed.
        task: The task that needs them.
        layout: What a folder given by `--data-dir` must hold, in words.

    Raises:
        UsageError: None is in the cache, and none can be reached.
    """
    if any(cached_snapshot(hub, pattern) for hub in hubs):
        return
    reasons = []
    for hub in hubs:
        reason = reachable(hub)
        if not reason:
            return
        reasons.append(f"{hub}: {reason}")
    raise UsageError(
        f"the data of {task} are neither in the cache nor within reach ({'; '.join(reasons)})",
        f"Add `--data-dir DIR` with {layout}; or run `hf download --repo-type dataset {hubs[0]}` on a machine with "
        "access and copy its hub cache (HF_HOME) here.",
    )


def fetch(hubs: list[str], pattern: str) -> Path:
    """The folder of a data set: from the cache, else downloaded.

    Raises:
        UsageError: No copy could be downloaded.
    """
    from huggingface_hub import snapshot_download

    for hub in hubs:
        folder = cached_snapshot(hub, pattern)
        if folder is not None:
            return folder
    for hub in hubs:
        if not reachable(hub):
            return Path(snapshot_download(hub, repo_type="dataset", allow_patterns=[pattern]))
    raise UsageError(f"none of {', '.join(hubs)} can be downloaded", "Add `--data-dir DIR` with a local copy.")
