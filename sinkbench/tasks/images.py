"""Images of documents: on disk or embedded in a data set, opened late and held once."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from sinkbench.request import ImageRef
from sinkbench.tasks.cells import is_cell, read_cell

if TYPE_CHECKING:
    from PIL.Image import Image

_OPEN: "WeakValueDictionary[str, Image]" = WeakValueDictionary()
"""Images that some request still holds, by path, so that all questions on an image share its pixels."""


class BrokenImage:
    """Stands for an image that cannot be opened, so that lm-eval can ask the other questions.

    Args:
        reason: Why it cannot.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def convert(self, mode: str) -> "Image":
        """As of a PIL image whose content is damaged.

        Raises:
            OSError: Always.
        """
        raise OSError(self.reason)


def open_images(document: Mapping[str, Any]) -> "list[Image | BrokenImage]":
    """A document's images in the order of the prompt, headers read, pixels not yet decoded; no file stays open.

    One that is missing or no image becomes a `BrokenImage`; a truncated one fails when its pixels are asked for.
    """
    return [image for place in places(document) for image in _open(place)]


def _open(place: str | bytes) -> "list[Image | BrokenImage]":
    if isinstance(place, bytes):
        return [_decoder(place, "an embedded image")]
    if is_cell(place):
        return [_shared(f"{place}#{index}", content) for index, content in enumerate(read_cell(place))]
    known = _OPEN.get(place)
    if known is not None:
        return [known]
    try:
        return [_shared(place, Path(place).read_bytes())]
    except OSError as error:
        return [BrokenImage(f"image {place} cannot be read: {error}")]


def _shared(name: str, content: bytes) -> "Image | BrokenImage":
    """The image of that name that some request still holds, or one made of the content."""
    image = _OPEN.get(name)
    if image is not None:
        return image
    made = _decoder(content, f"image {name}")
    if not isinstance(made, BrokenImage):
        _OPEN[name] = made
    return made


def _decoder(content: bytes, name: str) -> "Image | BrokenImage":
    from PIL import Image

    try:
        return Image.open(io.BytesIO(content))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return BrokenImage(f"{name} cannot be read: {error}")


def places(document: Mapping[str, Any]) -> list[str | bytes]:
    """File, cell (`cells`) or content of each image.

    A document has "image_path", or "image_paths" where there may be several, or embedded images under "image", one or a
    list; a missing one (None) becomes empty content, which no decoder takes.
    """
    if paths := document.get("image_paths"):
        return list(paths)
    if path := document.get("image_path"):
        return [path]
    embedded = document.get("image")
    each = embedded if isinstance(embedded, list) else [embedded] if embedded is not None else []
    return [(one or {}).get("bytes") or b"" for one in each]


class ImageFiles:
    """Refers to documents' images by file, reading and hashing each file once.

    Args:
        folder: Where embedded images are written, named after their hash; not used for images on disk.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, tuple[ImageRef, ...]] = {}

    def refer(self, document: Mapping[str, Any]) -> tuple[ImageRef, ...]:
        """A document's images, in the order of the prompt.

        A missing file is referred to without hash: its sample fails when it is opened, and the others go on.

        Args:
            document: A row as `open_images` takes it.
        """
        return tuple(image for place in places(document) for image in self._refer(place))

    def _refer(self, place: str | bytes) -> tuple[ImageRef, ...]:
        if isinstance(place, bytes):
            return (self._write(place),)
        if place not in self._known:
            self._known[place] = self._read(place)
        return self._known[place]

    def _read(self, place: str) -> tuple[ImageRef, ...]:
        if is_cell(place):
            return tuple(self._write(content) for content in read_cell(place))
        return (ImageRef.from_file(place) if Path(place).is_file() else ImageRef(place),)

    def _write(self, content: bytes) -> ImageRef:
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self._known:
            path = self._folder / f"{digest[:32]}{_suffix(content)}"
            if not path.is_file():
                self._folder.mkdir(parents=True, exist_ok=True)
                # A process that is killed here leaves no half image under the name that says it is whole.
                partial = path.with_name(f"{path.name}.tmp")
                partial.write_bytes(content)
                partial.replace(path)
            self._known[digest] = (ImageRef(str(path), digest),)
        return self._known[digest][0]


def _suffix(content: bytes) -> str:
    return ".png" if content.startswith(b"\x89PNG") else ".jpg"
