"""What is drawn where, on one scale for all views; and the page, which nothing in a text can break."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from harness import adapter, image, method, request
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from sinkbench.inspection import before_after, overlays
from sinkbench.inspection.before_after import most_changed, write_before_after
from sinkbench.inspection.compared import Compared, compare
from sinkbench.inspection.gallery import Gallery
from sinkbench.schemas import validate

NAMES = ("greedy", "pai", "fastv", "random_crop")


def asked():
    return request("wide/dog", "<image>\nis there a dog in the image ?", image(0, 60, 30))


@pytest.fixture(scope="module")
def gallery():
    a = adapter("llava")
    return Gallery.of(a, compare(a, {name: method(name) for name in NAMES}, asked(), None), None)


def heats(axes):
    """What lies over the grey picture."""
    return axes.images[1]


def test_tiles_are_the_picture_and_what_was_added(gallery):
    labels = [[tile.label for tile in own] for own in gallery.tiles]
    assert labels == [["image"], ["image"], ["image"], ["image", "added image 1", "added image 2"]]
    crops = gallery.tiles[3]
    assert crops[0].boxes == gallery.seen.views[3].boxes[0]
    for tile, (left, top, right, bottom) in zip(crops[1:], crops[0].boxes, strict=True):
        assert tile.picture.size == (right - left, bottom - top)
    assert [tile.view.tokens.min() for tile in crops] == [0, 16, 32]


def test_every_overlay_has_the_same_scale_and_its_own_weights(gallery):
    figures = [overlays.overlay_figure(gallery, number) for number in range(4)]
    drawn = [[heats(axes) for axes in figure.axes if len(axes.images) > 1] for figure in figures]
    assert {shown.get_clim() for own in drawn for shown in own} == {(0, gallery.top)}
    for number, view in enumerate(gallery.seen.views):
        for tile, shown in zip(gallery.tiles[number], drawn[number], strict=True):
            expected = view.maps.mean((0, 1))[tile.view.tokens]
            np.testing.assert_allclose(shown.get_array(), expected, atol=1e-7)
    assert len(drawn[3]) == 3


def test_a_layer_can_be_drawn_alone(gallery):
    alone = Gallery(gallery.seen, 3, gallery.tiles)
    tile = alone.tiles[1][0]
    np.testing.assert_allclose(alone.heat(alone.seen.views[1], tile), alone.seen.views[1].maps[3].mean(0).reshape(4, 4))
    assert alone.what == "layer 3"


def test_dropped_tokens_are_hatched_where_they_lie(gallery):
    figure = overlays.overlay_figure(gallery, 2)
    view, tile = gallery.seen.views[2], gallery.tiles[2][0]
    boxes = [path.get_extents().bounds for path in figure.axes[0].collections[0].get_paths()]
    left, top, right, bottom = tile.view.box
    across, down = (right - left) / 4, (bottom - top) / 4
    gone = np.argwhere(~view.kept[-1].reshape(4, 4))
    assert len(gone) == 10
    assert boxes == [(left + x * across, top + y * down, across, down) for y, x in gone.tolist()]
    assert "hatched" in gallery.caption
    assert len(overlays.overlay_figure(gallery, 1).axes[0].collections[0].get_paths()) == 0


def test_changes_are_after_less_before_on_one_symmetric_scale(gallery):
    for number in (1, 2, 3):
        shown = heats(overlays.change_figure(gallery, number).axes[0])
        own = gallery.tiles[number][0].view.tokens
        before, after = (gallery.seen.views[n].maps.mean((0, 1)) for n in (0, number))
        np.testing.assert_allclose(shown.get_array(), after[own] - before[gallery.tiles[0][0].view.tokens], atol=1e-7)
        assert shown.get_clim() == (-gallery.widest, gallery.widest)
    assert gallery.change(gallery.seen.views[3], gallery.tiles[3][1]) is None


def test_the_big_picture_has_every_part(gallery):
    figure = overlays.before_after_figure(gallery)
    titles = [axes.get_title().splitlines() for axes in figure.axes if axes.get_title()]
    first = [title[0] for title in titles]
    for view in gallery.seen.views:
        assert any(f"{view.method} → {view.answer[:8]}" in title for title in first)
    assert "added image 2" in " ".join(first)
    assert first.count("the picture") == 1
    curves = figure.axes[-1].get_lines()
    for curve, view in zip(curves, gallery.seen.views, strict=True):
        np.testing.assert_allclose(curve.get_ydata(), view.by_layer)
    assert figure._supxlabel.get_text().startswith("the prompt's last row")


@pytest.mark.parametrize("count", [1, 3, 6])
def test_any_number_of_views_fits(gallery, count):
    """Pictures, titles, bars and curves stay apart, whatever the answers' length."""
    views = [replace(gallery.seen.views[0], method="visual_funnel", answer="a dog and a cat " * 9)] * count
    several = Gallery(Compared(views, 0, 1e-5), None, [gallery.tiles[0]] * count)
    with overlays.drawing():
        figure = overlays.before_after_figure(several)
        overlays.png(figure, "is there a dog in the image ? " * 6)
        renderer = FigureCanvasAgg(figure).get_renderer()
        boxes = [axes.get_tightbbox(renderer) for axes in figure.axes if axes.images or axes.axison]
    assert len(boxes) == 2 * count + 3
    for number, one in enumerate(boxes):
        for other in boxes[:number]:
            shared = one.intersection(one, other)
            assert shared is None or min(shared.width, shared.height) < 2


