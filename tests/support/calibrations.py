"""A calibration of `iri` that nobody measured."""

from typing import Any

from sinkbench.calibration.artefact import Calibration


def calibration(**changes: Any) -> Calibration:
    """With changed fields; of `model` and `data` single entries are changed."""
    model = {"name": "tiny", "id": "tiny", "revision": "", "fingerprint": "f" * 64, "options": {}, "dtype": "float32"}
    data = {"task": "scenes_pope", "split": "train", "seed": 0, "folder": "mine", "n": 9}
    data |= {"fingerprint": "d" * 64, "dataset": "e" * 64}
    return Calibration(
        method=changes.get("method", "iri"),
        model={**model, **changes.get("model", {})},
        data={**data, **changes.get("data", {})},
        settings={"noise": 3.0},
        params=changes.get("params", {"rates_attn": [0.1, 0.2], "rates_mlp": [0.3, 0.4]}),
        evidence={"n_traced": 9},
        code={"version": "0.1.0", "commit": "c" * 40, "dirty": False},
        command="sinkbench calibrate iri --model tiny --task scenes_pope",
        created="2026-01-01T00:00:00+00:00",
    )
