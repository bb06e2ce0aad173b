"""The calibrator of `debias`: planted trends come back, padding is left out, hosts are told apart."""

import math
from dataclasses import replace

import pytest
import torch
from harness import adapter, image, model_folder, request

from sinkbench.adapters import load_adapter, resolve_model
from sinkbench.calibration import run
from sinkbench.calibration.base import Bench, Question
from sinkbench.calibration.debias import FindTrend, fitted
from sinkbench.calibration.lookup import calibrations_for
from sinkbench.calibration.registry import calibrator_class
from sinkbench.calibration.run import Settings, calibrate
from sinkbench.diagnostics.recency import Curve
from sinkbench.engine.context import Role
from sinkbench.engine.observe import observe
from sinkbench.errors import SinkbenchError, UsageError
from sinkbench.methods import get_method
from sinkbench.methods.base import Intervention
from sinkbench.methods.pruning.debias import Debias, trend_weights
from sinkbench.methods.pruning.fastv import FastVIntervention
from sinkbench.record import model_identity


def questions(n: int = 6, **size: int) -> list[Question]:
    texts = ("is there a dog ?", "what do you see ?", "how many red ?")
    return [Question(request(str(i), f"<image>\n{texts[i % 3]}", image(i // 3, **size)), "yes") for i in range(n)]


def planted(monkeypatch, score):
    """Let FastV's score be a function of x, 0 to 1 along each image of 16 tokens, and of a sample's number."""
    observe = FastVIntervention.observe_attention

    def scored(self, layer, view, ctx):
        observe(self, layer, view, ctx)
        if layer == self.method.layer - 1:
            for row, inside in enumerate(ctx.is_image):
                x = torch.linspace(0, 1, int(inside.sum()))
                ctx.scratch["fastv.score"][row, inside] = score(x, row)

    monkeypatch.setattr(FastVIntervention, "observe_attention", scored)


def test_a_planted_trend_comes_back_as_a_parameter(monkeypatch):
    planted(monkeypatch, lambda x, row: (1 + row) * (1.75 * x).exp() / 100)
    a = adapter("llava")
    found = FindTrend().measure(Bench(a, Debias(), questions()))
    assert found.params == {
        "host": "fastv",
        "form": "exp",
        "trend": [pytest.approx(1.75, abs=1e-5)],
        "canvas": "none",
        "padding": 0.5,
    }
    evidence = found.evidence
    assert (evidence["questions"], evidence["images"]) == (6, 2)
    assert (evidence["host"], evidence["host_params"]["layer"]) == ("fastv", 2)
    assert evidence["tokens"] == [6] * 16
    assert evidence["r2"] == pytest.approx(1)
    ratio = evidence["mean_score"][-1] / evidence["mean_score"][0]
    assert ratio == pytest.approx(math.exp(1.75), rel=1e-4)
    assert get_method("fastv+debias", {f"debias.{key}": value for key, value in found.params.items()}).bind(a.info)
    assert found.table[1] == ("0.00", found.table[1][1], "1.000")
    assert found.table[-1][2] == f"{math.exp(-1.75):.3f}"


class LastRow(Intervention):
    """Keeps the last row's attention of layer 1, mean over heads, of a model that drops nothing."""

    def observe_attention(self, layer, view, ctx):
        if layer == 1 and ctx.emits:
            ctx.state["row"] = view.rows(ctx.last_row).mean(1)[:, 0]


def test_what_is_averaged_is_the_attention_that_the_host_ranks_by():
    a, (question,) = adapter("llava"), questions(1)
    (seen,) = observe(a, LastRow(), [prompt := a.encode(question.request)])
    row = seen.cut(seen.state["row"], 0)[prompt.roles == Role.IMAGE]
    found = FindTrend().measure(Bench(a, Debias(form="empirical"), [question]))
    assert found.evidence["mean_score"] == pytest.approx(row.tolist(), rel=1e-4)
    assert found.params["trend"] == pytest.approx((row[0] / row).tolist(), rel=1e-4)


def test_a_cubic_and_weights_come_back_too(monkeypatch):
    def cubic(x, _row=0):
        return 1 + 1.7 * x - 4.8 * x**2 + 4.9 * x**3

    planted(monkeypatch, cubic)
    bench = Bench(adapter("llava"), Debias(form="cubic"), questions())
    found = FindTrend().measure(bench)
    assert found.params["trend"] == pytest.approx([1.7, -4.8, 4.9], abs=1e-3)
    found = FindTrend().measure(replace(bench, method=Debias(form="empirical")))
    x = torch.linspace(0, 1, 16, dtype=torch.float64)
    assert found.params["trend"] == pytest.approx((1 / cubic(x)).tolist(), abs=1e-5)
    assert torch.tensor(found.params["trend"]).allclose(trend_weights("cubic", (1.7, -4.8, 4.9), x).float(), atol=1e-5)


def test_places_with_more_tokens_count_more():
    """Of ln t = 0, 1, 0 with weights 1, 1, 2 at x = 0, ½, 1 the slope is −2 / 11."""
    density = torch.tensor([[1.0, math.e, 1.0, math.nan]], dtype=torch.float64)
    position, tokens = torch.tensor([0, 0.5, 1, 0.9], dtype=torch.float64), torch.tensor([1, 1, 2, 0])
    assert fitted(Curve(position, density, tokens), "exp") == [pytest.approx(-2 / 11)]


def test_padding_is_left_out(monkeypatch):
    planted(monkeypatch, lambda x, _row: x.exp())
    preset = replace(resolve_model(str(model_folder("llava"))), options={"image_padding": "square"})
    a = load_adapter(preset, "cpu", "float32")
    found = FindTrend().measure(Bench(a, Debias(canvas="square"), questions(3, width=80, height=40)))
    assert found.evidence["tokens"] == [0] * 4 + [3] * 8 + [0] * 4
    assert found.params["trend"] == [pytest.approx(1, abs=1e-5)]
    assert found.params["canvas"] == "square"


def test_images_of_several_sizes_share_relative_bins(monkeypatch):
    planted(monkeypatch, lambda x, _row: (0.8 * x).exp() / len(x))
    several = [
        *questions(3, width=60, height=30),
        *(replace(q, request=replace(q.request, id="x")) for q in questions(1, width=50, height=50)),
    ]
    found = FindTrend().measure(Bench(adapter("internvl"), Debias(), several))
    assert sum(found.evidence["tokens"]) == 3 * 12 + 20
    assert found.params["trend"] == [pytest.approx(0.8, rel=0.05)]


def test_hosts_are_measured_with_their_parameters():
    bench = Bench(adapter("llava"), Debias(host="fastv"), questions(2))
    first, second = (FindTrend().measure(replace(bench, scoring={"layer": layer})) for layer in (1, 2))
    assert (first.evidence["host_params"]["layer"], second.evidence["host_params"]["layer"]) == (1, 2)
    assert first.params["trend"] != second.params["trend"]
    assert second.params == FindTrend().measure(bench).params


@pytest.mark.parametrize("host", ["pyramiddrop", "tokencarve"])
def test_other_hosts_are_measured_at_their_first_stage(host):
    a = adapter("llava")
    found = FindTrend(samples=2).measure(Bench(a, Debias(host=host), questions()))
    assert found.params["host"] == host
    assert found.evidence["questions"] == 2
    plain = FindTrend(samples=2).measure(Bench(a, Debias(), questions()))
    assert (found.params["trend"] == plain.params["trend"]) == (host == "tokencarve")
    with pytest.raises(UsageError, match=f"trend is of {host}'s scores"):
        get_method("fastv+debias", {f"debias.{key}": value for key, value in found.params.items()})


def test_what_cannot_be_measured_is_refused(monkeypatch):
    a = adapter("llava")
    for name in ("divprune", "fastvv"):
        with pytest.raises(UsageError, match=f"debias.host={name} ranks no image tokens"):
            FindTrend().measure(Bench(a, Debias(host=name), questions()))
    with pytest.raises(UsageError, match="the questions show no image"):
        FindTrend().measure(Bench(a, Debias(), [Question(request("r", "how many ?"), "two")]))
    with pytest.raises(UsageError, match=r"debias\.samples=0"):
        FindTrend(samples=0)
    planted(monkeypatch, lambda x, _row: 0 * x)
    with pytest.raises(SinkbenchError, match="at 0 places"):
        FindTrend().measure(Bench(a, Debias(), questions()))


def test_a_calibration_is_written_and_taken(model, learning, tmp_path):
    assert calibrator_class("debias") is FindTrend
    settings = Settings(
        "debias", str(model), "scenes_pope", {"debias.samples": 5}, data_dir=learning, output=tmp_path / "found.json"
    )
    found = calibrate(settings).calibration
    assert found.settings == {"samples": 5}
    assert found.evidence["questions"] == 5
    method = get_method("fastv+debias", {}, "tiny-random", {"debias": found})
    assert method.params()["debias.trend"] == tuple(found.params["trend"])
    assert method.params()["debias.host"] == "fastv"


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ({}, "fastv"),
        ({"debias.host": ""}, "fastv"),
        ({"debias.host": "pyramiddrop", "pyramiddrop.layers": [1, 2, 3]}, "pyramiddrop"),
        ({"debias.profile": "tcarve-gqa"}, "tokencarve"),
    ],
)
def test_the_host_is_in_the_name_of_the_file(given, host, model, learning, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    settings = Settings("debias", str(model), "scenes_pope", {"debias.samples": 2, **given}, data_dir=learning)
    outcome = calibrate(settings)
    assert outcome.file == tmp_path / "sinkbench" / "calibrations" / "debias" / f"tiny-random.{host}.json"
    assert outcome.calibration.params["host"] == outcome.calibration.scoring == host
    if layers := given.get("pyramiddrop.layers"):
        assert outcome.calibration.evidence["host_params"]["layers"] == layers
    preset = resolve_model(str(model))
    found = calibrations_for([host, "debias"], {}, preset.name, model_identity(preset))
    assert found == {"debias": outcome.calibration}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"himap.keep": 0.5}, "'himap.keep' belongs neither to debias nor to fastv nor to a task"),
        ({"debias.host": "himap", "fastv.keep": 0.5}, "'fastv.keep' belongs neither to debias nor to himap nor to"),
        ({"debias.host": "himap", "himap.kep": 0.5}, "unknown parameter 'himap.kep'"),
        ({"debias.host": "hymap"}, "unknown method 'hymap'"),
        ({"debias.profile": "himap"}, "debias has no profile 'himap'"),
    ],
)
def test_what_is_wrong_about_the_host_is_said_before_anything_is_loaded(params, message, monkeypatch):
    monkeypatch.setattr(run, "load_adapter", lambda *_: pytest.fail("loaded"))
    with pytest.raises(UsageError, match=message):
        calibrate(Settings("debias", "tiny-llava", "scenes_pope", params))
