"""What looking costs: prompts with every diagnostic against the same prompts without, in one process."""

import statistics
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

from sinkbench.adapters.base import Adapter, ImageInputs
from sinkbench.bench.measure import Clock, Prepared, peak_memory
from sinkbench.engine.observe import observe
from sinkbench.inspection.collect import collect
from sinkbench.inspection.probe import Choice, Probe
from sinkbench.methods.base import Intervention

PLAIN = "plain prefill"
ARMS = (PLAIN, "probe", "findings")
"""The prompts alone; with the probe; and with its batches reduced to findings, as `sinkbench inspect model` does."""


def measure_inspection(adapter: Adapter, prepared: Prepared, clock: Clock, repeats: int) -> dict[str, Any]:
    """Times and memory of the prompts under each of `ARMS`, which take turns after a warm-up.

    The probe looks at everything but what takes other passes (VHD) or is for the pictures of one sample (maps).

    Args:
        adapter: The model; without sink dimensions of its own it gets two arbitrary ones.
        prepared: Prompts and their preprocessed images: what the CPU does ahead is not timed.
        clock: Tells seconds.
        repeats: How often.

    Returns:
        "arms": for each "seconds" {median, min, max, repeats}, "peak_bytes" (None on a CPU), and both over those of the
        plain prefill as "time_ratio" and "memory_ratio".
    """
    runs = _runs(_ready(adapter, prepared.inputs), prepared)
    peaks: dict[str, int | None] = {}
    for arm, run in runs.items():
        with peak_memory(adapter.device) as peak:
            run()
        peaks[arm] = peak.get("bytes")
    taken: dict[str, list[float]] = {arm: [] for arm in runs}
    for _ in range(repeats):
        for arm, run in runs.items():
            taken[arm].append(clock(run))
    base, base_peak = statistics.median(taken[PLAIN]), peaks[PLAIN]
    return {
        "arms": {
            arm: {
                "seconds": {
                    "median": statistics.median(times),
                    "min": min(times),
                    "max": max(times),
                    "repeats": len(times),
                },
                "peak_bytes": (peak_bytes := peaks[arm]),
                "time_ratio": statistics.median(times) / base,
                "memory_ratio": peak_bytes / base_peak if peak_bytes and base_peak else None,
            }
            for arm, times in taken.items()
        }
    }


def _runs(adapter: Adapter, prepared: Prepared) -> dict[str, Callable[[], None]]:
    """The arms; each runs the same batches, whatever memory is free by then."""
    info, prompts = adapter.info, prepared.prompts
    size = max(map(len, prepared.batches))
    made_up = (info.hidden_size // 3, 2 * info.hidden_size // 3)
    choice = Choice(sink_dims=info.sink_dims or made_up, gaze_layer=info.n_layers // 3)

    def look(probe: Intervention) -> None:
        for _ in observe(adapter, probe, prompts, batch_size=size):
            pass

    def find() -> None:
        collect(adapter, prompts, choice, batch_size=size)

    runs = (lambda: look(Intervention()), lambda: look(Probe(info, choice, adapter.device)), find)
    return dict(zip(ARMS, runs, strict=True))


def _ready(adapter: Adapter, inputs: Mapping[str, ImageInputs]) -> Adapter:
    """The adapter with all its images preprocessed."""
    ready = copy(adapter)
    vars(ready)["preprocess"] = lambda image: inputs[image.key]
    return ready
