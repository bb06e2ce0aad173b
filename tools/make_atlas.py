"""Draw the sprite atlas of Scenes from two installed fonts: Noto Color Emoji and DejaVu Sans Bold.

    apt-get install fonts-noto-color-emoji fonts-dejavu-core
    python tools/make_atlas.py --out sinkbench/assets/scenes

writes atlas.png (a grid of 64 px RGBA cells) and atlas.json (cell number of every sprite name). Names are
"<category>/<look>", "scenery/<emoji>", "letter/<A-Z>" and "panel" (a white square that becomes signs and poles).
"""

import argparse
import colorsys
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sinkbench.scenes.atlas import CELL
from sinkbench.scenes.world import CATEGORIES, COLOURS, KINDS, SIGN_WORDS

STRIKE = 109
"""The only bitmap size, in px, that NotoColorEmoji.ttf holds."""
COLUMNS = 16
PALE = {"bus": 0.03, "bicycle": 0.03, "tie": 0.35}
"""Saturation from which a pixel is dyed, where the usual 0.2 would dye too little or too much."""


def fit(image: Image.Image) -> Image.Image:
    """Crop transparent borders and scale to one cell, aspect ratio kept, one pixel of margin left."""
    box = image.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox()
    cropped = image.crop(box)
    scale = (CELL - 2) / max(cropped.size)
    cropped = cropped.resize((max(1, round(cropped.width * scale)), max(1, round(cropped.height * scale))), 1)
    cell = Image.new("RGBA", (CELL, CELL))
    cell.paste(cropped, ((CELL - cropped.width) // 2, (CELL - cropped.height) // 2))
    return cell


def draw_emoji(emoji: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """One emoji as a (64, 64) RGBA cell."""
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((8, 8), emoji, font=font, embedded_color=True)
    return fit(canvas)


def draw_letter(letter: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """One white capital on transparent ground; all letters share one scale and baseline."""
    cell = Image.new("RGBA", (CELL, CELL))
    ImageDraw.Draw(cell).text((CELL / 2, CELL - 9), letter, font=font, fill="white", anchor="ms")
    return cell


def dye(image: Image.Image, colour: str, threshold: float) -> Image.Image:
    """Give every pixel more saturated than `threshold` the hue of `colour`; shading stays."""
    pixels = np.asarray(image, dtype=np.float32) / 255
    hue, saturation, value = colorsys.rgb_to_hsv(*COLOURS[colour])
    high, low = pixels[..., :3].max(-1), pixels[..., :3].min(-1)
    own_saturation = (high - low) / np.maximum(high, 1e-6)
    weight = np.clip((own_saturation - threshold) / 0.1, 0, 1) * (high > 0.25)
    shade = np.clip(high * value / 0.86, 0, 1)
    dyed = np.stack([_channel(hue, np.maximum(own_saturation, saturation * 0.8), shade, n) for n in (5, 3, 1)], -1)
    pixels[..., :3] += weight[..., None] * (dyed - pixels[..., :3])
    return Image.fromarray((pixels * 255).round().astype(np.uint8), "RGBA")


def _channel(hue: float, saturation: NDArray[np.float32], value: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    # The branch-free form of HSV to RGB: red, green and blue are n = 5, 3 and 1.
    k = (n + hue * 6) % 6
    return value - value * saturation * max(0.0, min(k, 4 - k, 1.0))


def sprites(emoji_font: Path, letter_font: Path) -> dict[str, Image.Image]:
    """Every cell of the atlas by name, in the order in which they are laid out."""
    emoji = ImageFont.truetype(str(emoji_font), STRIKE)
    letters = ImageFont.truetype(str(letter_font), 62)
    cells = {"panel": Image.new("RGBA", (CELL, CELL), "white")}
    for name, category in CATEGORIES.items():
        drawn = [draw_emoji(e, emoji) for e in category.emoji]
        if category.painted:
            drawn = [dye(drawn[0], colour, PALE.get(name, 0.2)) for colour in COLOURS]
        cells.update({f"{name}/{look}": image for look, image in zip(category.looks, drawn, strict=True)})
    for scenery in sorted({e for kind in KINDS.values() for e in kind.scenery}):
        cells[f"scenery/{scenery}"] = draw_emoji(scenery, emoji)
    for letter in sorted(set("".join(SIGN_WORDS).upper())):
        cells[f"letter/{letter}"] = draw_letter(letter, letters)
    return cells


def main() -> None:
    """Write the atlas and its index."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    fonts = Path("/usr/share/fonts/truetype")
    parser.add_argument("--emoji-font", type=Path, default=fonts / "noto/NotoColorEmoji.ttf")
    parser.add_argument("--letter-font", type=Path, default=fonts / "dejavu/DejaVuSans-Bold.ttf")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    cells = sprites(arguments.emoji_font, arguments.letter_font)
    atlas = Image.new("RGBA", (COLUMNS * CELL, -(-len(cells) // COLUMNS) * CELL))
    for index, cell in enumerate(cells.values()):
        atlas.paste(cell, (index % COLUMNS * CELL, index // COLUMNS * CELL))
    arguments.out.mkdir(parents=True, exist_ok=True)
    atlas.save(arguments.out / "atlas.png", optimize=True)
    index_file = {"cell": CELL, "columns": COLUMNS, "sprites": list(cells)}
    (arguments.out / "atlas.json").write_text(json.dumps(index_file, ensure_ascii=False, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
