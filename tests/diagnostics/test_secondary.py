"""Planted primary and secondary sinks are found, labelled and aligned; noise has none."""

import pytest
import torch

from sinkbench.diagnostics.cosine import cosines
from sinkbench.diagnostics.masking import at
from sinkbench.diagnostics.secondary import (
    Label,
    alignment,
    candidates,
    in_window,
    labels,
    later_attention,
    levels,
    primary_sink,
    prominent,
    rank_correlation,
    relative_labels,
    window,
)
from sinkbench.errors import UsageError

L, K, D = 30, 16, 1024


def planted() -> torch.Tensor:
    """(L, K, D) layer outputs: token 1 primary in layers 3–26, token 6 joins for 10–18, 7 for 10–12, 9 for 4–25."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(L, K, D, generator=generator)
    direction = torch.randn(D, generator=generator)
    for token, first, end, size in ((1, 3, 27, 100), (6, 10, 19, 60), (7, 10, 13, -60), (9, 4, 26, 60)):
        hidden[first:end, token] += size * direction
    return hidden


def measure(hidden: torch.Tensor, valid: torch.Tensor):
    """Norms (B, L, K), primary (B,) and cosines (B, L, K) of hidden (B, L, K, D)."""
    norms = hidden.norm(dim=-1)
    primary = primary_sink(norms, valid)
    references = hidden[torch.arange(len(hidden)), :, primary]
    return norms, primary, torch.stack([cosines(hidden[:, i], references[:, i]) for i in range(hidden.shape[1])], 1)


def find(hidden: torch.Tensor, valid: torch.Tensor):
    norms, primary, cosine = measure(hidden, valid)
    first, end = window(at(norms, primary))
    return primary, first, end, levels(candidates(cosine, in_window(first, end, norms.shape[1]), primary, valid))


ALL = torch.ones(1, K, dtype=torch.bool)


def test_planted_sinks_are_found_with_start_and_lifetime():
    primary, first, end, found = find(planted()[None], ALL)
    assert (primary.item(), first.item(), end.item()) == (1, 3, 27)
    lived = {token: found.lifetime[0, token].item() for token in found.lifetime[0].nonzero()[:, 0].tolist()}
    assert lived == {6: 9, 7: 3, 9: 22}
    assert found.start[0, [6, 7, 9, 3]].tolist() == [10, 10, 4, -1]
    assert found.run.equal(found.lifetime)


def test_labels_by_both_rules():
    _, first, end, found = find(planted()[None], ALL)
    for marks in (labels(found.lifetime, L), relative_labels(found.lifetime, end - first)):
        assert marks[0, [6, 7, 9]].tolist() == [Label.SECONDARY, Label.NOISE, Label.PRIMARY_LIKE]
        assert marks[0, 1] == Label.NONE
        assert marks[0].count_nonzero() == 3


def test_the_bounds_of_the_labels():
    lifetime = torch.tensor([[0, 1, 4, 5, 6, 7, 14, 15]])
    assert labels(lifetime, 30).tolist() == [[0, 1, 1, 2, 2, 2, 2, 3]]
    assert relative_labels(lifetime, torch.tensor([10])).tolist() == [[0, 1, 1, 2, 2, 3, 3, 3]]


def test_a_lifetime_counts_layers_that_do_not_touch_and_the_run_those_that_do():
    candidate = torch.tensor([1, 1, 0, 1, 1, 1, 0, 1]).bool()[None, :, None]
    found = levels(candidate)
    assert (found.start.item(), found.lifetime.item(), found.run.item()) == (0, 6, 3)


def test_padding_is_left_out_before_the_primary_is_chosen(valid, spread):
    full = planted()
    singles = [full[:, :n] for n in valid.sum(1).tolist()]
    hidden = spread(singles, dim=1)
    hidden.movedim(1, 2)[~valid] = 1e4
    primary, first, end, found = find(hidden, valid)
    for row, (real, single) in enumerate(zip(valid, singles, strict=True)):
        alone = find(single[None], torch.ones(1, single.shape[1], dtype=torch.bool))
        assert primary[row] == real.nonzero()[1, 0]
        assert (first[row], end[row]) == (alone[1][0], alone[2][0])
        for together, apart in zip(found, alone[3], strict=True):
            assert together[row, real].equal(apart[0])
        assert found.lifetime[row, ~real].eq(0).all()


def test_the_primary_is_among_the_first_three_and_none_comes_before_it():
    hidden = planted()[None]
    hidden[:, :, 5] *= 1e3
    hidden[:, 3:27, 0] = hidden[:, 3:27, 1] / 2
    primary, _, _, found = find(hidden, ALL)
    assert primary.item() == 1
    assert found.lifetime[0, :2].tolist() == [0, 0]


def test_a_sample_of_two_tokens_has_its_primary_among_them():
    norms = torch.tensor([[[1.0, 9, 3, 4]]])
    assert primary_sink(norms, torch.tensor([[True, False, True, False]])).tolist() == [2]


def test_random_states_have_no_candidates():
    hidden = torch.randn(2, 8, 200, D, generator=torch.Generator().manual_seed(1))
    _, primary, cosine = measure(hidden, torch.ones(2, 200, dtype=torch.bool))
    everywhere = torch.ones(2, 8, dtype=torch.bool)
    assert not candidates(cosine, everywhere, primary, torch.ones(2, 200, dtype=torch.bool)).any()


def test_the_window_without_the_last_output_ends_at_an_earlier_fall():
    norms = torch.tensor([[1.0, 1, 90, 100, 80, 75, 2]])
    assert [bound.item() for bound in window(norms)] == [2, 6]
    assert [bound.item() for bound in window(norms[:, :-1])] == [2, 4]


def test_a_norm_that_never_falls_has_a_window_to_the_end():
    assert [bound.item() for bound in window(torch.tensor([[1.0, 5, 6, 7]]))] == [1, 4]
    assert [bound.item() for bound in window(torch.tensor([[1.0, 2, 3, 9]]))] == [3, 4]
    with pytest.raises(UsageError, match="two layers"):
        window(torch.ones(1, 1))


def test_every_phase_in_which_the_primary_stands_out():
    hidden = planted()[None]
    hidden[:, 8:10] = torch.randn(1, 2, K, D, generator=torch.Generator().manual_seed(2))
    norms, primary, cosine = measure(hidden, ALL)
    phases = prominent(norms, primary, ALL)
    assert phases[0].nonzero()[:, 0].tolist() == [*range(3, 8), *range(10, 27)]
    found = levels(candidates(cosine, phases, primary, ALL))
    assert (found.lifetime[0, 9].item(), found.run[0, 9].item()) == (20, 16)


def test_members_align_and_their_controls_do_not():
    _, _, _, found = find(planted()[None], ALL)
    ids = torch.arange(K)[None].clone()
    ids[0, [2, 6, 12]] = 40
    members = labels(found.lifetime, L) == Label.SECONDARY
    cosine = torch.zeros(1, L, K)
    cosine[0, 10, 6], cosine[0, 10, 2], cosine[0, 10, 12] = 0.99, 0.1, -0.2
    result = alignment(cosine, found, members, ids, ALL)
    assert result.members.tolist() == pytest.approx([0.99])
    assert sorted(result.controls.tolist()) == pytest.approx([-0.2, 0.1])
    padded = ALL.clone()
    padded[0, 12] = False
    assert alignment(cosine, found, members, ids, padded).controls.tolist() == pytest.approx([0.1])


def test_attention_in_the_layers_behind_the_first():
    alpha = torch.arange(4.0)[None, :, None].expand(1, 4, 3)
    means = later_attention(alpha, torch.tensor([[0, 3, -1]]))
    assert means[0, 0] == 2
    assert means[0, 1:].isnan().all()


def test_rank_correlation():
    x = torch.tensor([1.0, 2, 3, 4])
    assert rank_correlation(x, x.exp()) == pytest.approx(1)
    assert rank_correlation(x, -x) == pytest.approx(-1)
    assert rank_correlation(torch.tensor([1.0, 2, 2, 3]), x) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert rank_correlation(torch.ones(4), x).isnan()
