"""NLTK's data: fetched from its index, or unpacked from an archive where there is no network."""

import io
import os
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

from sinkbench.errors import UsageError

CATEGORIES = {"punkt_tab": "tokenizers", "averaged_perceptron_tagger_eng": "taggers", "wordnet": "corpora"}
"""Sub-folder of each resource that CHAIR's and AMBER's text pipelines need."""

_HINT = (
    "On a machine with a network: `sinkbench data nltk`, then `tar czf nltk_data.tar.gz -C DIR/.. nltk_data` with the "
    "folder that it prints; here: `sinkbench data nltk --from nltk_data.tar.gz`."
)


def nltk_folder() -> Path:
    """Where NLTK's data go: the first folder of $NLTK_DATA, else the one that NLTK itself would take."""
    if given := os.environ.get("NLTK_DATA"):
        return Path(given.split(os.pathsep)[0])
    from nltk.downloader import Downloader

    return Path(Downloader().default_download_dir())


def missing_nltk(folder: Path | None = None) -> list[str]:
    """The resources that are not there.

    Args:
        folder: A folder of NLTK's data; None looks wherever NLTK does.
    """
    import nltk

    paths = [str(folder)] if folder else [*nltk.data.path, str(nltk_folder())]

    def found(name: str) -> bool:
        places = [Path(path) / CATEGORIES[name] for path in paths]
        return any((place / name).is_dir() or (place / f"{name}.zip").is_file() for place in places)

    return [name for name in CATEGORIES if not found(name)]


def fetch_nltk(source: Path | None = None) -> Path:
    """Put NLTK's three resources where NLTK finds them; what is there already is left alone.

    Args:
        source: A tar or zip archive of an nltk_data folder; None downloads from NLTK's index.

    Returns:
        The folder that holds them.

    Raises:
        UsageError: The archive is none or lacks a resource, the network is out of reach, or the folder cannot be
            written.
    """
    folder = nltk_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if source is None:
            _download(folder)
        else:
            _unpack(source, folder)
    except OSError as error:
        raise UsageError(
            f"NLTK's data cannot be written to {folder}: {error}", "Set NLTK_DATA to another folder."
        ) from error
    return folder


def _download(folder: Path) -> None:
    import nltk

    for name in missing_nltk(folder):
        try:
            done = nltk.download(name, str(folder), quiet=True, raise_on_error=True, print_error_to=io.StringIO())
        except ValueError as error:
            raise UsageError(f"NLTK's {name} cannot be downloaded: {' '.join(str(error).split())}", _HINT) from error
        if not done:
            raise UsageError(f"NLTK's {name} cannot be downloaded", _HINT)


def _unpack(source: Path, folder: Path) -> None:
    """Copy the resources that an archive holds, at whatever depth, and nothing else of it."""
    if not source.is_file():
        raise UsageError(f"--from {source} is no file", "Leave --from out to download NLTK's data.")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as scratch:
        unpack(source, Path(scratch))
        found = {name: _resource(Path(scratch), name) for name in CATEGORIES}
        lacking = [name for name, place in found.items() if place is None and name in missing_nltk(folder)]
        if lacking:
            raise UsageError(f"{source} does not hold NLTK's {', '.join(lacking)}", _HINT)
        for name in missing_nltk(folder):
            place = found[name]
            assert place is not None
            target = folder / CATEGORIES[name] / place.name
            target.parent.mkdir(exist_ok=True)
            shutil.move(place, target)


def unpack(source: Path, folder: Path) -> None:
    """Write the files of a tar or zip archive below a folder.

    Raises:
        UsageError: It is no archive, is damaged, or a file of it would lie elsewhere.
    """
    try:
        if tarfile.is_tarfile(source):
            with tarfile.open(source) as tar:
                _extract(tar, folder)
        else:
            with zipfile.ZipFile(source) as archive:
                archive.extractall(folder)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise UsageError(f"{source} is no tar or zip archive that can be unpacked: {error}", _HINT) from error


def _extract(tar: tarfile.TarFile, folder: Path) -> None:
    """Write the files only: `extractall(filter="data")`, which makes links safe too, came with Python 3.11.4."""
    for member in tar:
        if member.isfile() and (content := tar.extractfile(member)) is not None:
            target = (folder / member.name).resolve()
            if not target.is_relative_to(folder.resolve()):
                raise tarfile.TarError(f"{member.name} would lie elsewhere")
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, open(target, "wb") as file:
                shutil.copyfileobj(content, file)


def _resource(folder: Path, name: str) -> Path | None:
    """A resource within an unpacked nltk_data folder, unpacked or as NLTK's own zip file."""
    places = [path for suffix in ("", ".zip") for path in folder.rglob(f"{CATEGORIES[name]}/{name}{suffix}")]
    return places[0] if places else None
