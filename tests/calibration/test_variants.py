"""Scores of several variants come from the answers of each."""

import pytest
from harness import adapter, answers, image, request

from sinkbench.calibration.variants import score_variants
from sinkbench.errors import SinkbenchError
from sinkbench.methods import get_method
from sinkbench.request import ImageRef


class Echo:
    """Gives the answers back as metrics."""

    def score(self, given):
        return dict(given), {}


def test_each_variant_is_scored_by_its_own_answers():
    a, seen = adapter("llava"), []
    asked = [request(str(i), "<image>\nwhat do you see ?", image(i)) for i in range(3)]
    variants = {"plain": get_method("greedy"), "strong": get_method("image_scale", {"factor": 30.0})}
    scores = score_variants(a, variants, Echo(), asked, progress=lambda done, total: seen.append((done, total)))
    assert scores == {name: answers(a, method, asked) for name, method in variants.items()}
    assert scores["plain"] != scores["strong"]
    assert seen[-1] == (6, 6)


def test_a_question_without_answer_stops_the_search():
    asked = [request("lost", "<image>\nwhat ?", ImageRef("/nowhere.png"))]
    with pytest.raises(SinkbenchError, match="lost has no answer"):
        score_variants(adapter("llava"), {"plain": get_method("greedy")}, Echo(), asked)
