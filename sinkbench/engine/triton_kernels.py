"""Device code of the attention kernels. `kernels.py` says what they compute, and launches them.

Softmaxes are online in float32: a running maximum of the unscaled scores, sums of exp2. A key that a row does not see
has the score -inf. Running maxima start at a finite number, so a row that has seen nothing yet never makes a NaN.
"""

# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl

PAD = tl.constexpr(255)
LOWEST = tl.constexpr(-1.0e38)
TINY = tl.constexpr(1.0e-30)


@triton.jit
def load_slots(base, slot, stride, inside, D: tl.constexpr, HEAD_DIM: tl.constexpr):
    """(n, D) keys or values of the slots (n,); zero where not inside, because 0 · NaN of an unwritten slot is NaN."""
    column = tl.arange(0, D)
    mask = inside[:, None] if D == HEAD_DIM else inside[:, None] & (column < HEAD_DIM)[None, :]
    return tl.load(base + slot[:, None] * stride + column[None, :], mask=mask, other=0.0)


@triton.jit
def softmax_step(scores, maximum, total, scale):
    """Take a tile of unscaled scores into a running softmax.

    Returns:
        The tile's exponentials, the factor by which older sums shrink, the new maximum and the new sum.
    """
    peak = tl.maximum(maximum, tl.max(scores, 1))
    weights = tl.exp2(scores * scale - (peak * scale)[:, None])
    decay = tl.exp2((maximum - peak) * scale)
    return weights, decay, peak, total * decay + tl.sum(weights, 1)


@triton.jit
def _visible_codes(
    codes, stride_codes, slot, inside, member, n_members, row_slot, MEMBERS: tl.constexpr, CAUSAL: tl.constexpr
):
    """(rows, n) group of every key, PAD where the row does not see it.

    Codes are loaded per sample and spread over its rows: loads per row and key would cost more than the softmax.
    """
    code = PAD
    for s in tl.static_range(MEMBERS):
        of_sample = tl.load(codes + s * stride_codes + slot, mask=inside & (s < n_members), other=PAD).to(tl.int32)
        code = tl.where((member == s)[:, None], of_sample[None, :], code)
    if CAUSAL:
        # A padding row sees itself, as a key of group 0, so that no softmax is taken over nothing.
        itself = (slot[None, :] == row_slot[:, None]) & (member == 0)[:, None]
        code = tl.where(itself & (code == PAD), 0, code)
        code = tl.where(slot[None, :] <= row_slot[:, None], code, PAD)
    return code


