"""DoLa: the divergence, the choice of a layer, the plausibility cut."""

import pytest
import torch
from harness import adapter, answers, method, requests

from sinkbench.errors import UsageError
from sinkbench.methods.dola import Dola, contrast_layers, divergence
from sinkbench.methods.facts import ModelInfo

INFO = ModelInfo("m", n_layers=32, n_heads=4, n_kv_heads=4, hidden_size=64)


def logits(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


def test_divergence_of_disjoint_and_of_equal_distributions():
    first = torch.tensor([[1.0, 0.0], [0.25, 0.75]]).log()
    second = torch.tensor([[0.0, 1.0], [0.25, 0.75]]).log()
    torch.testing.assert_close(divergence(first, second), torch.tensor([2.0, 1.0]).log())
    assert divergence(first, second).equal(divergence(second, first))


def test_each_sample_contrasts_with_the_layer_that_differs_most():
    final = logits([0.6, 0.3, 0.1], [0.6, 0.3, 0.1])
    near, far = [0.55, 0.35, 0.1], [0.1, 0.8, 0.1]
    early = torch.stack((logits(near, far), logits(far, near)))
    scores = contrast_layers(final, early, cut=0.01)
    expected = final - logits(far, far)
    torch.testing.assert_close(scores, expected)


def test_implausible_tokens_are_cut():
    final, early = logits([0.6, 0.3, 0.02, 0.08]), logits([0.9, 0.05, 0.0001, 0.05])[None]
    assert contrast_layers(final, early, cut=0.1).isinf().tolist() == [[False, False, True, False]]
    # Uncut, the token that no early layer believed in would win.
    assert contrast_layers(final, early, cut=1e-3).argmax() == 2


def test_candidate_layers():
    assert list(Dola().bind(INFO).hidden_layers) == list(range(16, 32, 2))
    assert list(Dola(layers="low").bind(INFO).hidden_layers) == list(range(2, 16, 2))
    assert list(Dola(candidates=(3, 5)).bind(INFO).hidden_layers) == [3, 5]
    with pytest.raises(UsageError, match="layers 0 to 31"):
        Dola(candidates=(40,)).bind(INFO)
    with pytest.raises(UsageError, match="no share of a probability"):
        Dola(cut=0.0)


def test_a_cut_of_one_leaves_the_most_probable_token():
    a, asked = adapter("llava"), requests()
    assert answers(a, Dola(cut=1.0), asked) == answers(a, method("greedy"), asked)
