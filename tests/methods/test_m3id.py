"""M3ID: the correction by hand; nothing for the first token; nothing where the model is sure."""

import math

import pytest
import torch
from harness import adapter, forced_tokens, logits, method, requests

from sinkbench.errors import UsageError
from sinkbench.methods.m3id import M3id, correct


def test_correction_by_hand():
    seeing = torch.tensor([[0.5, 0.3, 0.2], [0.9, 0.05, 0.05]]).log()
    blind = torch.tensor([[0.7, 0.1, 0.2], [0.2, 0.4, 0.4]]).log()
    scores = correct(seeing, blind, weight=2.0, certain=0.8)
    torch.testing.assert_close(scores[0], seeing[0] + 2 * (seeing[0] - blind[0]))
    torch.testing.assert_close(scores[1], seeing[1])
    assert scores[0].argmax() == 1


def test_the_correction_grows_with_the_answer():
    a, asked = adapter("llava"), requests()
    forced = forced_tokens(len(asked), 2)
    plain = logits(a, method("greedy"), asked, forced).log_softmax(-1)
    some, more = (logits(a, M3id(decay=d, certain=1.0), asked, forced) for d in (math.log(2), math.log(3)))
    torch.testing.assert_close(some[:, 0], plain[:, 0], atol=1e-4, rtol=1e-4)
    # γ = 1/2 and 1/3 at step 1, 1/4 and 1/9 at step 2: weights 1 and 2, then 3 and 8.
    for step, ratio in ((1, 2 / 1), (2, 8 / 3)):
        torch.testing.assert_close(
            more[:, step] - plain[:, step], ratio * (some[:, step] - plain[:, step]), atol=1e-3, rtol=1e-3
        )
    assert not some[:, 1].allclose(plain[:, 1], atol=1e-2)


def test_without_decay_nothing_changes():
    a, asked = adapter("llava"), requests()
    forced = forced_tokens(len(asked), 2)
    plain = logits(a, method("greedy"), asked, forced).log_softmax(-1)
    torch.testing.assert_close(logits(a, M3id(decay=0.0, certain=1.0), asked, forced), plain, atol=1e-4, rtol=1e-4)
    with pytest.raises(UsageError, match="cannot gain weight"):
        M3id(decay=-1.0)
