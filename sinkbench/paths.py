"""Where the files that travel with sinkbench lie: in the wheel or in a source checkout."""

import gzip
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


class NamedFile(str):
    """A file's name, which is all that a record should say of it, and where the file lies here.

    Attributes:
        path: Where.
    """

    path: Path

    def __new__(cls, path: str | Path) -> "NamedFile":
        """From its place."""
        named = super().__new__(cls, Path(path).name)
        named.path = Path(path)
        return named


def resource(name: str) -> Path:
    """The folder of YAML files called `name` ("tasks" or "configs").

    A wheel holds them under `sinkbench/_resources`; a source checkout holds them beside the package.
    """
    packaged = PACKAGE / "_resources" / name
    return packaged if packaged.is_dir() else PACKAGE.parent / name


def asset(name: str) -> Path:
    """The path of a shipped asset, for example `asset("tiny-llava")` or `asset("scenes/val")`."""
    return PACKAGE / "assets" / name


def read_packed(path: Path) -> str:
    """The text of a file, or of the gzip file NAME.gz in its place: the larger shipped question files are packed.

    Raises:
        OSError: There is neither, or it cannot be read.
    """
    packed = path.with_name(f"{path.name}.gz")
    if path.exists() or not packed.exists():
        return path.read_text(encoding="utf-8")
    return gzip.decompress(packed.read_bytes()).decode("utf-8")
