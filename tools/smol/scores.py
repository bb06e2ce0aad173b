"""Scores of smol-llava on held-out scenes, answered by sinkbench's own engine.

The questions and the scores are those of `tiny.evaluate`; questions about one image share its prefix here, which a CPU
needs to answer a thousand of them in minutes.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tiny.evaluate import MAX_CAPTION, MAX_WORDS, caption_scores, probe_scores
from tiny.probes import Probe, held_out_scenes, make_probes
from tiny.sinks import sink_report, sink_summary

from sinkbench.adapters import load_adapter, resolve_model
from sinkbench.adapters.base import Adapter
from sinkbench.engine.generate import Engine
from sinkbench.errors import SinkbenchError
from sinkbench.methods import get_method
from sinkbench.request import Generation, ImageRef, Message, Request
from sinkbench.scenes.questions import DESCRIBE, SHORT_SUFFIX, is_there
from sinkbench.scenes.render import Renderer
from sinkbench.scenes.scene import DEFAULT

SEED = 7919
"""Of the held-out scenes, as in configs/train/."""
_SINK_IMAGES = 8
"""Images behind the sink report; attention of all heads is kept for each."""


def measure(folder: Path, scenes: int, device: str = "cpu") -> dict[str, Any]:
    """Scores of a model folder, in the form of `tiny.evaluate.evaluate`.

    Args:
        folder: A folder for `from_pretrained`.
        scenes: Number of held-out scenes.
        device: Where to run; weights become float32 on the CPU.

    Raises:
        SinkbenchError: A question could not be answered.
    """
    adapter = load_adapter(resolve_model(str(folder)), device)
    drawn = held_out_scenes(SEED, scenes, DEFAULT)
    images = Renderer(torch.device("cpu")).render(drawn)
    probes = make_probes(drawn)
    asked = [(probe.image, _question(probe), MAX_WORDS) for probe in probes]
    asked += [(index, DESCRIBE, MAX_CAPTION) for index in range(scenes)]
    answers = _answers(adapter, images, asked)
    captions = answers[len(probes) :]
    report = sink_report(adapter.model, adapter.processor, images[:_SINK_IMAGES], is_there("dog"))
    return {
        "split": {"split": "val", "seed": SEED, "scenes": scenes},
        "scores": {**probe_scores(probes, answers[: len(probes)]), **caption_scores(drawn, captions)},
        "sink_summary": sink_summary(report),
        "sinks": report,
        "captions": [
            {"caption": caption, "truth": sorted(scene.counts)}
            for caption, scene in zip(captions[:5], drawn, strict=False)
        ],
    }


def _question(probe: Probe) -> str:
    """Multiple-choice questions have an instruction of their own."""
    return probe.question if probe.group.startswith("mcq") else probe.question + SHORT_SUFFIX


def _answers(adapter: Adapter, images: torch.Tensor, asked: Sequence[tuple[int, str, int]]) -> list[str]:
    """Greedy answers to (index of the image, question, most tokens); `images` is (N, 3, H, W) uint8."""
    from torchvision.transforms.functional import to_pil_image

    engine = Engine(adapter, get_method("greedy"), batch_size=32)
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.png" for index in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            to_pil_image(image.cpu()).save(path)
        references = [ImageRef.from_file(path) for path in paths]
        requests = [
            Request(str(number), (Message("user", f"<image>{question}"),), (references[index],), Generation(length))
            for number, (index, question, length) in enumerate(asked)
        ]
        # Questions about one image follow each other and share its prefix.
        requests.sort(key=lambda request: request.images[0].path)
        found = [response for batch in engine.answer(requests) for response in batch]
    if lost := [response for response in found if response.error]:
        raise SinkbenchError(f"question {lost[0].id} was not answered: {lost[0].error}", "Mend the model folder.")
    texts = {response.id: response.text for response in found}
    return [texts[str(number)] for number in range(len(asked))]
