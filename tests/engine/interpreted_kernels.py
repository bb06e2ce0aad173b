"""Checks of the Triton kernels that need Triton's interpreter. `test_kernels.py` runs this file in such a process."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from kernel_cases import Shape, make_case, materialise, reference, relative_error

from sinkbench.engine import kernels
from sinkbench.engine.kernels import PAD, combine, decode_partials, merge, suffix_attention, suffix_mass
from sinkbench.engine.keys import Grouping, LayerKeys

SUFFIX = {
    "shared prefixes": Shape(5, 2, 4, 4, 64, prefix=37, own=9, capacity=12, queries=9, groups=4),
    "grouped heads": Shape(3, 2, 6, 2, 64, prefix=40, own=7, capacity=7, queries=7, groups=3),
    "no prefix": Shape(3, 0, 4, 2, 32, prefix=0, own=45, capacity=64, queries=45, groups=2),
    "later part of the suffix": Shape(3, 1, 2, 2, 32, prefix=20, own=40, capacity=48, queries=5, groups=1),
    "single rows": Shape(5, 2, 4, 2, 32, prefix=20, own=9, capacity=12, queries=1, groups=2),
    "wide heads": Shape(2, 2, 2, 1, 128, prefix=70, own=33, capacity=40, queries=33, groups=16),
    "odd head dimension": Shape(3, 3, 2, 2, 80, prefix=16, own=5, capacity=8, queries=5, groups=4),
    "many samples a tile": Shape(23, 3, 2, 2, 32, prefix=9, own=3, capacity=4, queries=2, groups=4),
}
DECODE = {
    "plain": Shape(2, 2, 4, 4, 64, prefix=70, own=50, capacity=80, queries=1, groups=1),
    "groups": Shape(3, 2, 2, 2, 64, prefix=150, own=21, capacity=130, queries=1, groups=4),
    "grouped heads": Shape(1, 1, 14, 2, 128, prefix=180, own=9, capacity=100, queries=1, groups=4),
    "no prefix": Shape(2, 0, 4, 2, 32, prefix=0, own=45, capacity=300, queries=1, groups=3),
    "empty splits": Shape(1, 0, 2, 2, 32, prefix=0, own=5, capacity=1000, queries=1, groups=2),
    "odd head dimension": Shape(2, 1, 4, 4, 80, prefix=30, own=12, capacity=300, queries=1, groups=16),
}
suffix = pytest.mark.parametrize("shape", SUFFIX.values(), ids=SUFFIX)
decode = pytest.mark.parametrize("shape", DECODE.values(), ids=DECODE)


def run_suffix(case, factors=None):
    return suffix_attention(case.query, case.keys, case.codes, case.own_length, case.scaling, factors)


def run_decode(case, gains=None):
    n_groups = case.factors.shape[-1]
    return decode_partials(case.query, case.keys, case.codes, case.device_length, case.scaling, n_groups, gains)


@suffix
def test_suffix_attention(shape):
    case = make_case(shape, torch.float32)
    assert relative_error(run_suffix(case), reference(case)[0]) < 1e-5


@suffix
def test_suffix_attention_with_factors(shape):
    case = make_case(shape, torch.float32)
    assert relative_error(run_suffix(case, case.factors), reference(case, case.factors)[0]) < 1e-5


@suffix
def test_suffix_mass(shape):
    case = make_case(shape, torch.float32)
    mass = suffix_mass(case.query, case.keys, case.codes, case.own_length, case.scaling, shape.groups)
    assert relative_error(mass, reference(case)[1]) < 1e-5
    torch.testing.assert_close(mass.sum(-1), torch.ones_like(mass[..., 0]))


@decode
def test_decode(shape):
    case = make_case(shape, torch.float32)
    partials = run_decode(case)
    out, mass = reference(case)
    assert relative_error(combine(partials), out) < 1e-5
    assert relative_error(merge(partials), mass) < 1e-5
    assert relative_error(combine(partials, case.factors), reference(case, case.factors)[0]) < 1e-5


@decode
def test_decode_with_gains(shape):
    case = make_case(shape, torch.float32)
    partials = run_decode(case, case.gains)
    out, mass = reference(case, gains=case.gains)
    assert relative_error(combine(partials), out) < 1e-5
    assert relative_error(merge(partials), mass) < 1e-5


def test_half_precision():
    """float16 only: the interpreter has no product of bfloat16."""
    case = make_case(SUFFIX["grouped heads"], torch.float16)
    out = run_suffix(case, case.factors)
    mass = suffix_mass(case.query, case.keys, case.codes, case.own_length, case.scaling, 3)
    assert out.dtype == torch.float16
    assert relative_error(out, reference(case, case.factors)[0]) < 2e-3
    assert relative_error(mass, reference(case)[1]) < 2e-3
    case = make_case(DECODE["groups"], torch.float16)
    out = combine(run_decode(case))
    assert out.dtype == torch.float16
    assert relative_error(out, reference(case)[0]) < 2e-3


def test_decode_follows_the_length_on_the_device():
    case = make_case(DECODE["groups"], torch.float32, padded=False)
    for length in (1, 7, 20):
        shorter = replace(case, own_length=length)
        assert relative_error(combine(run_decode(shorter)), reference(shorter)[0]) < 1e-5


def test_decode_splits_are_used_and_some_are_empty():
    partials = run_decode(make_case(DECODE["empty splits"], torch.float32))
    filled = (partials.sum > 0).any(-1).any(1)[0]
    assert partials.sum.shape[2] == 8
    assert 1 < filled.sum() < 8
    assert not partials.out[:, :, ~filled].any()


def test_sample_without_any_key_gives_zero():
    case = make_case(DECODE["groups"], torch.float32)
    partials = run_decode(replace(case, codes=case.codes.index_fill(0, torch.tensor([1]), PAD)))
    out, mass = combine(partials), merge(partials)
    assert not out[1].any()
    assert not mass[1].any()
    assert out[0].isfinite().all()
    assert out[0].any()


def test_padding_row_sees_itself():
    case = make_case(SUFFIX["no prefix"], torch.float32)
    assert case.codes[1, 0] == PAD
    _k, v, _visible = materialise(case)
    torch.testing.assert_close(run_suffix(case)[1, ::2, 0], v[1, :, 0])


def test_prefix_order_does_not_matter():
    """Samples that share a prefix need not be neighbours."""
    case = make_case(SUFFIX["many samples a tile"], torch.float32, padded=False)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(1))
    keys, groups = case.keys, case.keys.grouping.group[order].tolist()
    grouping = Grouping.of(groups, 3, torch.device("cpu"))
    shuffled = LayerKeys(keys.own_k[order], keys.own_v[order], keys.prefix_k, keys.prefix_v, grouping)
    out = suffix_attention(case.query[order], shuffled, case.codes[order], case.own_length, case.scaling)
    torch.testing.assert_close(out, run_suffix(case)[order])


def test_output_is_laid_out_for_the_output_projection():
    case = make_case(SUFFIX["grouped heads"], torch.float32)
    assert run_suffix(case).transpose(1, 2).is_contiguous()


def test_codes_may_end_at_the_filled_slots():
    case = make_case(SUFFIX["shared prefixes"], torch.float32)
    cut = case.codes[:, : 37 + case.own_length].contiguous()
    torch.testing.assert_close(run_suffix(replace(case, codes=cut)), run_suffix(case))


def test_keys_and_values_of_different_strides_are_refused():
    case = make_case(DECODE["no prefix"], torch.float32)
    with pytest.raises(ValueError, match="equal strides"):
        run_decode(replace(case, keys=LayerKeys(case.keys.own_k, case.keys.own_v.contiguous())))


def test_query_with_a_strided_last_dimension_is_refused():
    case = make_case(SUFFIX["no prefix"], torch.float32)
    with pytest.raises(ValueError, match="last stride of 1"):
        run_suffix(replace(case, query=case.query.transpose(2, 3).contiguous().transpose(2, 3)))


def test_too_many_groups_are_refused():
    case = make_case(DECODE["plain"], torch.float32)
    with pytest.raises(ValueError, match="at most 16"):
        decode_partials(case.query, case.keys, case.codes, case.device_length, case.scaling, n_groups=17)


def test_splits_depend_on_shapes_only(monkeypatch):
    monkeypatch.setattr(kernels, "_multiprocessors", lambda device: 132)
    cpu = torch.device("cpu")
    assert kernels.n_splits(1 * 32, 743, cpu) == 12  # 64 slots or more in each
    assert kernels.n_splits(32 * 32, 743, cpu) == 2
    assert kernels.n_splits(128 * 32, 743, cpu) == 1
    assert kernels.n_splits(4, 32768, cpu) == 64