@triton.jit
def _suffix_span(
    maximum, total, out, query, keys, values, stride, codes, stride_codes, end, member, n_members, row_slot,
    factors, scale,
    MEMBERS: tl.constexpr, CAUSAL: tl.constexpr, MASS: tl.constexpr, FACTORS: tl.constexpr, GROUPS: tl.constexpr,
    WIDTH: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Take the key slots before `end` into the running state of the rows with member >= 0."""
    for start in range(0, end, KEYS):
        slot = start + tl.arange(0, KEYS)
        inside = slot < end
        code = _visible_codes(codes, stride_codes, slot, inside, member, n_members, row_slot, MEMBERS, CAUSAL)
        k = load_slots(keys, slot, stride, inside, D, HEAD_DIM)
        scores = tl.dot(query, tl.trans(k), input_precision=PRECISION)
        scores = tl.where(code != PAD, scores, float("-inf"))
        weights, decay, maximum, total = softmax_step(scores, maximum, total, scale)
        if MASS:
            # Sums by group on the matrix unit. Padding counts as group 0: the only visible padding is a row's own slot.
            out *= decay[:, None]
            weights = weights.to(k.dtype)
            for s in tl.static_range(MEMBERS):
                group = tl.load(codes + s * stride_codes + slot, mask=inside & (s < n_members), other=PAD).to(tl.int32)
                group = tl.where(group == PAD, 0, group)
                belongs = (group[:, None] == tl.arange(0, WIDTH)[None, :]).to(k.dtype)
                mass = tl.dot(weights, belongs, input_precision=PRECISION)
                out += tl.where((member == s)[:, None], mass, 0.0)
        else:
            if FACTORS:
                factor = tl.load(factors)[:, None]
                for g in tl.static_range(1, GROUPS):
                    factor = tl.where(code == g, tl.load(factors + g)[:, None], factor)
                weights *= factor
            v = load_slots(values, slot, stride, inside, D, HEAD_DIM)
            out = tl.dot(weights.to(v.dtype), v, out * decay[:, None], input_precision=PRECISION)
    return maximum, total, out


@triton.jit(
    do_not_specialize=["prefix_of", "codes", "n_rows", "n_queries", "own_length", "prefix_slots", "stride_codes"]
)
def suffix_kernel(
    query, prefix_k, prefix_v, own_k, own_v, prefix_of, codes, factors, result,
    scale, n_rows, n_queries, own_length, prefix_slots,
    stride_qb, stride_qh, stride_qs, stride_pg, stride_ph, stride_ps, stride_ob, stride_oh, stride_os, stride_codes,
    PREFIX: tl.constexpr, SHARE: tl.constexpr, MEMBERS: tl.constexpr, MASS: tl.constexpr, FACTORS: tl.constexpr,
    GROUPS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr,
    HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One (tile of rows, KV head).

    The rows of all samples, (sample, query, head of the KV head) in row-major order, are cut into tiles without regard
    to samples. Samples of a tile that have the same prefix go over it together, up to MEMBERS at a time.
    """
    kv_head = tl.program_id(1)
    first_row = tl.program_id(0) * ROWS
    row = first_row + tl.arange(0, ROWS)
    used = row < n_rows
    per_sample = n_queries * SHARE
    sample = row // per_sample
    index = row % per_sample // SHARE
    heads = tl.num_programs(1) * SHARE
    head = kv_head * SHARE + row % SHARE
    row_slot = own_length - n_queries + index
    column = tl.arange(0, D)
    at = sample.to(tl.int64) * stride_qb + head * stride_qh + index * stride_qs
    q = tl.load(query + at[:, None] + column[None, :], mask=used[:, None] & (column < HEAD_DIM)[None, :], other=0.0)
    prefix_of_row = sample
    if PREFIX:
        prefix_of_row = tl.load(prefix_of + sample, mask=used, other=-1)
    by_group = ((sample.to(tl.int64) * heads + head) * n_queries + index) * GROUPS
    # Rows past the end take part in nothing; they read the factors of row 0 so that the loads need no mask.
    factors += tl.where(used, by_group, 0)

    maximum = tl.full([ROWS], LOWEST, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, WIDTH], tl.float32)
    last = (tl.minimum(first_row + ROWS, n_rows) - 1) // per_sample
    served = row < 0
    for b in range(first_row // per_sample, last + 1):
        code = codes + tl.cast(b, tl.int64) * stride_codes
        if PREFIX:
            prefix = tl.load(prefix_of + b)
            waiting = tl.max(((sample == b) & (served == 0)).to(tl.int32), 0)
            joins = (prefix_of_row == prefix) & (sample >= b) & (sample < b + MEMBERS * waiting) & (served == 0)
            served = served | joins
            prefix_at = tl.maximum(prefix, 0).to(tl.int64) * stride_pg + kv_head * stride_ph
            maximum, total, out = _suffix_span(
                maximum, total, out, q, prefix_k + prefix_at, prefix_v + prefix_at, stride_ps, code, stride_codes,
                tl.where(prefix >= 0, prefix_slots * waiting, 0), tl.where(joins, sample - b, -1), last + 1 - b,
                row_slot, factors, scale,
                MEMBERS, False, MASS, FACTORS, GROUPS, WIDTH, KEYS, D, HEAD_DIM, PRECISION,
            )  # fmt: skip
        of_sample = used & (sample == b)
        own_at = tl.cast(b, tl.int64) * stride_ob + kv_head * stride_oh
        maximum, total, out = _suffix_span(
            maximum, total, out, q, own_k + own_at, own_v + own_at, stride_os, code + prefix_slots, stride_codes,
            tl.max(tl.where(of_sample, row_slot, -1), 0) + 1, tl.where(of_sample, 0, -1), 1, row_slot, factors, scale,
            1, True, MASS, FACTORS, GROUPS, WIDTH, KEYS, D, HEAD_DIM, PRECISION,
        )  # fmt: skip
    column = tl.arange(0, WIDTH)
    if MASS:
        shares = out / tl.maximum(tl.sum(out, 1), TINY)[:, None]
        mask = used[:, None] & (column < GROUPS)[None, :]
        tl.store(result + by_group[:, None] + column[None, :], shares, mask=mask)
    else:
        merged = (out / tl.maximum(total, TINY)[:, None]).to(result.dtype.element_ty)
        by_query = ((sample.to(tl.int64) * n_queries + index) * heads + head) * HEAD_DIM
        mask = used[:, None] & (column < HEAD_DIM)[None, :]
        tl.store(result + by_query[:, None] + column[None, :], merged, mask=mask)


@triton.jit
def _decode_span(
    maximum, total, out, query, keys, values, stride, codes, first, end, group, gain, scale,
    GAINS: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Take the key slots first <= j < end into the running state; every row sees the keys of its own group only."""
    for start in range(first, end, KEYS):
        slot = start + tl.arange(0, KEYS)
        inside = slot < end
        k = load_slots(keys, slot, stride, inside, D, HEAD_DIM)
        code = tl.load(codes + slot, mask=inside, other=PAD).to(tl.int32)
        scores = tl.dot(query, tl.trans(k), input_precision=PRECISION)
        if GAINS:
            # The edit of the scaled score: both sides of it are homogeneous in a positive scale.
            scores += gain[:, None] * tl.abs(scores)
        scores = tl.where(code[None, :] == group[:, None], scores, float("-inf"))
        weights, decay, maximum, total = softmax_step(scores, maximum, total, scale)
        v = load_slots(values, slot, stride, inside, D, HEAD_DIM)
        out = tl.dot(weights.to(v.dtype), v, out * decay[:, None], input_precision=PRECISION)
    return maximum, total, out


@triton.jit(do_not_specialize=["prefix_of", "codes", "own_length", "gains", "prefix_slots", "stride_codes"])
def decode_kernel(
    query, prefix_k, prefix_v, own_k, own_v, prefix_of, codes, own_length, gains, maxima, sums, outs,
    scale, prefix_slots,
    stride_qb, stride_qh, stride_pg, stride_ph, stride_ps, stride_ob, stride_oh, stride_os, stride_codes,
    PREFIX: tl.constexpr, SHARE: tl.constexpr, GROUPS: tl.constexpr, GAINS: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One (split of the keys, KV head, sample).

    Row i of the tile is query head i // GROUPS of the KV head, seeing key group i % GROUPS: the matrix unit works on 16
    rows at least, so that the groups' separate sums cost nothing.
    """
    split, kv_head, sample = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    splits = tl.num_programs(0)
    row = tl.arange(0, ROWS)
    used = row < SHARE * GROUPS
    head = kv_head * SHARE + row // GROUPS
    group = row % GROUPS
    column = tl.arange(0, D)
    mask = used[:, None] & (column < HEAD_DIM)[None, :]
    at = query + sample.to(tl.int64) * stride_qb + head[:, None] * stride_qh + column[None, :]
    q = tl.load(at, mask=mask, other=0.0)
    gain = tl.zeros([ROWS], tl.float32)
    if GAINS:
        gain = tl.load(gains + group)

    shared = prefix_slots
    if PREFIX:
        prefix = tl.load(prefix_of + sample)
        shared = tl.where(prefix >= 0, prefix_slots, 0)
    length = shared + tl.load(own_length)
    chunk = tl.cdiv(length, splits)
    first = tl.minimum(split * chunk, length)
    end = tl.minimum(first + chunk, length)
    code = codes + sample.to(tl.int64) * stride_codes
    maximum = tl.full([ROWS], LOWEST, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, D], tl.float32)
    if PREFIX:
        prefix_at = tl.maximum(prefix, 0).to(tl.int64) * stride_pg + kv_head * stride_ph
        maximum, total, out = _decode_span(
            maximum, total, out, q, prefix_k + prefix_at, prefix_v + prefix_at, stride_ps, code,
            first, tl.minimum(end, shared), group, gain, scale, GAINS, KEYS, D, HEAD_DIM, PRECISION,
        )  # fmt: skip
    own_at = sample.to(tl.int64) * stride_ob + kv_head * stride_oh
    maximum, total, out = _decode_span(
        maximum, total, out, q, own_k + own_at, own_v + own_at, stride_os, code + prefix_slots,
        tl.maximum(first - shared, 0), end - shared, group, gain, scale,
        GAINS, KEYS, D, HEAD_DIM, PRECISION,
    )  # fmt: skip

    place = ((sample * tl.num_programs(1) * SHARE + head) * splits + split) * GROUPS + group
    tl.store(maxima + place, maximum * scale, mask=used)
    tl.store(sums + place, total, mask=used)
    tl.store(outs + place.to(tl.int64)[:, None] * HEAD_DIM + column[None, :], out, mask=mask)


@triton.jit(do_not_specialize=["splits"])
def merge_kernel(maxima, sums, mass, splits, GROUPS: tl.constexpr, S: tl.constexpr, G: tl.constexpr):
    """One (sample, head): each group's share of the exponential sum, over all splits."""
    row = tl.program_id(0)
    split = tl.arange(0, S)[:, None]
    group = tl.arange(0, G)
    used = (split < splits) & (group < GROUPS)[None, :]
    at = (row * splits + split) * GROUPS + group[None, :]
    maximum = tl.load(maxima + at, mask=used, other=LOWEST)
    peak = tl.max(tl.max(maximum, 1), 0)
    total = tl.sum(tl.exp2(maximum - peak) * tl.load(sums + at, mask=used, other=0.0), 0)
    share = total / tl.maximum(tl.sum(total, 0), TINY)
    tl.store(mass + row * GROUPS + group, share, mask=group < GROUPS)


@triton.jit(do_not_specialize=["parts"])
def combine_kernel(
    maxima, sums, outs, factors, result, parts,
    GROUPS: tl.constexpr, FACTORS: tl.constexpr, ALL: tl.constexpr, STEP: tl.constexpr,
    D: tl.constexpr, HEAD_DIM: tl.constexpr,
):  # fmt: skip
    """One (sample, head): the scaled sum of its splits · GROUPS partial outputs over the whole exponential sum."""
    row = tl.program_id(0)
    first_part = row * parts
    every = tl.arange(0, ALL)
    maximum = tl.load(maxima + first_part + every, mask=every < parts, other=LOWEST)
    peak = tl.max(maximum, 0)
    total = tl.sum(tl.exp2(maximum - peak) * tl.load(sums + first_part + every, mask=every < parts, other=0.0), 0)

    column = tl.arange(0, D)
    out = tl.zeros([STEP, D], tl.float32)
    for start in range(0, parts, STEP):
        part = start + tl.arange(0, STEP)
        used = part < parts
        weight = tl.exp2(tl.load(maxima + first_part + part, mask=used, other=LOWEST) - peak)
        if FACTORS:
            weight *= tl.load(factors + row * GROUPS + part % GROUPS)
        at = (first_part + part).to(tl.int64)[:, None] * HEAD_DIM + column[None, :]
        mask = used[:, None] & (column < HEAD_DIM)[None, :]
        out += weight[:, None] * tl.load(outs + at, mask=mask, other=0.0)
    merged = (tl.sum(out, 0) / tl.maximum(total, TINY)).to(result.dtype.element_ty)
    tl.store(result + row * HEAD_DIM + column, merged, mask=column < HEAD_DIM)
