"""Runs an engine on tiny models and looks at what a user cannot see: logits at every step."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import random_models
import torch
from PIL import Image

from sinkbench.adapters import load_adapter, resolve_model
from sinkbench.adapters.base import Adapter, ImageFeatures
from sinkbench.engine.context import Stage
from sinkbench.engine.generate import Engine
from sinkbench.engine.prefix import prefill_prefixes
from sinkbench.engine.prompt import Prompt
from sinkbench.engine.stream import Stream
from sinkbench.methods import get_method
from sinkbench.methods.base import Intervention, Method
from sinkbench.request import Generation, ImageRef, Message, Request

FAMILIES = tuple(random_models.BUILDERS)
NEW_TOKENS = 6
SINK_DIMS = (3, 11)

ACTIVE: dict[str, dict[str, object]] = {
    "greedy": {},
    "gift": {"gift.saliency_layers": [2], "gift.enhance_layers": [1, 3, 4], "gift.beta": 1.2},
    "gift+pai": {"pai.gamma": 1.5, "pai.first_token": "always"},
    "pai": {"pai.alpha": 0.8, "pai.gamma": 1.5, "pai.first_token": "always"},
    "pai-attention": {"pai.gamma": 1.0},
    "var": {"var.tau": 1.2, "var.rho": 0.2, "var.s0": 0.05, "var.take": 0.9},
    "var+pai": {"var.tau": 1.2, "var.rho": 0.2, "var.s0": 0.05, "var.take": 0.9, "pai.gamma": 1.5},
}
"""Parameters under which each method really acts on a tiny random model."""

NEUTRAL: dict[str, dict[str, object]] = {
    "greedy": {},
    "gift": {"gift.alpha": 0.0},
    "pai": {"pai.alpha": 0.0, "pai.gamma": 1.0},
    "var-take": {"var.take": 0.0, "var.tau": 1.2, "var.s0": 0.0, "var.rho": 0.0},
    "var-tau": {"var.tau": 1e9},
    "var+pai": {"var.take": 0.0, "pai.alpha": 0.0, "pai.gamma": 1.0},
}
"""Parameters under which each method changes nothing."""


def method(name: str, table: dict[str, dict[str, object]] = ACTIVE) -> Method:
    return get_method(name.partition("-")[0], table[name])


@cache
def folder() -> Path:
    return Path(mkdtemp(prefix="sinkbench-tests-"))


@cache
def model_folder(family: str, seed: int = 0) -> Path:
    return random_models.BUILDERS[family](folder() / f"{family}-{seed}", seed=seed)


@cache
def adapter(family: str, seed: int = 0) -> Adapter:
    preset = replace(resolve_model(str(model_folder(family, seed))), sink_dims=SINK_DIMS)
    return load_adapter(preset, "cpu", "float32")


@cache
def image(seed: int, width: int = 40, height: int = 40) -> ImageRef:
    path = folder() / f"{seed}-{width}x{height}.png"
    pixels = np.random.RandomState(seed).randint(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return ImageRef.from_file(path)


def request(name: str, text: str, *images: ImageRef, **settings: object) -> Request:
    generation = Generation(**{"max_new_tokens": NEW_TOKENS, **settings})  # type: ignore[arg-type]
    return Request(name, (Message("user", text),), images, generation)


def requests() -> list[Request]:
    """Ragged prompts: shared and own images of several shapes, two images, none."""
    wide, tall, square = image(0, 60, 30), image(1, 30, 60), image(2, 50, 50)
    return [
        request("wide/dog", "<image>\nis there a dog in the image ?", wide),
        request("wide/see", "<image>\nwhat do you see ?", wide),
        request("wide/many", "<image>\nhow many red cat do you see in the image ?", wide),
        request("tall/dog", "<image>\nis there a dog in the image ?", tall),
        request("square/one", "<image>\none ?", square),
        request("two", "<image> is there a cat <image> what do you see ?", wide, square),
        request("text", "how many are there ?"),
    ]


def answers(a: Adapter, m: Method, asked: list[Request], **options: object) -> dict[str, str]:
    engine = Engine(a, m, **options)  # type: ignore[arg-type]
    responses = [response for batch in engine.answer(asked) for response in batch]
    assert not [response.error for response in responses if response.error]
    assert len(responses) == len(asked)
    return {response.id: response.text for response in responses}


def features(a: Adapter, asked: list[Request]) -> dict[str, ImageFeatures]:
    images = {i.key: i for r in asked for i in a.encode(r).images}
    if not images:
        return {}
    return dict(zip(images, a.encode_images([a.preprocess(i) for i in images.values()]), strict=True))


@torch.inference_mode()
def open_stream(
    a: Any,
    bound: Intervention,
    prompts: Sequence[Prompt],
    encoded: Mapping[str, ImageFeatures],
    room: int,
    static: bool = False,
    **options: Any,
) -> Stream:
    """A batch that is ready for its prefill; `options` go to `prefill_prefixes`."""
    prefixes = prefill_prefixes(a, {"m": bound}, prompts, encoded, **options)
    return Stream(a, bound, "m", prompts, prefixes, room, static)


def stream(a: Adapter, m: Method, asked: list[Request], room: int, **options: Any) -> Stream:
    """The same from requests."""
    prompts, edits = [a.encode(r) for r in asked], bool(m.edits & Stage.PREFIX)
    return open_stream(a, m.bind(a.info), prompts, features(a, asked), room, edits=edits, **options)


@torch.inference_mode()
def logits(a: Adapter, m: Method, asked: list[Request], forced: torch.Tensor, **options: Any) -> torch.Tensor:
    """(B, 1 + T, V) edited logits after the prompt and after each of T forced tokens (B, T)."""
    main = stream(a, m, asked, forced.shape[1], **options)
    return torch.stack([main.prefill(), *(main.step(tokens) for tokens in forced.T)], dim=1)


def forced_tokens(n: int, steps: int = 4) -> torch.Tensor:
    return torch.randint(5, 20, (n, steps), generator=torch.Generator().manual_seed(0))


def close(actual: torch.Tensor, expected: torch.Tensor, atol: float = 2e-4) -> None:
    """Equal up to rounding, −inf in the same places."""
    assert torch.equal(actual.isinf(), expected.isinf())
    torch.testing.assert_close(actual.nan_to_num(neginf=0), expected.nan_to_num(neginf=0), atol=atol, rtol=1e-4)
