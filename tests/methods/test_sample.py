"""The methods that choose tokens otherwise: their settings, seeds and mistakes."""

from dataclasses import replace

import pytest
from harness import adapter, answers, requests

from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.request import Generation


def test_the_settings_of_sampling_and_of_beams():
    asked = Generation(max_new_tokens=7, stop=("x",), temperature=0.3, seed=4)
    assert get_method("greedy").generation(asked) is asked
    assert get_method("sample").generation(asked) == replace(asked, do_sample=True, temperature=1.0)
    drawn = get_method("sample+vcd", {"sample.top_p": 0.9}).generation(asked)
    assert drawn == replace(asked, do_sample=True, temperature=1.0, top_p=0.9)
    assert get_method("pai+beam", {"beam.length_penalty": 0.5}).generation(asked) == replace(
        asked, num_beams=5, length_penalty=0.5
    )


def test_sampling_as_a_method_equals_sampling_that_is_asked_for():
    a, plain = adapter("llava"), requests()
    asked = [replace(r, generation=replace(r.generation, do_sample=True, temperature=1.5)) for r in plain]
    drawn = answers(a, get_method("sample", {"temperature": 1.5}), plain)
    assert drawn == answers(a, get_method("greedy"), asked)
    assert drawn != answers(a, get_method("sample", {"temperature": 1.5}), plain, seed=1)
    assert drawn != answers(a, get_method("greedy"), plain)


def test_what_another_method_edits_is_sampled_from():
    """Where its plausibility cut leaves the most probable token alone, nothing is left to draw."""
    a, asked = adapter("llava"), requests()
    sure = {"vcd.alpha": 0.0, "vcd.beta": 1.0}
    assert answers(a, get_method("sample+vcd", sure), asked) == answers(a, get_method("greedy"), asked)


@pytest.mark.parametrize(
    ("name", "params", "says"),
    [
        ("sample", {"temperature": 0.0}, "sample.temperature=0.0"),
        ("sample", {"top_p": 0.0}, "sample.top_p=0.0"),
        ("sample", {"top_p": 1.5}, "sample.top_p=1.5"),
        ("beam", {"beams": 0}, "beam.beams=0"),
    ],
)
def test_mistakes_are_named(name, params, says):
    with pytest.raises(UsageError, match=says) as caught:
        get_method(name, params)
    assert "Give" in caught.value.hint


def test_no_beams_keep_no_answer():
    with pytest.raises(UsageError, match="0 beams"):
        Generation(num_beams=0)
