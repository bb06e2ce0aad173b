"""Device code of the column statistics. `columns.py` says what they are, and launches them.

Logarithms are to the base 2 inside. A score that does not count is a large negative number, never infinite: its weight
is 0, and so is weight times score.
"""

# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl

from sinkbench.engine.triton_kernels import LOWEST, PAD, load_slots, softmax_step

START = tl.constexpr(-0.5e38)
"""Running maxima start between any score and LOWEST, so that what does not count has weight 0 from the start."""
HUGE = tl.constexpr(1.0e38)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _row_span(
    maximum, total, moment, score_sum, query, keys, stride, codes, end, row_slot, scale,
    CAUSAL: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Take the key slots before `end` into the rows' running softmax, and their sums of weight·score and of scores."""
    for start in range(0, end, KEYS):
        slot = start + tl.arange(0, KEYS)
        inside = slot < end
        k = load_slots(keys, slot, stride, inside, D, HEAD_DIM)
        seen = (tl.load(codes + slot, mask=inside, other=PAD) != PAD)[None, :]
        if CAUSAL:
            seen = seen & (slot[None, :] <= row_slot[:, None])
        scores = tl.dot(query, tl.trans(k), input_precision=PRECISION)
        score_sum += tl.sum(tl.where(seen, scores, 0.0), 1)
        scores = tl.where(seen, scores, LOWEST)
        weights, decay, maximum, total = softmax_step(scores, maximum, total, scale)
        moment = moment * decay + tl.sum(weights * scores, 1)
    return maximum, total, moment, score_sum


@triton.jit(do_not_specialize=["prefix_of", "codes", "n_queries", "own_length", "prefix_slots", "stride_codes"])
def row_kernel(
    query, prefix_k, own_k, prefix_of, codes, levels, entropies, score_sums,
    scale, n_queries, own_length, prefix_slots,
    stride_qb, stride_qh, stride_qs, stride_pg, stride_ph, stride_ps, stride_ob, stride_oh, stride_os, stride_codes,
    PREFIX: tl.constexpr, SHARE: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr,
    HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One (tile of rows, head, sample): log-sum-exp, entropy and sum of scores of each row."""
    first_row, head, sample = tl.program_id(0) * ROWS, tl.program_id(1), tl.program_id(2)
    row = first_row + tl.arange(0, ROWS)
    used = row < n_queries
    row_slot = own_length - n_queries + row
    query_at = sample.to(tl.int64) * stride_qb + head * stride_qh
    q = load_slots(query + query_at, row, stride_qs, used, D, HEAD_DIM)
    code = codes + sample.to(tl.int64) * stride_codes
    maximum = tl.full([ROWS], START, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    moment = tl.zeros([ROWS], tl.float32)
    score_sum = tl.zeros([ROWS], tl.float32)
    if PREFIX:
        prefix = tl.load(prefix_of + sample)
        prefix_at = tl.maximum(prefix, 0).to(tl.int64) * stride_pg + head // SHARE * stride_ph
        maximum, total, moment, score_sum = _row_span(
            maximum, total, moment, score_sum, q, prefix_k + prefix_at, stride_ps, code,
            tl.where(prefix >= 0, prefix_slots, 0), row_slot, scale, False, KEYS, D, HEAD_DIM, PRECISION,
        )  # fmt: skip
    own_at = sample.to(tl.int64) * stride_ob + head // SHARE * stride_oh
    end = own_length - n_queries + tl.minimum(first_row + ROWS, n_queries)
    maximum, total, moment, score_sum = _row_span(
        maximum, total, moment, score_sum, q, own_k + own_at, stride_os, code + prefix_slots, end,
        row_slot, scale, True, KEYS, D, HEAD_DIM, PRECISION,
    )  # fmt: skip
    counts = tl.load(code + prefix_slots + row_slot, mask=used, other=PAD) != PAD
    # A row that counts sees itself at least. The others get no weight in the second phase.
    total = tl.where(counts, total, 1.0)
    level = tl.where(counts, maximum * scale + tl.log2(total), HUGE)
    entropy = tl.where(counts, (level - moment / total * scale) * LN_2, 0.0)
    place = (sample.to(tl.int64) * tl.num_programs(1) + head) * n_queries + row
    tl.store(levels + place, level, mask=used)
    tl.store(entropies + place, entropy, mask=used)
    tl.store(score_sums + place, tl.where(counts, score_sum * scale * LN_2, 0.0), mask=used)


@triton.jit(do_not_specialize=["part_of", "codes", "n_queries", "n_keys", "n_slots", "first_slot", "stride_codes"])
def column_kernel(
    query, keys, part_of, codes, levels, masses, plogps,
    scale, n_queries, n_keys, n_slots, first_slot,
    stride_qb, stride_qh, stride_qs, stride_kb, stride_kh, stride_ks, stride_codes,
    SHARED: tl.constexpr, SHARE: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr,
    HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One (tile of keys, head, sample) of one part of the keys, whose slot 0 is the sample's slot `first_slot`.

    Keys are the rows of the tile, so that sums over queries stay within a thread as far as they can.
    """
    first_key, head, sample = tl.program_id(0) * KEYS, tl.program_id(1), tl.program_id(2)
    slot = first_key + tl.arange(0, KEYS)
    inside = slot < n_slots
    part = sample
    if SHARED:
        part = tl.maximum(tl.load(part_of + sample), 0)
    k = load_slots(
        keys + part.to(tl.int64) * stride_kb + head // SHARE * stride_kh, slot, stride_ks, inside, D, HEAD_DIM
    )
    place = sample.to(tl.int64) * tl.num_programs(1) + head
    level_at = levels + place * n_queries
    query_at = query + sample.to(tl.int64) * stride_qb + head * stride_qh
    mass = tl.zeros([KEYS], tl.float32)
    plogp = tl.zeros([KEYS], tl.float32)
    # Query i sits at slot n_keys − n_queries + i; those before the tile's first key do not see it.
    offset = n_keys - n_queries
    begin = tl.maximum(first_slot + first_key - offset, 0) // ROWS * ROWS
    for start in range(begin, n_queries, ROWS):
        row = start + tl.arange(0, ROWS)
        used = row < n_queries
        q = load_slots(query_at, row, stride_qs, used, D, HEAD_DIM)
        level = tl.load(level_at + row, mask=used, other=HUGE)
        logs = tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale - level[None, :]
        logs = tl.where((first_slot + slot)[:, None] <= (offset + row)[None, :], logs, LOWEST)
        weights = tl.exp2(logs)
        mass += tl.sum(weights, 1)
        plogp += tl.sum(weights * logs, 1)
    is_key = tl.load(codes + sample.to(tl.int64) * stride_codes + first_slot + slot, mask=inside, other=PAD) != PAD
    result_at = place * n_keys + first_slot + slot
    tl.store(masses + result_at, tl.where(is_key, mass, 0.0), mask=inside)
    tl.store(plogps + result_at, tl.where(is_key, plogp * LN_2, 0.0), mask=inside)
