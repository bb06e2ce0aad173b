"""Copies of a run's images that travel with it to another machine."""

import shutil
from dataclasses import replace
from os.path import relpath
from pathlib import Path

from sinkbench.request import ImageRef, Request


def with_copied_images(request: Request, folder: Path, directory: Path) -> Request:
    """The request with its images copied into a folder, each named by its hash and there once.

    A file that could not be read stays where it is: its sample fails with the reason when it is answered.

    Args:
        request: Its images are hashed.
        folder: Where the copies go.
        directory: The run directory, from which the copies are named.
    """
    return replace(request, images=tuple(_copied(image, folder, directory) for image in request.images))


def with_absolute_images(request: Request) -> Request:
    """The request with images that are found from any folder."""
    return replace(request, images=tuple(replace(i, path=str(Path(i.path).absolute())) for i in request.images))


def _copied(image: ImageRef, folder: Path, directory: Path) -> ImageRef:
    if not image.sha256:
        return replace(image, path=str(Path(image.path).absolute()))
    copy = folder / f"{image.sha256}{Path(image.path).suffix}"
    if not copy.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = copy.with_name(f"{copy.name}.tmp")
        shutil.copyfile(image.path, partial)
        partial.replace(copy)
    return replace(image, path=relpath(copy, directory))
