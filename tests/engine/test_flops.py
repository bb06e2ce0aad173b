"""Prefill costs against values that papers print (pruning_protocol §4), in 10¹² multiply-adds."""

from types import SimpleNamespace

import pytest

from sinkbench.engine.flops import LayerShape

VICUNA = LayerShape(n_layers=32, hidden=4096, intermediate=11008, kv_width=4096)


def fastv(n: int, kept: int, layers: int = 2) -> list[int]:
    return [n] * layers + [kept] * (32 - layers)


def stages(n: int, starts: tuple[int, ...], counts: tuple[int, ...]) -> list[int]:
    by_layer = [n] * 32
    for start, count in zip(starts, counts, strict=True):
        by_layer[start:] = [count] * (32 - start)
    return by_layer


@pytest.mark.parametrize(
    ("tokens", "printed"),
    [
        ([576] * 32, "3.817"),
        ([192] * 32, "1.253"),
        ([128] * 32, "0.833"),
        ([64] * 32, "0.416"),
        (fastv(576, 288), "2.007"),
        (fastv(576, 192), "1.413"),
        (fastv(576, 128), "1.020"),
        (fastv(576, 64), "0.628"),
        (stages(576, (8, 16, 24), (288, 144, 72)), "1.777"),
        (stages(576, (2, 10, 20), (184, 92, 46)), "0.837"),
        (stages(576, (2, 8), (115, 90)), "0.818"),
        (stages(48, (8, 16, 24), (35, 26, 19)), "0.208"),
        ([2880] * 32, "20.83"),
        (fastv(2880, 1440), "10.55"),
        (stages(2880, (8, 16, 24), (1440, 720, 360)), "9.465"),
    ],
)
def test_three_matrices(tokens, printed):
    digits = len(printed.partition(".")[2])
    assert f"{VICUNA.macs(tokens) / 1e12:.{digits}f}" == printed


def test_two_matrices():
    assert f"{VICUNA.macs([576] * 32, 'f2') / 1e12:.3f}" == "2.986"


def test_grouped_heads_cost_less():
    narrow = LayerShape(n_layers=2, hidden=8, intermediate=16, kv_width=2)
    assert narrow.macs([3, 3]) == 2 * (4 * 3 * 64 + 2 * 9 * 8 + 3 * 3 * 8 * 16)
    assert narrow.macs([3], grouped=True) == 3 * (2 * 64 + 2 * 8 * 2) + 2 * 9 * 8 + 3 * 3 * 8 * 16
    assert VICUNA.macs([5], grouped=True) == VICUNA.macs([5])


def test_cache_bytes():
    assert VICUNA.kv_bytes([1] * 32) == 524_288
    assert f"{VICUNA.kv_bytes([576] * 32) / 1e6:.1f}" == "302.0"
    assert f"{VICUNA.kv_bytes([192] * 32) / 1e6:.1f}" == "100.7"


def test_sizes_come_from_the_configuration():
    config = SimpleNamespace(
        num_hidden_layers=28, hidden_size=3584, intermediate_size=18944, num_attention_heads=28, num_key_value_heads=4
    )
    assert LayerShape.of(config, 2) == LayerShape(28, 3584, 18944, 512, 2)
