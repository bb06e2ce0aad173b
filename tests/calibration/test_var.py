"""The calibrator of `var`: what the detector of sink dimensions finds becomes parameters."""

import pytest
import torch
from harness import adapter, image, request

from sinkbench.calibration import var
from sinkbench.calibration.base import Bench, Question
from sinkbench.calibration.var import FindSinks
from sinkbench.errors import SinkbenchError, UsageError
from sinkbench.inspection.prompts import PROMPTS
from sinkbench.methods import get_method
from sinkbench.methods.var import Var


def planted(monkeypatch, dims):
    """Let first tokens be massive in some dimensions; returns the texts that were asked."""
    asked = []

    def states(adapter, requests, layers):
        asked.extend(request.messages[0].text for request in requests)
        hidden = torch.ones(len(layers), len(requests), adapter.info.hidden_size)
        hidden[..., list(dims)] = 50.0
        return hidden

    monkeypatch.setattr(var, "first_token_states", states)
    monkeypatch.setattr(var, "massive_evidence", lambda adapter, requests: {"dims": [3], "evidence": {}})
    return asked


def test_dimensions_and_threshold_become_parameters(monkeypatch):
    a, asked = adapter("llava"), planted(monkeypatch, [3])
    found = FindSinks().measure(Bench(a, Var()))
    assert asked == list(PROMPTS)
    # 20 √(64 / 4096): VAR's share of a token's energy in 64 dimensions.
    assert found.params == {"sink_dims": [3], "tau": 2.5}
    assert found.evidence["prompts"] == 8
    assert found.evidence["detector_tau"] == 4.0
    assert get_method("var", found.params).bind(a.info).sink_dims == (3,)
    assert FindSinks().measure(Bench(a, Var(tau=2.0))).params == {"sink_dims": [3], "tau": 2.0}


def test_a_tasks_questions_are_asked_without_their_images(monkeypatch):
    asked = planted(monkeypatch, [3])
    shown = image(2)
    questions = [Question(request(str(i), f"<image>\n{text} ?", shown), "yes") for i, text in enumerate("aab")]
    found = FindSinks().measure(Bench(adapter("llava"), Var(), questions))
    assert asked == ["a ?", "b ?"]
    assert found.evidence["prompts"] == 2


def test_a_model_without_sinks_is_told_so_with_what_to_try():
    with pytest.raises(SinkbenchError, match="no massive activations at the first token") as failed:
        FindSinks(detector_tau=7.9).measure(Bench(adapter("llava"), Var()))
    assert "var.detector_tau=" in failed.value.hint
    with pytest.raises(UsageError, match="negative"):
        FindSinks(detector_tau=-1.0)
