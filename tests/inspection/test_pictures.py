"""What is drawn is what was found: values are read back from the axes, files from the disk."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sinkbench.diagnostics.recency import RecencyCurve
from sinkbench.inspection import pictures
from sinkbench.inspection.collect import Findings, Secondary
from sinkbench.inspection.probe import Choice

N, L, H = 4, 6, 3
HEADS = ("alpha_first", "output_drain", "image_ratio", "portion", "head_divergence")
LOOKS = ("look_first", "look_image", "look_query", "look_template")
VISUAL = ("visual_sinks", "visual_persistence", "text_sinks", "image_entropy")


@pytest.fixture
def findings():
    """Findings of N samples, random but for what is told: dimension 7 is the largest in the states 2 … 5."""
    draw = np.random.RandomState(0).uniform
    top_dim = np.full((N, L + 1, 3), 7.0)
    top_dim[:, [0, 1, 6]] = np.arange(N * 3).reshape(N, 1, 3)
    curve = RecencyCurve()
    look = torch.exp(0.5 * torch.linspace(0, 1, 9)).expand(2, L, 9)
    curve.update(look, torch.ones(2, 9, dtype=torch.bool), torch.ones(2, 9, dtype=torch.bool))
    states = {name: draw(1, 9, (N, L + 1)) for name in ("norm_primary", "largest_first", "median")}
    return Findings(
        Choice(),
        8.0,
        samples=[f"s/{n}" for n in range(N)],
        tokens=[20] * N,
        image_tokens=[9] * N,
        layers={name: draw(size=(N, L, H)) for name in HEADS + LOOKS} | {name: draw(size=(N, L)) for name in VISUAL},
        states=states | {"top_value": draw(-9, -1, (N, L + 1, 3)), "top_dim": top_dim},
        recency=curve,
    )


@pytest.fixture
def text_only(findings):
    return replace(findings, image_tokens=[0] * N, recency=None)


def sink(token: str, start: int, lifetime: int) -> Secondary:
    return Secondary("s/0", token, 5, start, lifetime, lifetime, "secondary", "secondary", 0.1, 100.0)


def lines(axes):
    return {line.get_label(): line.get_ydata() for line in axes.lines}


def test_heat_maps_show_the_hot_head(findings):
    findings.layers["alpha_first"] = np.zeros((N, L, H))
    findings.layers["alpha_first"][:2, 4, 1] = 1
    panels = [axes for axes in pictures.heads_figure(findings).axes if axes.get_xlabel() == "head"]
    assert len(panels) == 5
    heat = panels[0].images[0]
    assert np.argwhere(heat.get_array()).tolist() == [[4, 1]]
    assert heat.get_array()[4, 1] == 0.5
    assert heat.get_clim() == (0, 1)
    assert panels[0].get_ylim() == (L - 0.5, -0.5)


def test_a_head_without_values_stays_empty(findings):
    findings.layers["portion"][:, 0] = np.nan
    findings.layers["portion"][0, 1] = np.nan
    shown = pictures.mean(findings.layers["portion"])
    assert shown.mask.tolist() == [[row == 0] * H for row in range(L)]
    np.testing.assert_allclose(shown[1], findings.layers["portion"][1:, 1].mean(0))


def test_text_models_have_no_maps_of_images(text_only):
    panels = [axes for axes in pictures.heads_figure(text_only).axes if axes.get_xlabel() == "head"]
    assert [axes.get_title().split()[0] for axes in panels] == ["attention", "sink's"]


def test_states_and_the_dimension_of_their_plateau(findings):
    (axes,) = pictures.states_figure(findings).axes
    drawn = lines(axes)
    np.testing.assert_allclose(drawn["largest |h| of all tokens"], -findings.states["top_value"][..., 0].mean(0))
    np.testing.assert_allclose(drawn["median |h|"], findings.states["median"].mean(0))
    assert axes.get_yscale() == "log"
    (label,) = axes.texts
    assert label.get_text() == "dimension 7"
    assert label.get_position()[0] == 3.5


def test_plateaus_take_a_majority():
    dims = np.array([[1, 5, 5, 5, 2], [2, 5, 5, 5, 2], [3, 5, 5, 4, 1]])
    assert list(pictures.plateaus(dims)) == [(1, 4, 5), (4, 5, 2)]


def test_attention_is_the_mean_over_heads_with_its_interval(findings):
    top, bottom = pictures.attention_figure(findings).axes
    drawn = lines(top)
    assert list(drawn) == ["first token", "image", "query", "template"]
    np.testing.assert_allclose(drawn["query"], findings.layers["look_query"].mean((0, 2)))
    heads = findings.layers["look_first"].mean(-1)
    edges = top.collections[0].get_datalim(top.transData)
    assert heads.min() <= edges.y0 < heads.mean(0).min()
    np.testing.assert_allclose(bottom.lines[0].get_ydata(), findings.layers["image_entropy"].mean(0))


def test_text_models_look_at_no_image(text_only):
    (axes,) = pictures.attention_figure(text_only).axes
    assert list(lines(axes)) == ["first token", "query", "template"]


def test_timeline_counts_cases_of_the_most_frequent_tokens():
    cases = [sink(" the", 1, 3), sink(" the", 2, 2), sink("\n", 0, 1)]
    found = pictures.timeline([*cases, *(sink(f"rare {n}", 4, 1) for n in range(20))], L)
    assert len(found) == pictures.TIMELINE
    assert next(iter(found)) == "' the' ×2"
    assert found["' the' ×2"].tolist() == [0, 0.5, 1, 1, 0, 0]
    assert found["'\\n' ×1"].tolist() == [1, 0, 0, 0, 0, 0]


def test_sinks_need_visual_or_secondary_ones(findings, text_only):
    assert pictures.sinks_figure(text_only) is None
    text_only.secondary = [sink(" the", 1, 3)]
    (axes, _) = pictures.sinks_figure(text_only).axes
    assert np.ma.filled(axes.images[0].get_array(), 0).tolist() == [[0, 1, 1, 1, 0, 0]]
    counts, jaccard, share = pictures.sinks_figure(findings).axes
    np.testing.assert_allclose(lines(counts)["image"], findings.layers["visual_sinks"].mean(0))
    np.testing.assert_allclose(jaccard.lines[0].get_ydata(), findings.layers["visual_persistence"].mean(0))
    np.testing.assert_allclose(share.lines[0].get_ydata(), findings.layers["portion"].mean((0, 2)))


def test_persistence_of_no_sinks_is_left_out(findings):
    findings.layers["visual_persistence"][:] = np.nan
    assert len(pictures.sinks_figure(findings).axes) == 2


def test_recency_shows_the_curve_and_its_trend(findings):
    panels = pictures.recency_figure(findings).axes
    assert [axes.get_title().split(":")[0] for axes in panels] == [f"layer {n}" for n in range(L)]
    density, trend = (line.get_ydata() for line in panels[3].lines)
    np.testing.assert_allclose(density, 9 * np.exp(0.5 * np.linspace(0, 1, 9)), rtol=1e-5)
    np.testing.assert_allclose(trend, density, rtol=1e-5)
    assert "κ = 0.50, R² = 1.00" in panels[3].get_title()


@pytest.mark.parametrize(("kind", "names"), [("findings", 5), ("text_only", 3)])
def test_files(kind, names, request, tmp_path):
    found = pictures.draw_model(request.getfixturevalue(kind), "a model", tmp_path / "new")
    assert [path.name for path in found][:3] == ["heads.png", "states.png", "attention.png"]
    assert len(found) == names
    for path in found:
        assert path.stat().st_size < 80_000
        with Image.open(path) as picture:
            assert picture.width == round(pictures.WIDTH * pictures.DPI)
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 20
