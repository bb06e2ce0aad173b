"""Pictures of a report in Chromium: NAME-1600.webp, NAME-1600-dark.webp and NAME-400.webp for the docs.

sinkbench report results/demo -o report.html
python tools/report_screenshots.py report.html --output docs
python tools/report_screenshots.py report.html --name samples --link '#task=scenes_pope&model=tiny-llava&id=ID'
"""

import argparse
import os
import shutil
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

VIEWS = (("1600", 1600, 1000, "light"), ("1600-dark", 1600, 1000, "dark"), ("400", 400, 800, "light"))
"""What is added to the name, width and height in pixels, and colours."""

MOST = 80_000
"""Bytes of a picture."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder")
    parser.add_argument("--name", default="report", help="beginning of the files' names")
    parser.add_argument("--link", default="", help="what is added to the address: #samples, or a sample's link")
    parser.add_argument("--views", default=",".join(name for name, *_ in VIEWS), help="which, separated by commas")
    given = parser.parse_args()
    views = [view for view in VIEWS if view[0] in given.views.split(",")]
    if not given.report.is_file():
        sys.exit(f"{given.report} is no file; make it: sinkbench report DIR -o {given.report}")
    given.output.mkdir(parents=True, exist_ok=True)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium of the system or $CHROMIUM, else playwright's own.
        found = next(filter(None, map(shutil.which, (os.environ.get("CHROMIUM", ""), *BROWSERS))), None)
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for suffix, width, height, scheme in views:
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(given.report.resolve().as_uri() + given.link)
            target = given.output / f"{given.name}-{suffix}.webp"
            target.write_bytes(packed(page.screenshot(**_what(page))))
            print(f"{target}: {target.stat().st_size // 1000} kB")
        browser.close()


def _what(page: Any) -> dict[str, Any]:
    """The window; nothing moves and no pointer blinks."""
    page.wait_for_function("document.images.length === 0 || [...document.images].every((image) => image.complete)")
    return {"animations": "disabled", "caret": "hide"}


def packed(png: bytes) -> bytes:
    """The picture as WebP: without loss if that fits in `MOST` bytes, else with as little as is needed."""
    picture = Image.open(BytesIO(png)).convert("RGB")
    for lossless, quality in ((True, 100), (False, 90), (False, 80), (False, 70)):
        written = BytesIO()
        picture.save(written, "WEBP", method=6, lossless=lossless, quality=quality)
        if len(written.getvalue()) <= MOST:
            break
    return written.getvalue()


if __name__ == "__main__":
    main()
