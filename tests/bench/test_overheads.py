"""The table of overheads: times over greedy's are the inverse of rates, next to what papers say."""

from sinkbench.bench.tables import grids

RATIO = {"answers_per_s": 0.5, "tokens_per_s": 0.25, "peak_bytes": 1.1}


def row(method: str, workload: str, **changes) -> dict:
    ratio = {**RATIO, **changes} if method != "greedy" else dict.fromkeys(RATIO, 1.0)
    measured = {"answers_per_s": 1.0, "tokens_per_s": 1.0, "prefill_ms": 1.0, "peak_bytes": 2**30}
    return {"method": method, "workload": workload, "batch": 8, "error": "", "ratio_to_greedy": ratio, **measured}


def test_overheads_next_to_published_ones():
    rows = [
        row("greedy", "pope"),
        row("gift", "pope"),
        row("gift", "caption", peak_bytes=1.4),
        row("pai-attention", "pope"),
    ]
    record = {
        "model": {"name": "m", "weights": "random", "dtype": "float32"},
        "device": "cpu",
        "rows": rows,
        **{name: [] for name in ("baselines", "inspection", "end_to_end", "flips", "against_plain", "targets")},
    }
    (grid,) = [grid for grid in grids(record) if grid.title.startswith("Overhead")]
    assert list(map(list, grid.rows)) == [
        ["gift", "2.00", "4.00", "1.40", "1.13"],
        ["pai-attention", "2.00", "", "1.10", ""],
    ]
