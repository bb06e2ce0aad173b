"""Check the attention kernels on a GPU and time them: `python tools/check_kernels.py --out kernels.json`.

Every function is compared with a float64 reference, then timed by replays of a CUDA graph over buffers larger than the
L2 cache, beside `scaled_dot_product_attention` on materialised keys. Exits with 1 if a check fails.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from kernel_cases import (  # noqa: E402
    Case,
    Shape,
    make_case,
    materialise,
    reference,
    relative_error,
    sums_reference,
)

from sinkbench.engine import columns, kernels  # noqa: E402
from sinkbench.engine.columns import Columns, Sums, attention_sums, kernel_sums  # noqa: E402
from sinkbench.engine.context import Context, Role, Stage  # noqa: E402
from sinkbench.engine.kernels import Tile, combine, decode_partials, merge, suffix_attention, suffix_mass  # noqa: E402
from sinkbench.engine.rows import extremes, mapped_norms, row_products, row_statistics  # noqa: E402
from sinkbench.engine.view import AttentionView  # noqa: E402

TOLERANCE = {torch.bfloat16: 1e-2, torch.float32: 1e-3}
CHECKED = [
    (torch.bfloat16, Shape(7, 3, 8, 8, 128, prefix=117, own=33, capacity=48, queries=33, groups=4)),
    (torch.bfloat16, Shape(5, 2, 28, 4, 128, prefix=580, own=20, capacity=64, queries=20, groups=4)),
    (torch.bfloat16, Shape(9, 2, 4, 4, 80, prefix=64, own=6, capacity=16, queries=6, groups=3)),
    (torch.bfloat16, Shape(2, 0, 8, 8, 128, prefix=0, own=300, capacity=320, queries=300, groups=4)),
    (torch.bfloat16, Shape(9, 2, 8, 8, 128, prefix=117, own=33, capacity=48, queries=1, groups=4)),
    (torch.float32, Shape(5, 2, 8, 2, 64, prefix=117, own=33, capacity=48, queries=33, groups=4)),
]
MANY_HEADS = Shape(1, 1, 32, 32, 128, prefix=580, own=131, capacity=160, queries=1, groups=4)
GROUPED_HEADS = MANY_HEADS._replace(heads=28, kv_heads=4)
DECODED = {
    "32 heads, batch 1": MANY_HEADS,
    "32 heads, batch 32": MANY_HEADS._replace(batch=32, prefixes=32),
    "32 heads, batch 128": MANY_HEADS._replace(batch=128, prefixes=128),
    "32 heads, batch 128 on 8 images": MANY_HEADS._replace(batch=128, prefixes=8),
    "28/4 heads, batch 1": GROUPED_HEADS,
    "28/4 heads, batch 32": GROUPED_HEADS._replace(batch=32, prefixes=32),
    "28/4 heads, batch 128": GROUPED_HEADS._replace(batch=128, prefixes=128),
}
PREFILLED = Shape(288, 16, 32, 32, 128, prefix=580, own=32, capacity=48, queries=32, groups=4)
OBSERVED = Shape(32, 0, 32, 32, 128, prefix=0, own=620, capacity=620, queries=620, groups=1)
HIDDEN_SIZE, MLP_SIZE = 4096, 11008
"""Of LLaMA-7B, whose layer has the heads of `OBSERVED`."""
COLUMN_TILES = (
    Tile(64, 64, 4, 2), Tile(64, 64, 4, 3), Tile(64, 128, 8, 3), Tile(128, 64, 4, 3), Tile(128, 64, 8, 3),
    Tile(128, 128, 8, 2), Tile(128, 128, 8, 3),
)  # fmt: skip
SUFFIX_TILES = (Tile(64, 64, 4, 2), Tile(64, 64, 4, 3), Tile(64, 64, 4, 4), Tile(128, 64, 8, 2), Tile(128, 64, 8, 3))
DECODE_TILES = (Tile(16, 64, 4, 2), Tile(16, 64, 4, 3), Tile(16, 32, 4, 3), Tile(16, 128, 4, 2), Tile(16, 64, 8, 3))
CACHE_BYTES = 200e6
"""Rotating buffers hold more than this, several times the 50 or 60 MB of L2 of a Hopper GPU."""

Row = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--tiles", action="store_true", help="also time other launch parameters")
    options = parser.parse_args()
    start = time.monotonic()
    checks = [*check_functions(), *check_rows(), check_graph()]
    for row in checks:
        print(f"{'ok  ' if row['ok'] else 'FAIL'} {row['error']:8.1e}  {row['name']}", flush=True)
    timings: list[Row] = []
    for row in time_everything(options.tiles):
        timings.append(row)
        print(f"{row['ms']:8.4f} ms {row['rate']:7.2f} {row['unit']}  {row['name']}", flush=True)
    report = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "checks": checks,
        "timings": timings,
        "seconds": round(time.monotonic() - start, 1),
    }
    options.out.write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(f"{report['device']}, {report['seconds']} s")
    return 0 if all(row["ok"] for row in checks) else 1


def check_functions() -> Iterator[Row]:
    """Every function on every shape, against the reference."""
    for dtype, shape in CHECKED:
        prefill = make_case(shape, dtype, "cuda")
        plain, mass = reference(prefill)
        scaled, _ = reference(prefill, prefill.factors)
        label = f"{str(dtype)[6:]} {tuple(shape)}"
        yield judge(f"suffix_attention {label}", suffix(prefill), plain, dtype)
        yield judge(f"suffix_attention, factors {label}", suffix(prefill, prefill.factors), scaled, dtype)
        yield judge(f"suffix_mass {label}", masses(prefill), mass, dtype)
        for name, result, expected in zip(Sums._fields, column_sums(prefill), sums_reference(prefill), strict=True):
            # Nothing is rounded to the half type.
            yield judge(f"columns, {name} {label}", result, expected, torch.float32)

        step = make_case(shape._replace(queries=1), dtype, "cuda")
        plain, mass = reference(step)
        partials = decode(step, shape.groups)
        yield judge(f"decode {label}", combine(partials), plain, dtype)
        yield judge(f"merge {label}", merge(partials), mass, dtype)
        scaled, _ = reference(step, step.factors)
        yield judge(f"decode, factors {label}", combine(partials, step.factors), scaled, dtype)
        gained, _ = reference(step, gains=step.gains)
        yield judge(f"decode, gains {label}", combine(decode(step, shape.groups, step.gains)), gained, dtype)


def check_rows() -> Iterator[Row]:
    """The vector kernels, against the same functions in float64."""
    for dtype, width in ((torch.bfloat16, 4096), (torch.bfloat16, 11008), (torch.float32, 576)):
        hidden = torch.randn(5, 77, width, device="cuda").to(dtype)
        valid = torch.rand(5, 77, device="cuda") < 0.8
        reference, exact = hidden[:, 3], hidden.double()
        label = f"{str(dtype)[6:]} {tuple(hidden.shape)}"
        found = row_statistics(hidden, reference)
        yield judge(f"rows, norms {label}", found.norms, exact.norm(dim=-1), torch.float32)
        yield judge(f"rows, dots {label}", found.dots, (exact * exact[:, 3:4]).sum(-1), torch.float32)
        alone = row_products(hidden, reference)
        yield judge(f"products, norms {label}", alone.norms, exact.norm(dim=-1), torch.float32)
        yield judge(f"products, dots {label}", alone.dots, (exact * exact[:, 3:4]).sum(-1), torch.float32)
        yield judge(f"rows, largest {label}", found.largest, exact.abs().amax(-1), torch.float32)
        at = hidden.take_along_dim(found.dims[..., None], -1)[..., 0].abs()
        yield judge(f"rows, dims {label}", at, exact.abs().amax(-1), torch.float32)
        values, tokens = extremes(hidden, valid)
        shown = exact.masked_fill(~valid[..., None], 0)
        yield judge(f"dimensions, values {label}", values.abs(), shown.abs().amax(1), torch.float32)
        at = hidden.take_along_dim(tokens[:, None], 1)[:, 0]
        yield judge(f"dimensions, tokens {label}", at, values.double(), torch.float32)
    for dtype, width in ((torch.bfloat16, 128), (torch.bfloat16, 80), (torch.float32, 64)):
        heads = torch.randn(3, 70, 4, width, device="cuda").to(dtype).transpose(1, 2)
        maps = torch.randn(8, width, width, device="cuda").to(dtype).float()
        exact = torch.einsum("hed,bhqd->bhqe", maps.double(), heads.double().repeat_interleave(2, 1)).norm(dim=-1)
        label = f"{str(dtype)[6:]} {tuple(heads.shape)}"
        yield judge(f"mapped norms {label}", mapped_norms(heads, maps), exact, torch.float32)


def check_graph() -> Row:
    """A captured decode step follows the length on the device, and one group gives the same as four."""
    shape = Shape(3, 2, 8, 8, 128, prefix=100, own=48, capacity=48, queries=1, groups=1)
    case = make_case(shape, torch.bfloat16, "cuda", padded=False)
    length = case.device_length
    out = combine(decode(case, 1, length=length))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = combine(decode(case, 1, length=length))
    worst = 0.0
    for filled in (1, 17, 48):
        length.fill_(filled)
        out.fill_(torch.nan)
        graph.replay()
        shorter = Case(case.query, case.keys, case.codes, filled, case.scaling, case.factors, case.gains)
        error = relative_error(out, reference(shorter)[0])
        worst = error if not error <= worst else worst
    return {"name": "decode in a CUDA graph", "error": worst, "ok": worst <= TOLERANCE[torch.bfloat16]}


def judge(name: str, result: Tensor, expected: Tensor, dtype: torch.dtype) -> Row:
    error = relative_error(result, expected)
    return {"name": name, "error": error, "ok": error <= TOLERANCE[dtype]}


def suffix(case: Case, factors: Tensor | None = None) -> Tensor:
    return suffix_attention(case.query, case.keys, case.codes, case.own_length, case.scaling, factors)


def masses(case: Case) -> Tensor:
    return suffix_mass(case.query, case.keys, case.codes, case.own_length, case.scaling, case.factors.shape[-1])


def column_sums(case: Case) -> Sums:
    return kernel_sums(case.query, case.keys, case.codes, case.own_length, case.scaling)


def decode(case: Case, n_groups: int, gains: Tensor | None = None, length: Tensor | None = None) -> kernels.Partials:
    length = case.device_length if length is None else length
    return decode_partials(case.query, case.keys, case.codes, length, case.scaling, n_groups, gains)


def time_everything(tiles: bool) -> Iterator[Row]:
    """Rows of the report, as they come."""
    for name, shape in DECODED.items():
        yield from time_decode(name, shape)
    yield from time_prefill()
    yield from time_columns()
    yield from time_views()
    if tiles:
        yield from time_tiles()


def time_decode(name: str, shape: Shape) -> Iterator[Row]:
    """Decode with one group, four groups and gains, by bytes of keys and values read."""
    size = 4 * shape.batch * shape.kv_heads * (shape.prefix + shape.own) * shape.head_dim
    cases = [(case, case.device_length) for case in rotating(shape._replace(groups=1), size)]
    yield rated(f"decode, {name}, 1 group", [partial(plain_step, *case) for case in cases], size, "TB/s")
    cases = [(case, case.device_length) for case in rotating(shape, size)]
    yield rated(f"decode, {name}, 4 groups", [partial(grouped_step, *case) for case in cases], size, "TB/s")
    yield rated(f"decode, {name}, gains", [partial(gained_step, *case) for case in cases], size, "TB/s")
    yield rated(f"decode, {name}, sdpa", [sdpa_step(case) for case, _ in cases], size, "TB/s")


def plain_step(case: Case, length: Tensor) -> Tensor:
    return combine(decode(case, 1, length=length))


def grouped_step(case: Case, length: Tensor) -> Tensor:
    """Three launches, as for a method that scales groups (its own arithmetic aside)."""
    partials = decode(case, 4, length=length)
    merge(partials)
    return combine(partials, case.factors)


def gained_step(case: Case, length: Tensor) -> Tensor:
    return combine(decode(case, 4, case.gains, length))


def sdpa_step(case: Case) -> Callable[[], Tensor]:
    """The fused kernel on copied keys without a mask; the heads of a KV head are rows."""
    k, v, _ = materialise(case)
    b, h, _q, d = case.query.shape
    query = case.query.reshape(b, k.shape[1], h // k.shape[1], d)
    return partial(F.scaled_dot_product_attention, query, k, v, scale=case.scaling)


def time_prefill(baseline: bool = True) -> Iterator[Row]:
    """The suffix kernels, by useful operations: those of visible keys."""
    b, h, q, d = PREFILLED.batch, PREFILLED.heads, PREFILLED.queries, PREFILLED.head_dim
    operations = 4 * b * h * q * d * (PREFILLED.prefix + (PREFILLED.own + 1) / 2)
    cases = rotating(PREFILLED, CACHE_BYTES)
    yield rated("suffix_attention", [partial(suffix, case) for case in cases], operations, "TFLOP/s")
    scaled = [partial(suffix, case, case.factors) for case in cases]
    yield rated("suffix_attention, factors", scaled, operations, "TFLOP/s")
    yield rated("suffix_mass", [partial(masses, case) for case in cases], operations / 2, "TFLOP/s")
    if baseline:
        k, v, visible = materialise(cases[0])
        sdpa = partial(F.scaled_dot_product_attention, cases[0].query, k, v, visible[:, None], scale=cases[0].scaling)
        yield rated("suffix, sdpa with a mask", [sdpa], operations, "TFLOP/s")


def time_columns() -> Iterator[Row]:
    """The column kernels, by useful operations: two products of queries and visible keys."""
    operations = 2 * OBSERVED.batch * OBSERVED.heads * OBSERVED.queries**2 * OBSERVED.head_dim
    case = make_case(OBSERVED, torch.bfloat16, "cuda", padded=False)
    yield rated("columns", [partial(column_sums, case)], operations, "TFLOP/s")


def time_views() -> Iterator[Row]:
    """What an observer may ask of one layer, beside that layer's prefill."""
    case = make_case(OBSERVED, torch.bfloat16, "cuda", padded=False)
    roles = torch.full(case.codes.shape, int(Role.QUERY), dtype=torch.uint8, device="cuda")
    ctx = Context(Stage.PREFIX, roles, OBSERVED.queries, padded=False)
    projection = torch.randn(HIDDEN_SIZE, HIDDEN_SIZE, device="cuda", dtype=torch.bfloat16)
    keys, heads = case.keys, case.query.transpose(1, 2)
    view = AttentionView(case.query, keys, case.scaling, ctx, heads, keys.own_k, keys.own_v, projection)
    calls: dict[str, Callable[[], Any]] = {
        "prefill": partial(prefill_layer, torch.randn_like(heads.flatten(2)), layer_weights()),
        "columns": lambda: Columns.of(attention_sums(case.query, keys, ctx, case.scaling), ctx),
        "value_norms": view.value_norms,
        "output_norms": view.output_norms,
        "logit_gap, after columns": view.logit_gap,
    }
    times = {name: milliseconds([call]) for name, call in calls.items()}
    for name, ms in times.items():
        yield {"name": f"view, {name}", "ms": ms, "rate": 100 * ms / times["prefill"], "unit": "% of a layer"}


