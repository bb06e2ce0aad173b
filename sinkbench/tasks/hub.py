"""Data sets on the Hugging Face hub: is one in the cache or within reach, and where do its files lie?"""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from sinkbench.errors import UsageError

TIMEOUT_S = 5.0


def missing_shards(files: Iterable[Path]) -> list[str]:
    """Names of parquet files that are not among those of a split, by the count in their names ("test-00000-of-00003").

    Args:
        files: What is there; files of another form say nothing.
    """
    found: dict[tuple[Path, str, int], set[int]] = defaultdict(set)
    for path in files:
        if match := re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})(.*)\.parquet", path.name):
            found[path.parent, match[1], int(match[3])].add(int(match[2]))
    return [
        f"{stem}-{index:05}-of-{n:05}.parquet"
        for (_, stem, n), there in sorted(found.items())
        for index in range(n)
        if index not in there
    ]


def cached_snapshot(hub: str, pattern: str, revision: str = "") -> Path | None:
    """The folder of a data set in the hub cache, or None; one that a broken download left incomplete does not count.

    Args:
        hub: Data-set id.
        pattern: Glob of the files that it must hold.
        revision: Commit, branch or tag; empty takes the newest that is there.
    """
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE) / f"datasets--{hub.replace('/', '--')}"
    named = cache / "refs" / revision
    wanted = named.read_text(encoding="utf-8").strip() if revision and named.is_file() else revision
    found = [folder for folder in (cache / "snapshots").glob(f"{wanted}*") if _is_whole(list(folder.glob(pattern)))]
    return max(found, key=lambda folder: folder.stat().st_mtime, default=None)


def _is_whole(files: list[Path]) -> bool:
    return bool(files) and not missing_shards(files)


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


def check_hub(hubs: list[str], pattern: str, task: str, layout: str, revision: str = "") -> None:
    """Make sure that one of several copies of a data set can be had.

    Args:
        hubs: Data-set ids, the preferred one first.
        pattern: Glob of the files needed.
        task: The task that needs them.
        layout: What a folder given by `--data-dir` must hold, in words.
        revision: See `cached_snapshot`.

    Raises:
        UsageError: None is in the cache, and none can be reached; or there are none.
    """
    if not hubs:
        raise UsageError(f"{task} needs data of yours", f"Add `--data-dir DIR` with {layout}.")
    if any(cached_snapshot(hub, pattern, revision) for hub in hubs):
        return
    reasons = []
    for hub in hubs:
        reason = reachable(hub)
        if not reason:
            return
        reasons.append(f"{hub}: {reason}")
    raise UsageError(
        f"the data of {task} are neither in the cache nor within reach ({'; '.join(reasons)})",
        f"Add `--data-dir DIR` with {layout}; or run `sinkbench data export {task} --out DIR` on a machine with "
        "access, and copy the folder here.",
    )


def fetch(hubs: list[str], pattern: str, revision: str = "") -> Path:
    """The folder of a data set: from the cache, else downloaded.

    Args:
        hubs: Data-set ids, the preferred one first.
        pattern: Glob of the files needed.
        revision: See `cached_snapshot`.

    Raises:
        UsageError: No copy could be downloaded.
    """
    from huggingface_hub import snapshot_download

    for hub in hubs:
        folder = cached_snapshot(hub, pattern, revision)
        if folder is not None:
            return folder
    for hub in hubs:
        if not reachable(hub):
            return Path(
                snapshot_download(hub, repo_type="dataset", revision=revision or None, allow_patterns=[pattern])
            )
    raise UsageError(f"none of {', '.join(hubs)} can be downloaded", "Add `--data-dir DIR` with a local copy.")
