"""Images of documents: on disk or embedded in a data set, opened late and held once."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from sinkbench.request import ImageRef

if TYPE_CHECKING:
    from PIL.Image import Image

_OPEN: "WeakValueDictionary[str, Image]" = WeakValueDictionary()
"""Images that some request still holds, by path, so that all questions on an image share its pixels."""


def open_image(document: Mapping[str, Any]) -> "Image":
    """A document's image, header read, pixels not yet decoded; no file stays open.

    Raises:
        OSError: The file is missing or no image. A truncated one fails later, when its pixels are asked for.
    """
    from PIL import Image

    path = document["image_path"]
    if not path:
        return Image.open(io.BytesIO(document["image"]["bytes"]))
    image = _OPEN.get(path)
    if image is None:
        image = _OPEN[path] = Image.open(io.BytesIO(Path(path).read_bytes()))
    return image


class ImageFiles:
    """Refers to documents' images by file, reading and hashing each file once.

    Args:
        folder: Where embedded images are written, named after their hash; not used for images on disk.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, ImageRef] = {}

    def refer(self, document: Mapping[str, Any]) -> ImageRef:
        """A document's image.

        A missing file is referred to without hash: its sample fails when it is opened, and the others go on.

        Args:
            document: A row with "image_path", or with embedded bytes under "image".
        """
        path = document["image_path"]
        if not path:
            return self._write(document["image"]["bytes"])
        if path not in self._known:
            self._known[path] = ImageRef.from_file(path) if Path(path).is_file() else ImageRef(path)
        return self._known[path]

    def _write(self, content: bytes) -> ImageRef:
        digest = hashlib.sha256(content).hexdigest()
        path = self._folder / f"{digest[:32]}{_suffix(content)}"
        if not path.is_file():
            self._folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return ImageRef(str(path), digest)


def _suffix(content: bytes) -> str:
    return ".png" if content.startswith(b"\x89PNG") else ".jpg"