def test_curves_keep_their_colours_and_paper_stays_white(gallery, tmp_path):
    with overlays.drawing():
        (tmp_path / "curve.png").write_bytes(overlays.png(overlays.share_figure(gallery)))
    colours = {colour for _, colour in Image.open(tmp_path / "curve.png").convert("RGB").getcolors(1 << 16)}
    assert (255, 255, 255) in colours
    for wanted in ((213, 94, 0), (0, 114, 178), (0, 158, 115)):  # the three methods' lines
        assert min(max(abs(a - b) for a, b in zip(wanted, found, strict=True)) for found in colours) <= 6


def test_most_changed_heads_in_order():
    heads = [{"layer": 0, "head": h, "before": 0.5, "after": 0.5 + d} for h, d in enumerate((0.1, -0.3, 0.0, 0.2))]
    assert [head["head"] for head in most_changed(heads)] == [1, 3, 0]
    many = [{"layer": 0, "head": h, "before": 0.0, "after": h / 100} for h in range(40)]
    assert [head["head"] for head in most_changed(many)] == list(range(39, 27, -1))


EVIL = '<script>alert(1)</script><img src=x onerror=alert(1)> is there a "dog" ? $x^2$ {{ 7*7 }}'


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A question and answers that are markup."""
    real = before_after.compare

    def evil(*arguments):
        seen = real(*arguments)
        for view in seen.views:
            object.__setattr__(view, "answer", EVIL + view.method)
        return seen

    monkeypatch.setattr(before_after, "compare", evil)
    methods = {name: method(name) for name in ("greedy", "pai", "fastv")}
    question = request("a/<b>", f"<image>\n{EVIL}", image(0, 60, 30))
    return write_before_after(adapter("llava"), methods, question, tmp_path, task=None), tmp_path


def test_what_is_written_keeps_the_contract(written):
    summary, folder = written
    document = json.loads((folder / "views.json").read_text())
    validate(document, "views")
    assert document["question"] == EVIL
    assert (document["task"], document["id"]) == (None, "a/<b>")
    assert [view["method"] for view in document["views"]] == ["greedy", "pai", "fastv"]
    for view in document["views"]:
        assert (folder / view["overlay"]).is_file()
        assert len(view["heads"]) == 6 * 4
        by_layer = [np.mean([head["after"] for head in view["heads"] if head["layer"] == layer]) for layer in range(6)]
        np.testing.assert_allclose(view["image_share"], by_layer, atol=2e-6)
        assert [head["before"] for head in view["heads"]] == [head["after"] for head in document["views"][0]["heads"]]
    assert [view["image_tokens"] for view in summary["views"]] == [[16] * 6, [16] * 6, [16] * 2 + [6] * 4]
    assert summary["views"][1]["row_sums"] == [1.0, 1.0]
    assert len(summary["views"][1]["most_changed"]) == 12
    assert {"before_after.png", *(view["overlay"] for view in document["views"])} == set(summary["pictures"])


def test_the_page_needs_nothing_and_runs_nothing(written):
    page = (written[1] / "before_after.html").read_text()
    assert "<script" not in page
    assert "onerror=alert(1)&gt;" in page
    assert page.count("<img ") == page.count('<img src="data:image/png;base64,') == 3 + 2 + 1
    assert not re.search(r"https?://|@import|url\(", page)
    assert "{{ 7*7 }}" in page
    assert page.count("<td>") >= 2 * 12 * 4
    assert "prefers-color-scheme: dark" in page
