"""The detector finds planted dimensions, where they begin and end, and nothing else."""

import pytest
import torch
import yaml

from sinkbench.diagnostics.massive import magnitudes
from sinkbench.diagnostics.massive_dims import MassiveDims

N_STATES, N, K, D = 9, 12, 20, 96
ALL = torch.ones(N, K, dtype=torch.bool)
CODES = torch.zeros(N, K, dtype=torch.uint8)
CODES[:, 0], CODES[:, 5:15] = 1, 2
CLASSES = ("text", "first", "image")


def planted() -> torch.Tensor:
    """(I, N, K, D): dimension 7 on the first token in two phases, 30 on an image token of most samples."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N_STATES, N, K, D, generator=generator)
    values = 2000 * (1 + 0.05 * torch.randn(N, generator=generator))
    hidden[1:4, :, 0, 7] = values
    hidden[5:9, :, 0, 7] = -2 * values
    hidden[2:6, 3:, 8, 30] = -1500
    hidden[2:4, :, 0, 11] = 5000
    hidden[2:8, :5, 0, 12] = 5000
    return hidden


def detect(hidden: torch.Tensor, batch: int = N, real: torch.Tensor = ALL) -> MassiveDims:
    found = MassiveDims(N_STATES, D, CLASSES)
    for start in range(0, N, batch):
        part = slice(start, start + batch)
        for index, states in enumerate(hidden):
            found.update(index, magnitudes(states[part], real[part]), CODES[part])
    return found


def test_planted_dimensions_are_found_with_their_spans_and_tokens():
    first, second = detect(planted()).found()
    values = planted()[5, :, 0, 7]
    assert (first.dim, first.spans, first.onset, first.offset) == (7, ((1, 3), (5, 8)), 1, 8)
    assert first.strongest in range(5, 9)
    assert first.mean == pytest.approx(float(values.mean()))
    assert first.variation == pytest.approx(float(values.std(correction=0) / values.mean().abs()), rel=1e-4)
    assert first.classes == {"text": 0, "first": 1, "image": 0}
    assert (second.dim, second.spans, second.share, second.mean) == (30, ((2, 5),), 0.75, -1500)
    assert second.variation == 0
    assert second.classes["image"] == 1


def test_batches_add_up():
    assert detect(planted(), batch=5).found() == detect(planted()).found()


def test_a_dimension_of_few_samples_or_few_layers_is_none():
    assert {one.dim for one in detect(planted()).found()} == {7, 30}


def test_noise_and_hidden_states_that_are_all_large_have_none():
    noise = torch.randn(N_STATES, N, K, D, generator=torch.Generator().manual_seed(3))
    assert detect(noise).found() == ()
    assert detect(noise * 1e4).found() == ()


def test_without_the_first_token_only_the_image_dimension_stays():
    real = ALL.clone()
    real[:, 0] = False
    assert [one.dim for one in detect(planted(), real=real).found()] == [30]


def test_the_evidence_is_plain_yaml():
    entry = detect(planted()).evidence()
    assert yaml.safe_load(yaml.safe_dump(entry)) == entry
    assert entry["dims"] == [7, 30]
    assert entry["evidence"]["prompts"] == N
    assert entry["evidence"]["massive"][30] == {
        "spans": [[2, 5]],
        "strongest": 2,
        "mean": -1500.0,
        "variation": 0.0,
        "share": 0.75,
        "classes": {"image": 1.0},
    }
