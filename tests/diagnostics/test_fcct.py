"""Recovery rates by hand."""

import pytest
import torch

from sinkbench.diagnostics.fcct import lost_enough, mean_recovery, recovery_rate

CLEAN, CORRUPTED = torch.tensor([0.9, 0.8, 0.5]), torch.tensor([0.1, 0.4, 0.5])


def test_a_rate_is_the_regained_share_of_what_was_lost():
    patched = torch.tensor([0.5, 0.3])
    assert recovery_rate(CLEAN[:2], CORRUPTED[:2], patched).tolist() == pytest.approx([0.5, -0.25])


def test_patching_everything_gives_one_and_nothing_gives_zero():
    counts = lost_enough(CLEAN, CORRUPTED)
    for aggregation in ("mean_of_ratios", "ratio_of_means"):
        assert mean_recovery(CLEAN, CORRUPTED, CLEAN, counts, aggregation) == 1
        assert mean_recovery(CLEAN, CORRUPTED, CORRUPTED, counts, aggregation) == 0


def test_samples_that_lost_nothing_do_not_count():
    assert lost_enough(CLEAN, CORRUPTED).tolist() == [True, True, False]
    assert lost_enough(CLEAN, CORRUPTED, 0.5).tolist() == [True, False, False]
    assert not lost_enough(CLEAN, CLEAN).any()
    assert mean_recovery(CLEAN, CLEAN, CLEAN, lost_enough(CLEAN, CLEAN)).isnan()


def test_the_two_means_weigh_samples_differently():
    # Rates 0.25 of 0.8 lost and 1.0 of 0.4 lost; the third sample lost nothing.
    patched = torch.tensor([[0.3, 0.8, 0.9]])
    counts = lost_enough(CLEAN, CORRUPTED)
    assert mean_recovery(CLEAN, CORRUPTED, patched, counts).tolist() == pytest.approx([0.625])
    assert mean_recovery(CLEAN, CORRUPTED, patched, counts, "ratio_of_means").tolist() == pytest.approx([0.5])
