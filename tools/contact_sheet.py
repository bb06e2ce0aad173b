"""Draw the first images of a Scenes folder side by side: `python tools/contact_sheet.py --out docs/scenes.jpg`."""

import argparse
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from sinkbench.paths import asset  # noqa: E402

GAP = 4
"""White pixels between two images."""


def draw(folder: Path, columns: int, rows: int, out: Path) -> None:
    """Write one picture of `columns` x `rows` images.

    Args:
        folder: Holds the images.
        columns: Images in a row.
        rows: Rows.
        out: Picture file; the ending decides the format.
    """
    from PIL import Image

    files = sorted(folder.glob("*.jpg"))[: columns * rows]
    images = [Image.open(file) for file in files]
    width, height = images[0].width + GAP, images[0].height + GAP
    sheet = Image.new("RGB", (columns * width - GAP, rows * height - GAP), "white")
    for index, image in enumerate(images):
        sheet.paste(image, (index % columns * width, index // columns * height))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, quality=85)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=asset("scenes/val"), help="Scenes folder (default: shipped)")
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if not any((options.data_dir / "images").glob("*.jpg")):
        parser.error(f"{options.data_dir}/images holds no JPEG; make a folder with `sinkbench scenes render`")
    draw(options.data_dir / "images", options.columns, options.rows, options.out)


if __name__ == "__main__":
    main()
