"""From JPEG files on disk to answers, against the rate of the device alone: does the CPU keep up?"""

import time
from pathlib import Path
from typing import Any

from sinkbench.adapters.base import Adapter
from sinkbench.bench.measure import Timer, answer_all, generate, prepare
from sinkbench.bench.workloads import SIZE, BatchSize, pope, write_images
from sinkbench.engine.generate import Engine
from sinkbench.methods.base import Method

_WARM_UP_IMAGES = 8


def measure_end_to_end(
    adapter: Adapter, method: Method, folder: Path, n_images: int, questions: int, batch_size: BatchSize
) -> dict[str, Any]:
    """Answer questions about JPEG files by `Engine.answer`, then the same ones with all the CPU's work done before.

    Args:
        adapter: The model.
        method: The method.
        folder: Where the files are written; reading them is part of what is timed, writing is not.
        n_images: Number of files, 640×480.
        questions: Yes/no questions about each.
        batch_size: Most samples in a batch, or "auto".

    Returns:
        "answers", "end_to_end_per_s" and "device_per_s" in answers a second, and their "ratio".
    """
    images = write_images(folder, [SIZE] * n_images)
    requests = pope(images, questions).requests
    engine = Engine(adapter, method, batch_size)
    answer_all(engine, requests[: _WARM_UP_IMAGES * questions])
    start = time.perf_counter()
    answer_all(engine, requests)
    end_to_end = time.perf_counter() - start
    prepared = prepare(adapter, pope(images, questions), engine.plan)

    def device_alone() -> None:
        for batch in prepared.batches:
            generate(engine, batch, prepared.inputs)

    device = Timer(adapter.device)(device_alone)
    return {
        "images": n_images,
        "answers": len(requests),
        "end_to_end_per_s": len(requests) / end_to_end,
        "device_per_s": len(requests) / device,
        "ratio": device / end_to_end,
    }
