"""The calibrator of `iri`: which questions it traces, and what becomes of the traces."""

import dataclasses

import pytest
import torch
from harness import adapter, image, request

from sinkbench.calibration import iri
from sinkbench.calibration.base import Bench, Question
from sinkbench.calibration.categories import FINE
from sinkbench.calibration.iri import TraceRates
from sinkbench.calibration.tracing import Traces
from sinkbench.errors import SinkbenchError, UsageError
from sinkbench.methods import get_method
from sinkbench.methods.iri import Iri

BOX = ((20.0, 20.0, 40.0, 40.0),)


def question(name, text="is there a dog in the image ?", answer="yes", seed=2, **known):
    return Question(request(name, f"<image>\n{text}", image(seed, 56, 56)), answer, **known)


def located(n):
    return [question(str(i), seed=i, subject="dog", boxes=BOX) for i in range(n)]


def fake_trace(monkeypatch, clean, corrupted, patched, present):
    """Let the calibrator find these traces; returns what it was asked for."""
    asked = {}

    def trace(adapter, questions, categories, noise, seed, **options):
        asked.update(n=len(questions), categories=categories, noise=noise, seed=seed, **options)
        return Traces(*map(torch.tensor, (clean, corrupted)), patched, present)

    monkeypatch.setattr(iri, "trace", trace)
    return asked


def test_rates_are_those_of_the_last_token_averaged_over_samples_that_count(monkeypatch):
    a = adapter("llava")
    patched = torch.zeros(3, a.info.n_layers, len(FINE), 3)
    # Of 0.8 and 0.4 lost: attention of layer 1 brings back a quarter and all, the MLP of layer 2 half and nothing.
    patched[:] = torch.tensor([0.1, 0.4, 0.5])
    patched[0, 1, -1] = torch.tensor([0.3, 0.8, 0.5])
    patched[1, 2, -1] = torch.tensor([0.5, 0.4, 0.9])
    present = torch.ones(len(FINE), 3, dtype=torch.bool)
    present[0, 0] = False
    asked = fake_trace(monkeypatch, [0.9, 0.8, 0.5], [0.1, 0.4, 0.5], patched, present)
    found = TraceRates(noise=2.0).measure(Bench(a, Iri(), located(3), seed=7))
    assert (asked["n"], asked["categories"], asked["noise"], asked["seed"]) == (3, 7, 2.0, 7)
    assert asked["wanted"] == [1, 2, 3, 4, 5, 6, 7]
    assert found.params["rates_attn"] == [0, 0.625, 0, 0, 0, 0]
    assert found.params["rates_mlp"] == [0, 0, 0.25, 0, 0, 0]
    evidence = found.evidence
    assert (evidence["n_traced"], evidence["n_counted"]) == (3, 2)
    assert (evidence["p_clean"], evidence["p_corrupted"]) == (0.85, 0.25)
    assert evidence["n_by_category"]["visual_before"] == 1
    assert evidence["n_by_category"]["last"] == 2
    assert evidence["recovery"]["ratio_of_means"]["attn"]["last"][1] == 0.5
    assert found.table[2] == ("1", "0.625", "0.000", "0.000")
    weighted = TraceRates(aggregation="ratio_of_means").measure(Bench(a, Iri(), located(3)))
    assert weighted.params["rates_attn"][1] == 0.5


def test_noise_that_costs_nothing_is_an_error_that_says_what_to_try():
    with pytest.raises(SinkbenchError, match=r"none of 2 questions lost more than 0\.1") as failed:
        TraceRates(noise=1e-6).measure(Bench(adapter("llava"), Iri(), located(2)))
    assert "--set iri.noise=5" in failed.value.hint


def test_a_real_trace_gives_parameters_that_the_method_takes():
    a = adapter("llava")
    # Random weights hardly depend on the image: whatever is lost counts.
    calibrator = TraceRates(noise=20.0, epsilon=0.0, answer="", categories=("visual_object", "last"))
    found = calibrator.measure(Bench(a, Iri(), [*located(4), *[question("n", answer="no", subject="dog", boxes=BOX)]]))
    assert set(found.evidence["recovery"]["mean_of_ratios"]["block"]) == {"visual_object", "last"}
    assert found.evidence["recovery"]["mean_of_ratios"]["block"]["last"][-1] == 1.0
    bound = get_method("iri", found.params).bind(a.info)
    assert len(bound.rates["attn"]) == a.info.n_layers


def test_equal_questions_are_traced_once_and_others_than_the_wanted_never():
    twice = [question("a"), question("b", answer="no"), question("c"), question("d", text="one ?")]
    assert [each.request.id for each in TraceRates()._chosen(twice)] == ["a", "d"]
    assert [each.request.id for each in TraceRates(answer="")._chosen(twice)] == ["a", "d"]
    assert [each.request.id for each in TraceRates(answer="NO")._chosen(twice)] == ["b"]
    many = [question(str(i), seed=i) for i in range(6)]
    assert [each.request.id for each in TraceRates(samples=3)._chosen(many)] == ["0", "2", "4"]
    with pytest.raises(UsageError, match="none of 4 questions has the answer 'maybe'"):
        TraceRates(answer="maybe")._chosen(twice)


def test_where_most_objects_cannot_be_located_the_categories_are_coarse():
    a = adapter("llava")
    names, traced = TraceRates()._label(a, [*located(3), question("x")])
    assert (len(names), len(traced)) == (7, 3)
    names, traced = TraceRates()._label(a, [*located(1), question("x"), question("y", seed=3)])
    assert (names, len(traced)) == (("visual", "text", "last"), 3)
    names, traced = TraceRates(categories=("visual", "last"))._label(a, located(3))
    assert (len(names), len(traced)) == (3, 3)
    with pytest.raises(UsageError, match="show no image"):
        TraceRates()._label(a, [Question(request("t", "one ?"), "yes")])
    with pytest.raises(SinkbenchError, match="no token that begins 'unheard'"):
        TraceRates()._label(a, [question("x", answer="unheard")])


@pytest.mark.parametrize(
    "settings",
    [{"noise": 0.0}, {"epsilon": 1.0}, {"samples": 0}, {"categories": ("visual",)}, {"categories": ("last", "lats")}],
)
def test_settings_that_measure_nothing_are_refused(settings):
    with pytest.raises(UsageError, match=rf"iri\.{next(iter(settings))}"):
        TraceRates(**settings)


def test_long_answers_are_refused_before_anything_is_loaded():
    TraceRates().check_task("scenes_pope")
    TraceRates().check_task("scenes_mcq")
    with pytest.raises(UsageError, match="those of scenes_chair are longer"):
        TraceRates().check_task("scenes_chair")


def test_no_setting_is_called_as_a_parameter():
    from sinkbench.calibration.registry import calibrator_class, calibrator_names
    from sinkbench.methods import method_class

    for name in calibrator_names():
        own = {field.name for field in dataclasses.fields(calibrator_class(name))}
        assert own.isdisjoint(field.name for field in dataclasses.fields(method_class(name)))
        assert method_class(name).calibration