def layer_weights() -> list[Tensor]:
    """Random projections of a layer: query, key, value, output, gate, up, down."""
    sizes = [(HIDDEN_SIZE, HIDDEN_SIZE)] * 4 + [(MLP_SIZE, HIDDEN_SIZE)] * 2 + [(HIDDEN_SIZE, MLP_SIZE)]
    return [torch.randn(size, device="cuda", dtype=torch.bfloat16) / HIDDEN_SIZE**0.5 for size in sizes]


def prefill_layer(hidden: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """The products and the attention of a decoder layer; norms and rotary embedding, which take little, left out."""
    q, k, v, out, gate, up, down = weights
    split = (*hidden.shape[:2], OBSERVED.heads, OBSERVED.head_dim)
    query, key, value = (F.linear(hidden, w).view(*split).transpose(1, 2) for w in (q, k, v))
    heads = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    hidden = hidden + F.linear(heads.transpose(1, 2).flatten(2), out)
    return hidden + F.linear(F.silu(F.linear(hidden, gate)) * F.linear(hidden, up), down)


def time_tiles() -> Iterator[Row]:
    """Other launch parameters, for the tables in kernels.py and columns.py."""
    for tile in COLUMN_TILES:
        columns.COLUMN_TILES[2] = tile
        yield from (row | {"name": f"{row['name']} {tuple(tile)}"} for row in time_columns())
    for tile in SUFFIX_TILES:
        kernels.SUFFIX_TILES[2] = tile
        yield from (row | {"name": f"{row['name']} {tuple(tile)}"} for row in time_prefill(baseline=False))
    for tile in DECODE_TILES:
        kernels.DECODE_TILES[2] = tile
        for name, shape in list(DECODED.items())[:3]:
            size = 4 * shape.batch * shape.kv_heads * (shape.prefix + shape.own) * shape.head_dim
            steps = [partial(grouped_step, case, case.device_length) for case in rotating(shape, size)]
            yield rated(f"decode, {name}, 4 groups {tuple(tile)}", steps, size, "TB/s")


def rotating(shape: Shape, size: float) -> list[Case]:
    """Cases of one shape whose `size` bytes each add up to several L2 caches."""
    count = max(2, int(CACHE_BYTES // size) + 1)
    return [make_case(shape, torch.bfloat16, "cuda", seed, padded=False) for seed in range(count)]


def rated(name: str, calls: Sequence[Callable[[], Any]], amount: float, unit: str) -> Row:
    """Time per call, and the rate at which it gets through `amount` bytes or operations."""
    ms = milliseconds(calls)
    return {"name": name, "ms": round(ms, 5), "rate": round(amount / ms / 1e9, 3), "unit": unit}


def milliseconds(calls: Sequence[Callable[[], Any]], rounds: int = 20) -> float:
    """Median time of a call: all of them in one graph, so that launches cost what they cost in the engine."""
    calls[0]()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(float(start.elapsed_time(end)))
    return statistics.median(times) / len(calls)


if __name__ == "__main__":
    sys.exit(main())
