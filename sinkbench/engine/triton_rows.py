"""Device code of the vector statistics. `rows.py` says what they are, and launches them."""

# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl

from sinkbench.engine.triton_kernels import load_slots


@triton.jit
def pick(values, lane, axis: tl.constexpr, n: tl.constexpr):
    """Of values (R, C) those of one lane along an axis: (C,) of row lane (C,), or (R,) of column lane (R,)."""
    lanes = tl.arange(0, n)
    chosen = (lanes[:, None] == lane[None, :]) if axis == 0 else (lanes[None, :] == lane[:, None])
    return tl.sum(tl.where(chosen, values, 0), axis)


@triton.jit(do_not_specialize=["n_heads", "n_rows"])
def row_kernel(
    values, reference, norms, dots, largest, dims, n_heads, n_rows, width,
    stride_b, stride_h, stride_q, stride_rb, stride_rh,
    DOT: tl.constexpr, EXTREMES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One (tile of rows, sample and head): a pass over its rows."""
    row, group = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1)
    sample, head = (group // n_heads).to(tl.int64), (group % n_heads).to(tl.int64)
    used = row < n_rows
    base = values + sample * stride_b + head * stride_h
    other = reference + sample * stride_rb + head * stride_rh
    square = tl.zeros([ROWS, BLOCK], tl.float32)
    dot = tl.zeros([ROWS, BLOCK], tl.float32)
    peak = tl.zeros([ROWS, BLOCK], tl.float32)
    place = tl.zeros([ROWS, BLOCK], tl.int32)
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < width
        at = base + row.to(tl.int64)[:, None] * stride_q + column[None, :]
        x = tl.load(at, mask=used[:, None] & inside[None, :], other=0.0).to(tl.float32)
        square += x * x
        if DOT:
            dot += x * tl.load(other + column, mask=inside, other=0.0).to(tl.float32)[None, :]
        if EXTREMES:
            more = tl.abs(x) > peak
            peak = tl.where(more, tl.abs(x), peak)
            place = tl.where(more, column[None, :], place)
    out = group.to(tl.int64) * n_rows + row
    tl.store(norms + out, tl.sqrt(tl.sum(square, 1)), mask=used)
    tl.store(dots + out, tl.sum(dot, 1), mask=used)
    if EXTREMES:
        top, lane = tl.max(peak, 1, return_indices=True)
        tl.store(largest + out, top, mask=used)
        tl.store(dims + out, pick(place, lane, 1, BLOCK).to(tl.int64), mask=used)


@triton.jit(do_not_specialize=["n_rows"])
def column_kernel(
    hidden, valid, values, tokens, n_rows, width, stride_b, stride_q, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """One (tile of dimensions, sample): a pass over all its tokens."""
    column, sample = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS), tl.program_id(1).to(tl.int64)
    inside = column < width
    value = tl.zeros([ROWS, COLUMNS], tl.float32)
    token = tl.zeros([ROWS, COLUMNS], tl.int32)
    for start in range(0, n_rows, ROWS):
        row = start + tl.arange(0, ROWS)
        real = tl.load(valid + sample * n_rows + row, mask=row < n_rows, other=0) != 0
        at = hidden + sample * stride_b + row.to(tl.int64)[:, None] * stride_q + column[None, :]
        x = tl.load(at, mask=real[:, None] & inside[None, :], other=0.0).to(tl.float32)
        more = tl.abs(x) > tl.abs(value)
        value = tl.where(more, x, value)
        token = tl.where(more, row[:, None], token)
    _, lane = tl.max(tl.abs(value), 0, return_indices=True)
    out = sample * width + column
    tl.store(values + out, pick(value, lane, 0, ROWS), mask=inside)
    tl.store(tokens + out, pick(token, lane, 0, ROWS).to(tl.int64), mask=inside)


@triton.jit(do_not_specialize=["n_rows"])
def mapped_kernel(
    values, maps, norms, n_rows, stride_b, stride_h, stride_q,
    SHARE: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One (tile of rows, query head, sample): the lengths of its vectors under the head's map."""
    row, head, sample = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1), tl.program_id(2)
    used = row < n_rows
    base = values + sample.to(tl.int64) * stride_b + (head // SHARE).to(tl.int64) * stride_h
    v = load_slots(base, row, stride_q, used, D, HEAD_DIM)
    line = tl.arange(0, D)
    m = load_slots(maps + head * HEAD_DIM * HEAD_DIM, line, HEAD_DIM, line < HEAD_DIM, D, HEAD_DIM)
    mapped = tl.dot(v, tl.trans(m), input_precision=PRECISION)
    out = (sample.to(tl.int64) * tl.num_programs(1) + head) * n_rows + row
    tl.store(norms + out, tl.sqrt(tl.sum(mapped * mapped, 1)), mask=used)
