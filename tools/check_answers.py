"""Are a whole model's answers on a GPU those of plain torch? `python tools/check_answers.py --out answers.json`.

The engine's shortcuts (Triton kernels, CUDA graphs, shared prefixes, batches) are turned off one by one, in float32
where rounding cannot hide a fault. A text that then differs is counted, and the first few are kept. Exits with 1 if
more than 2 % differ anywhere.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from sinkbench.adapters import load_adapter, resolve_model  # noqa: E402
from sinkbench.bench.flips import scenes_requests  # noqa: E402
from sinkbench.bench.measure import answer_all  # noqa: E402
from sinkbench.engine import Engine  # noqa: E402
from sinkbench.methods import get_method  # noqa: E402

ALLOWED = 0.02
KERNEL_SWITCHES = ("sinkbench.engine.attention.has_kernels", "sinkbench.engine.stream.has_kernels")
VARIANTS: dict[str, dict[str, Any]] = {
    "no graphs": {"graphs": False},
    "plain torch": {"graphs": False, "kernels": False},
    "no sharing": {"share_prefix": False},
    "batch 1": {"batch_size": 1},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--models", default="tiny-llava,tiny-qwen,tiny-internvl")
    parser.add_argument("--methods", default="greedy,var,pai,gift,var+pai")
    parser.add_argument("--set", action="append", default=[], metavar="METHOD.NAME=VALUE", help="as for sinkbench eval")
    parser.add_argument("--per-file", type=int, default=40, help="questions of each kind")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    params = {"gift.content": "all", **{key: json.loads(text) for key, _, text in (x.partition("=") for x in args.set)}}
    requests = scenes_requests(args.per_file)
    report: dict[str, Any] = {"device": args.device, "torch": torch.__version__, "questions": len(requests), "rows": []}
    if args.device != "cpu":
        report["device"] = torch.cuda.get_device_name(args.device)
    for model in args.models.split(","):
        adapter = load_adapter(resolve_model(model), args.device, "float32")
        for name in args.methods.split(","):
            own = {key: value for key, value in params.items() if key.partition(".")[0] in name.split("+")}
            method = get_method(name, own, model=model)
            usual = _texts(adapter, method, requests, {})
            for variant, switches in VARIANTS.items():
                other = _texts(adapter, method, requests, switches)
                differ = {key: [text, other[key]] for key, text in usual.items() if text != other[key]}
                row = {"model": model, "method": name, "variant": variant, "differ": len(differ)}
                report["rows"].append({**row, "examples": dict(list(differ.items())[:3])})
                print(row, flush=True)
                args.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return int(any(row["differ"] > ALLOWED * len(requests) for row in report["rows"]))


def _texts(adapter: Any, method: Any, requests: list[Any], switches: dict[str, Any]) -> dict[str, str]:
    switches = dict(switches)
    with _kernels(switches.pop("kernels", True)):
        responses = answer_all(Engine(adapter, method, **switches), requests)
        return {response.id: response.text for response in responses}


@contextmanager
def _kernels(wanted: bool) -> Iterator[None]:
    with ExitStack() as stack:
        if not wanted:
            for name in KERNEL_SWITCHES:
                stack.enter_context(patch(name, lambda _: False))
        yield


if __name__ == "__main__":
    raise SystemExit(main())
