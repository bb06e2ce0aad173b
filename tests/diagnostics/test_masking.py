"""Tokens are found wherever padding lies."""

import pytest
import torch

from sinkbench.diagnostics.masking import at, masked_max, masked_median, masked_sum, place, ranks, real_slots, without
from sinkbench.errors import UsageError

MASK = torch.tensor([[False, True, True, False, True], [True, False, False, False, False]])


def test_places_of_tokens():
    assert ranks(MASK)[MASK].tolist() == [0, 1, 2, 0]
    assert real_slots(MASK)[0, :3].tolist() == [1, 2, 4]
    assert real_slots(MASK)[1, 0] == 0


def test_reductions_see_the_mask_alone():
    values = torch.tensor([[9.0, 1, 2, 9, 6], [5, 9, 9, 9, 9]])[:, None].expand(2, 3, 5)
    assert masked_sum(values, MASK)[:, 0].tolist() == [9, 5]
    assert masked_max(values, MASK)[:, 2].tolist() == [6, 5]
    assert masked_median(values, MASK)[:, 1].tolist() == [2, 5]
    assert masked_median(values, torch.zeros_like(MASK)).isnan().all()
    assert at(values, torch.tensor([2, 1]))[:, 0].tolist() == [2, 9]


def test_a_slot_is_taken_out_and_the_mask_stays():
    assert without(MASK, torch.tensor([1, 0])).nonzero().tolist() == [[0, 2], [0, 4]]
    assert MASK.sum() == 4


def test_flags_go_to_their_tokens():
    flags = [torch.tensor([True, False, True]), torch.tensor([True])]
    assert place(flags, MASK).nonzero().tolist() == [[0, 1], [0, 4], [1, 0]]
    with pytest.raises(UsageError, match=r"\[2, 1\] flags were given for \[3, 1\] tokens"):
        place([flags[0][:2], flags[1]], MASK)
