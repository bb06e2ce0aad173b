"""Checks of the column kernels that need Triton's interpreter. `test_kernels.py` runs this file in such a process."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from kernel_cases import Shape, make_case, relative_error, sums_reference

from sinkbench.engine.columns import Sums, kernel_sums, plain_sums
from sinkbench.engine.context import Context, Stage
from sinkbench.engine.kernels import PAD
from sinkbench.engine.keys import LayerKeys

SHAPES = {
    "left-padded prompts": Shape(3, 0, 4, 4, 32, prefix=0, own=75, capacity=75, queries=75, groups=1),
    "grouped heads, odd head dimension": Shape(2, 0, 6, 2, 80, prefix=0, own=40, capacity=48, queries=40, groups=1),
    "shared prefixes": Shape(5, 2, 4, 2, 64, prefix=37, own=9, capacity=12, queries=9, groups=1),
    "single rows": Shape(3, 2, 4, 2, 32, prefix=20, own=9, capacity=12, queries=1, groups=1),
    "later part of the suffix": Shape(3, 1, 2, 2, 32, prefix=20, own=40, capacity=48, queries=35, groups=1),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def run(case):
    return kernel_sums(case.query, case.keys, case.codes, case.own_length, case.scaling)


def right_padded():
    """Prefixes as they are laid out: padding, whose keys hold anything, behind the tokens."""
    case = make_case(SHAPES["left-padded prompts"], torch.float32, padded=False)
    codes = case.codes.clone()
    codes[1, 50:] = codes[2, 3:] = PAD
    return replace(case, codes=codes)


@shapes
def test_column_sums(shape):
    case = make_case(shape, torch.float32)
    for name, result, expected in zip(Sums._fields, run(case), sums_reference(case), strict=True):
        assert relative_error(result, expected) < 1e-5, name


@shapes
def test_explicit_weights(shape):
    """What runs on other devices."""
    case = make_case(shape, torch.float32)
    own = (case.keys.own_k[:, :, : shape.own], case.keys.own_v[:, :, : shape.own])
    keys = LayerKeys(*own, case.keys.prefix_k, case.keys.prefix_v, case.keys.grouping)
    roles = (case.codes[:, : shape.prefix + shape.own] != PAD).to(torch.uint8)
    sums = plain_sums(case.query, keys, Context(Stage.SUFFIX, roles, shape.queries), case.scaling)
    for name, result, expected in zip(Sums._fields, sums, sums_reference(case), strict=True):
        assert relative_error(result, expected) < 1e-5, name


def test_right_padded_prompts():
    case = right_padded()
    sums = run(case)
    for result, expected in zip(sums, sums_reference(case), strict=True):
        assert relative_error(result, expected) < 1e-5
    assert not sums.mass[1, :, 50:].any()
    assert not sums.entropy[2, :, 3:].any()
    torch.testing.assert_close(sums.mass[2].sum(-1), torch.full((4,), 3.0))


def test_large_scores():
    """Rows with all their weight on one key have no entropy, and nothing overflows."""
    case = make_case(SHAPES["shared prefixes"], torch.float32)
    case = replace(case, query=case.query * 200)
    for result, expected in zip(run(case), sums_reference(case), strict=True):
        torch.testing.assert_close(result.double(), expected, atol=2e-3, rtol=1e-4)
    assert run(case).entropy.min() < 1e-3


def test_query_with_a_strided_last_dimension_is_refused():
    case = make_case(SHAPES["left-padded prompts"], torch.float32)
    with pytest.raises(ValueError, match="last stride of 1"):
        run(replace(case, query=case.query.transpose(2, 3).contiguous().transpose(2, 3)))


def test_half_precision():
    """float16 only: the interpreter has no product of bfloat16."""
    case = make_case(SHAPES["shared prefixes"], torch.float16)
    for result, expected in zip(run(case), sums_reference(case), strict=True):
        assert result.dtype == torch.float32
        assert relative_error(result, expected) < 1e-3
