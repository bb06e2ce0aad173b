"""Images in cells of parquet files."""

import pyarrow
import pytest
from hub_data import embedded, jpeg, write_parquet
from pyarrow import parquet

from sinkbench.tasks.cells import cells_of, is_cell, read_cell
from sinkbench.tasks.images import BrokenImage, ImageFiles, open_images


def table(folder, cells, several=False):
    from datasets import Image, List, Value

    rows = [{"number": index, "image": cell} for index, cell in enumerate(cells)]
    kind = List(Image()) if several else Image()
    return write_parquet(folder, "cells.parquet", rows, {"number": Value("int64"), "image": kind})


def rewritten(path, **options):
    """The same file with other row groups or without statistics."""
    parquet.write_table(parquet.read_table(path), path, **options)
    return path


@pytest.mark.parametrize("size", [1, 2, 7])
def test_cells_are_found_whatever_the_row_groups(size, tmp_path):
    path = rewritten(table(tmp_path, [embedded(jpeg(index)) for index in range(7)]), row_group_size=size)
    names = cells_of(path, "image")
    assert all(map(is_cell, names))
    for index in (3, 0, 6, 5, 3):
        assert read_cell(names[index]) == [jpeg(index)]


def test_several_images_a_cell(tmp_path):
    cells = [[embedded(jpeg(0)), embedded(jpeg(1))], [], [embedded(jpeg(2)), None], [embedded(jpeg(3))], None]
    names = cells_of(table(tmp_path, cells, several=True), "image")
    assert [bool(name) for name in names] == [True, False, False, True, False]
    assert read_cell(names[0]) == [jpeg(0), jpeg(1)]
    document = {"image_path": names[0]}
    assert len(ImageFiles(tmp_path / "out").refer(document)) == 2
    assert [image.size for image in open_images(document)] == [(32, 24)] * 2


@pytest.mark.parametrize("statistics", [True, False])
def test_missing_images_are_found_with_and_without_statistics(statistics, tmp_path):
    path = rewritten(table(tmp_path, [embedded(jpeg(0)), None, embedded(jpeg(1))]), write_statistics=statistics)
    assert [bool(name) for name in cells_of(path, "image")] == [True, False, True]


def test_full_columns_are_not_read(tmp_path, monkeypatch):
    path = table(tmp_path, [embedded(jpeg(0))] * 3)

    def read(*_, **__):
        pytest.fail("the images were read")

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", read)
    assert all(cells_of(path, "image"))


def test_questions_on_one_cell_share_its_pixels(tmp_path):
    (name,) = cells_of(table(tmp_path, [embedded(jpeg(0))]), "image")
    (first,), (second,) = open_images({"image_path": name}), open_images({"image_path": name})
    assert first is second


@pytest.mark.parametrize("content", [b"", b"no image", jpeg(0)[:10]])
def test_what_cannot_be_opened_is_told_when_it_is_decoded(content, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(content)
    embedded_one = {"image": {"bytes": content, "path": None}}
    for document in (
        embedded_one,
        {"image_path": str(tmp_path / "broken.jpg")},
        {"image_path": str(tmp_path / "none")},
    ):
        (image,) = open_images(document)
        assert isinstance(image, BrokenImage)
        with pytest.raises(OSError, match="cannot be read"):
            image.convert("RGB")


def test_a_header_that_claims_billions_of_pixels_fails_its_sample_only(tmp_path):
    from sinkbench.errors import SampleError
    from sinkbench.request import ImageRef

    bitmap = bytearray(b"BM" + bytes(12) + (40).to_bytes(4, "little") + bytes(36))
    bitmap[18:22] = bitmap[22:26] = (60_000).to_bytes(4, "little")
    bitmap[26:28], bitmap[28:30] = b"\x01\x00", b"\x18\x00"
    (tmp_path / "bomb.bmp").write_bytes(bytes(bitmap))
    (image,) = open_images({"image_path": str(tmp_path / "bomb.bmp")})
    assert isinstance(image, BrokenImage)
    for read in (ImageRef(str(tmp_path / "bomb.bmp")).load, ImageRef(str(tmp_path / "bomb.bmp")).size):
        with pytest.raises(SampleError, match="pixels"):
            read()


def test_no_half_image_is_left_under_a_whole_ones_name(tmp_path, monkeypatch):
    from pathlib import Path

    def killed(self, target):
        raise KeyboardInterrupt

    document = {"image": embedded(jpeg(0))}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            ImageFiles(tmp_path).refer(document)
    assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
    (reference,) = ImageFiles(tmp_path).refer(document)
    assert reference.load().size == (32, 24)


def test_schema_is_plain_arrow(tmp_path):
    """Files that another program wrote have no notes of `datasets` in them."""
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    parquet.write_table(pyarrow.table({"image": pyarrow.array([embedded(jpeg(4))], image)}), tmp_path / "plain.parquet")
    (name,) = cells_of(tmp_path / "plain.parquet", "image")
    assert read_cell(name) == [jpeg(4)]
