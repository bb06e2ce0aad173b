"""Cells and tokens of one prompt are drawn where they are."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from sinkbench.adapters.views import View
from sinkbench.inspection import sample_pictures
from sinkbench.inspection.sample_pictures import SINK, Sample

L, H, N = 5, 2, 8
VIEW = View("image", 0, np.arange(6).reshape(2, 3) + 1, (0, -10, 60, 30))
"""Two rows and three columns of cells of 20 × 20 pixels; the upper row begins above the picture."""


@pytest.fixture
def sample():
    draw = np.random.RandomState(0).uniform
    sinks = np.zeros((L, N), dtype=bool)
    sinks[2, 1] = sinks[3, [5, 6]] = True
    return Sample(
        "a prompt",
        [Image.fromarray(draw(0, 255, (30, 60, 3)).astype(np.uint8))],
        [VIEW],
        look=draw(size=(L, N)),
        maps=draw(size=(L, H, N)),
        sinks=sinks,
        texts=["<s>", " the", "\n", "$x"],
        text_look=draw(size=(L, 4)),
        marked=np.array([True, False, False, False]),
    )


def test_sink_cells_are_outlined(sample):
    panels = sample_pictures.sinks_figure(sample, VIEW, sample.sinks).axes
    shown = {axes.get_title(): axes.collections[0].get_paths() for axes in panels if axes.collections}
    boxes = {title: [path.get_extents().bounds for path in paths] for title, paths in shown.items()}
    assert boxes == {
        "layer 2: 1 sinks": [(0, -10, 20, 20)],
        "layer 3: 2 sinks": [(20, 10, 20, 20), (40, 10, 20, 20)],
    }


def test_heat_lies_over_its_part_of_the_picture(sample):
    figure = sample_pictures.layers_figure(sample, VIEW)
    picture, heat = figure.axes[3].images
    assert picture.get_extent() == [0, 60, 30, 0]
    assert heat.get_extent() == [0, 60, 30, -10]
    np.testing.assert_array_equal(heat.get_array(), sample.look[3][VIEW.tokens])
    assert figure.axes[3].get_title() == f"layer 3: {100 * sample.look[3, 1:7].sum():.0f} %"
    assert figure.axes[3].get_ylim() == (30, -10)


def test_heads_of_the_chosen_layer(sample):
    panels = sample_pictures.heads_figure(sample, VIEW, 4).axes
    np.testing.assert_array_equal(panels[1].images[1].get_array(), sample.maps[4, 1][VIEW.tokens])
    assert panels[1].get_title().startswith("head 4.1:")


def test_heads_are_those_of_the_layer_that_looks_most(sample, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(sample_pictures, "_figures", lambda sample, layer: asked.append(layer) or [])
    sample.look[0], sample.look[3] = 9, 5
    sample_pictures.draw_sample(sample, tmp_path)
    sample_pictures.draw_sample(sample, tmp_path, layer=1)
    assert asked == [3, 1]


def test_text_sinks_are_red(sample):
    axes = sample_pictures.text_figure(sample).axes[0]
    labels = axes.get_xticklabels()
    assert [label.get_text() for label in labels] == ["<s>", "␣the", "↵", r"\$x"]
    assert [to_hex(label.get_color()) == SINK for label in labels] == [True, False, False, False]
    np.testing.assert_array_equal(axes.images[0].get_array(), sample.text_look)


def test_long_texts_keep_the_tokens_that_are_looked_at(sample):
    count = 3 * sample_pictures.TEXTS
    look = np.zeros((L, count))
    look[1, [7, 150]] = 1
    long = replace(sample, texts=[str(n) for n in range(count)], text_look=look, marked=np.zeros(count, bool))
    labels = [label.get_text() for label in sample_pictures.text_figure(long).axes[0].get_xticklabels()]
    assert {"7", "150"} <= set(labels)
    assert labels == sorted(labels, key=int)
    assert len(labels) == sample_pictures.TEXTS


def test_files(sample, tmp_path):
    names = [path.name for path in sample_pictures.draw_sample(sample, tmp_path)]
    assert names == ["image1-sinks.png", "image1-layers.png", "image1-heads.png", "text.png"]
    for name in names:
        with Image.open(tmp_path / name) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 20


def test_without_views_the_tokens_stand_in_a_row(sample, tmp_path):
    names = [path.name for path in sample_pictures.draw_sample(replace(sample, views=[], sinks=None), tmp_path)]
    assert names == ["image-tokens.png", "text.png"]
    axes = sample_pictures.image_tokens_figure(sample).axes[0]
    assert axes.get_title() == "places in the picture unknown"
    np.testing.assert_array_equal(axes.images[0].get_array(), sample.look)
