"""The page's pictures: scaled down, encoded once, and kept as data URIs."""

import base64
import hashlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from sinkbench.errors import SampleError
from sinkbench.request import ImageRef

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_SIDE = 384
"""Pixels of the longer side of a sample's image; larger ones are scaled down."""

MAX_OVERLAY_SIDE = 640
"""The same of an attention overlay, whose cells and numbers must stay readable."""

_QUALITY = 80


class Gallery:
    """Pictures by short names; equal ones have one name.

    Attributes:
        uris: From name to data URI (WebP).
        missing: Why images are not here, by the file's own name.
    """

    def __init__(self) -> None:
        self.uris: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        self._known: dict[tuple[str, int], str | None] = {}
        self._encoded: dict[str, str] = {}

    def add(self, image: ImageRef) -> str | None:
        """The name of a sample's image; None where its file is gone or is not what was asked about."""
        return self._once((image.key, MAX_SIDE), Path(image.path).name, lambda: _checked(image))

    def add_overlay(self, path: Path) -> str | None:
        """The name of an attention overlay; None where the file is no image."""
        return self._once((str(path), MAX_OVERLAY_SIDE), path.name, ImageRef(str(path)).load)

    def _once(self, key: tuple[str, int], file: str, load: "Callable[[], Image]") -> str | None:
        if key not in self._known:
            try:
                self._known[key] = self._encode(load(), key[1])
            except SampleError as error:
                self._known[key] = None
                self.missing[file] = str(error)
        return self._known[key]

    def _encode(self, image: "Image", side: int) -> str:
        # Only where larger: thumbnail() never enlarges.
        image.thumbnail((side, side))
        written = BytesIO()
        image.save(written, "WEBP", quality=_QUALITY, method=4)
        content = written.getvalue()
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self._encoded:
            name = self._encoded[digest] = str(len(self.uris))
            self.uris[name] = f"data:image/webp;base64,{base64.b64encode(content).decode()}"
        return self._encoded[digest]


def _checked(image: ImageRef) -> "Image":
    """The image, if the file still holds what the run asked about.

    Raises:
        SampleError: It does not.
    """
    try:
        content = Path(image.path).read_bytes()
    except OSError as error:
        raise SampleError(f"{Path(image.path).name} cannot be read: {error.strerror}") from error
    if image.sha256 and hashlib.sha256(content).hexdigest() != image.sha256:
        raise SampleError(f"{Path(image.path).name} has changed since the run")
    return image.load()
