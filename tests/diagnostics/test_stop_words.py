"""Shares of words' kinds and the test for global sinks."""

import pytest
import torch

from sinkbench.diagnostics.stop_words import column_variation, is_global_sink, word_shares

K = 40
ALL = torch.ones(1, K, dtype=torch.bool)


def test_kinds_of_words_share_the_attention_to_text():
    weights = torch.tensor([[[0.4, 0.1, 0.2, 0.2, 0.1]]])
    stop, content, mark = torch.eye(5)[[1, 2, 3]].bool()[:, None]
    shares = word_shares(weights, {"stop": stop, "content": content, "punctuation": mark})
    assert [share.item() for share in shares.values()] == pytest.approx([0.2, 0.4, 0.4])
    assert word_shares(torch.zeros(1, 2, 5), {"stop": stop})["stop"].isnan().all()


def test_the_variation_is_that_of_the_columns_rows():
    rows = torch.rand(1, 2, 9, K, generator=torch.Generator().manual_seed(0))
    found = column_variation(rows.sum(2), rows.square().sum(2), torch.full((1, K), 9))
    torch.testing.assert_close(found, rows.std(2, correction=0) / rows.mean(2))
    nothing = torch.zeros(1, 2, K)
    assert column_variation(nothing, nothing, torch.zeros(1, K).long()).isnan().all()


def test_global_sinks_draw_much_and_evenly():
    alpha, variation = torch.full((1, 1, K), 0.01), torch.full((1, 1, K), 0.1)
    alpha[..., 3], alpha[..., 8], alpha[..., 9], alpha[..., 12] = 0.5, 0.11, 0.09, 0.5
    variation[..., 12] = 0.3
    assert is_global_sink(alpha, variation, ALL).nonzero()[:, -1].tolist() == [3, 8]
    even = torch.full((1, 1, K), 0.31)
    assert is_global_sink(even, variation, ALL).sum() == K - 1
    unknown = torch.full_like(variation, torch.nan)
    assert not is_global_sink(alpha, unknown, ALL).any()


def test_padding_is_none_and_does_not_move_the_median():
    alpha, variation = torch.full((1, 1, K), 0.01), torch.zeros(1, 1, K)
    alpha[..., 8] = 0.11
    alpha[..., 10:] = 0
    valid = torch.arange(K)[None] < 10
    alpha[..., 30] = 0.9
    assert is_global_sink(alpha, variation, valid).nonzero()[:, -1].tolist() == [8]
