"""Runs an engine on tiny models and looks at what a user cannot see: logits at every step."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import MappingProxyType
from typing import Any

import numpy as np
import random_models
import torch
from gates import gates_file
from PIL import Image

from sinkbench.adapters import load_adapter, resolve_model
from sinkbench.adapters.base import Adapter, ImageFeatures, ImageInputs
from sinkbench.engine.context import Stage
from sinkbench.engine.generate import Engine
from sinkbench.engine.marks import mark_images
from sinkbench.engine.prefix import Prefixes, add_edited, prefill_prefixes
from sinkbench.engine.prompt import Prompt
from sinkbench.engine.selection import Alone
from sinkbench.engine.stream import Stream, contrast_prompts
from sinkbench.methods import get_method
from sinkbench.methods.base import Intervention, Method
from sinkbench.request import Generation, ImageRef, Message, Request

FAMILIES = tuple(random_models.BUILDERS)
CORE_FAMILIES = ("internvl", "llava", "qwen2_5_vl")
"""One model of each family; every method runs on these."""
NEW_TOKENS = 6
SINK_DIMS = (3, 11)

ACTIVE: dict[str, dict[str, object]] = {
    "greedy": {},
    "act": {"act.all_heads": True, "act.tau": 0.02, "act.beta": 0.2, "act.decode": True},
    "act+pai": {"act.all_heads": True, "act.tau": 0.02, "act.beta": 0.2, "pai.gamma": 1.5},
    "mma_mask": {"mma_mask.layers": [1, 2, 4]},
    "mma_mask+var": {"mma_mask.gamma": 0.5, "var.tau": 1.2, "var.rho": 0.2, "var.s0": 0.05, "var.take": 0.9},
    "no_vis_vis": {},
    "no_vis_vis-bypass": {"no_vis_vis.rows": "bypass", "no_vis_vis.layers": [1, 3]},
    "no_vis_vis-alone": {"no_vis_vis.see_prefix": False},
    "beam": {"beam.beams": 3},
    "opera": {"opera.beams": 2, "opera.candidates": 3, "opera.penalty_weight": 5.0},
    "pai+beam": {"pai.alpha": 0.8, "pai.gamma": 1.5, "pai.first_token": "always", "beam.beams": 3},
    "sample": {"sample.temperature": 1.5},
    "sample+vcd": {"vcd.noise_step": 900, "vcd.beta": 1e-3},
    "damo": {"damo.tau": 0.9},
    "dola": {"dola.layers": "low"},
    "iri+pai": {"iri.rates_attn": [0.1, 0.9, 0.5, 0.3, 0.2, 0.4], "iri.rates_mlp": [0.5] * 6, "pai.gamma": 1.5},
    "iri": {"iri.rates_attn": [0.1, 0.9, 0.5, 0.3, 0.2, 0.4], "iri.rates_mlp": [0.2, 0.8, 0.1, 0.6, 0.5, 0.3]},
    "dual_stream": {
        "dual_stream.queries": "mean",
        "dual_stream.alpha": 1.5,
        "dual_stream.beta": 0.6,
        "dual_stream.gamma": 1.5,
        "dual_stream.first_token": "always",
    },
    "dual_stream-heads": {
        "dual_stream.queries": "mean",
        "dual_stream.heads": "sensitive",
        "dual_stream.alpha": 2.0,
        "dual_stream.spatial_ratio": 0.4,
        "dual_stream.gamma": 1.0,
    },
    "divprune": {"divprune.keep": 0.4},
    "divprune+pai": {"divprune.keep": 0.4, "pai.gamma": 1.5},
    "fastervlm": {"fastervlm.keep": 3},
    "pool": {"pool.keep": 0.4},
    "random": {"random.keep": 0.4, "random.seed": 2},
    "uniform": {"uniform.keep": 0.3},
    "fastv": {"fastv.keep": 0.4, "fastv.layer": 2},
    "fastv-first": {"fastv.keep": 2, "fastv.layer": 1},
    "pyramiddrop": {"pyramiddrop.ratios": [0.6, 0.3], "pyramiddrop.layers": [1, 3]},
    "pyramiddrop-keep": {"pyramiddrop.keep": 0.5, "pyramiddrop.reindex": False},
    "himap": {"himap.keep": 0.6, "himap.keep_image": 0.3},
    "himap-late": {"himap.keep": 5, "himap.keep_image": 2, "himap.layers": [2, 4]},
    "sparsevlm": {"sparsevlm.keep": 128},
    "sparsevlm-mean": {"sparsevlm.keep": 0.5},
    "sparsevlm-apart": {"sparsevlm.table": [400, 150], "sparsevlm.layers": [1, 3]},
    "sparsevlm-plus": {"sparsevlm.version": 2, "sparsevlm.keep": 192},
    "visiondrop": {"visiondrop.keep": 0.4, "visiondrop.contextual": 0.3},
    "visiondrop-schedule": {"visiondrop.schedule": [5, 2, 3, 1, 2, 0], "visiondrop.layers": [2, 3]},
    "visionzip": {"visionzip.keep": 0.5, "visionzip.contextual": 0.3},
    "visionzip+pai": {"visionzip.keep": 5, "visionzip.contextual": 0.4, "pai.gamma": 1.5},
    "fastv+debias": {"fastv.keep": 0.4, "debias.trend": [8.0]},
    "pyramiddrop+debias": {
        "pyramiddrop.ratios": [0.6, 0.3],
        "pyramiddrop.layers": [1, 3],
        "debias.form": "cubic",
        "debias.trend": [-0.5, -1.0, 0.9],
    },
    "dyvte": {"dyvte.gates": gates_file(random_models.LAYERS, random_models.HIDDEN, by=3)},
    "tokencarve": {"tokencarve.keep": 0.5},
    "tokencarve+debias": {"tokencarve.keep": 4, "tokencarve.reindex": False, "debias.trend": [3.0]},
    "visual_exit": {},
    "visual_exit-first": {"visual_exit.layer": 1},
    "gift": {"gift.saliency_layers": [2], "gift.enhance_layers": [1, 3, 4], "gift.beta": 1.2},
    "gift+pai": {"pai.gamma": 1.5, "pai.first_token": "always"},
    "m3id": {"m3id.decay": 0.5, "m3id.certain": 1.0},
    "icd": {"icd.instruction": "how many red cat do you see ?"},
    "vcd": {"vcd.noise_step": 900},
    "vflowopt": {"vflowopt.r1": 0.7, "vflowopt.r2": 0.6, "vflowopt.r3": 0.5, "vflowopt.t": 1.0, "vflowopt.a": 3.0},
    "vflowopt-count": {"vflowopt.keep": 6, "vflowopt.a": 2.0},
    "vflowopt-exact": {
        "vflowopt.keep": 0.3,
        "vflowopt.r1": 0.4,
        "vflowopt.r2": 0.8,
        "vflowopt.a": 2.5,
        "vflowopt.alpha": 0.8,
        "vflowopt.exact": True,
        "vflowopt.base": "sum",
    },
    "vhr": {"vhr.alpha": 3.0},
    "var+vhr": {"var.tau": 1.2, "var.rho": 0.2, "var.s0": 0.05, "var.take": 0.9, "vhr.n_layers": 4},
    "var+vcd": {"var.tau": 1.2, "var.rho": 0.2, "var.s0": 0.05, "var.take": 0.9, "vcd.beta": 0.2},
    "pai": {"pai.alpha": 0.8, "pai.gamma": 1.5, "pai.first_token": "always"},
    "pai-attention": {"pai.gamma": 1.0},
    "image_scale": {"image_scale.factor": 3.0},
    "image_scale-mul": {"image_scale.factor": 3.0, "image_scale.layers": [1, 4], "image_scale.mode": "logit_mul"},
    "random_heads": {"random_heads.seed": 3},
    "sparc": {"sparc.alpha": 3.0, "sparc.tau": 0.02, "sparc.selection_layer": 1, "sparc.layers": [0, 2, 3]},
    "topk_heads": {"topk_heads.keep": 0.5},
    "vaf": {"vaf.enh": 2.5, "vaf.sup": 0.4, "vaf.layers": [1, 3]},
    "var": {"var.tau": 1.2, "var.rho": 0.2, "var.s0": 0.05, "var.take": 0.9},
    "var+pai": {"var.tau": 1.2, "var.rho": 0.2, "var.s0": 0.05, "var.take": 0.9, "pai.gamma": 1.5},
}
"""Parameters under which each method really acts on a tiny random model."""

NEUTRAL: dict[str, dict[str, object]] = {
    "greedy": {},
    "act": {"act.all_heads": True, "act.tau": 0.02, "act.beta": 1.0},
    "act-tau": {"act.all_heads": True, "act.tau": 1.0},
    "mma_mask": {"mma_mask.gamma": 1e9},
    "beam": {"beam.beams": 1},
    "opera": {"opera.candidates": 1, "opera.threshold": 1000},
    "sample": {"sample.top_p": 1e-6},
    "damo": {"damo.tau": -1.0},
    "iri": {"iri.lambda_attn": 0.0, "iri.lambda_mlp": 0.0, "iri.rates_attn": [0.5] * 6, "iri.rates_mlp": [0.5] * 6},
    "dual_stream": {
        "dual_stream.queries": "mean",
        "dual_stream.alpha": 0.0,
        "dual_stream.beta": 0.0,
        "dual_stream.gamma": 1.0,
    },
    "divprune": {"divprune.keep": 1.0},
    "fastervlm": {"fastervlm.keep": 1.0},
    "pool": {"pool.keep": 1.0},
    "random": {"random.keep": 1.0},
    "uniform": {"uniform.keep": 1.0},
    "fastv": {"fastv.keep": 1.0},
    "pyramiddrop": {"pyramiddrop.ratios": [1.0], "pyramiddrop.layers": [2]},
    "himap": {"himap.keep": 1.0, "himap.keep_image": 1.0},
    "sparsevlm": {"sparsevlm.table": [576, 576, 576]},
    "sparsevlm-keep": {"sparsevlm.keep": 1.0},
    "sparsevlm-plus": {"sparsevlm.version": 2, "sparsevlm.table": [576, 576, 576]},
    "visiondrop": {"visiondrop.keep": 1.0},
    "visionzip": {"visionzip.keep": 1.0},
    "fastv+debias": {"fastv.keep": 1.0, "debias.trend": [0.0]},
    "dyvte": {"dyvte.gates": gates_file(random_models.LAYERS, random_models.HIDDEN, fires=False)},
    "tokencarve": {"tokencarve.keep": 1.0},
    "visual_exit": {"visual_exit.layer": random_models.LAYERS},
    "gift": {"gift.alpha": 0.0},
    "pai": {"pai.alpha": 0.0, "pai.gamma": 1.0},
    "image_scale": {"image_scale.factor": 1.0},
    "random_heads": {"random_heads.alpha": 1.0},
    "sparc": {"sparc.alpha": 1.0, "sparc.tau": 0.0},
    "sparc-tau": {"sparc.tau": 1e9},
    "topk_heads": {"topk_heads.keep": 1.0},
    "vaf": {"vaf.enh": 1.0, "vaf.sup": 1.0},
    "vflowopt": {"vflowopt.r1": 1.0},
    "vhr": {"vhr.alpha": 1.0},
    "var-take": {"var.take": 0.0, "var.tau": 1.2, "var.s0": 0.0, "var.rho": 0.0},
    "var-tau": {"var.tau": 1e9},
    "var+pai": {"var.take": 0.0, "pai.alpha": 0.0, "pai.gamma": 1.0},
}
"""Parameters under which each method changes nothing."""


DECODING = ("beam", "greedy", "opera", "sample")
"""Methods that leave the logits as they are, and choose among them."""


REFOCUSING: dict[str, dict[str, object]] = {
    "carve": {"carve.tokens": 4},
    "random_crop": {"random_crop.box": 14, "random_crop.crops": 2},
    "vicrop": {"vicrop.box": 14},
    "vicrop+pai": {"vicrop.box": 14, "pai.gamma": 1.5, "pai.first_token": "always"},
    "visual_funnel": {"visual_funnel.box": 10},
}
"""Methods that answer another request than was asked, which can only be seen in their answers; they act on these."""


EVERYWHERE = ("carve", "greedy", "gift", "pai", "var+vhr", "var+vcd", "iri+pai")
"""Methods that together use all that the engine offers; these run on every model."""


def pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of a model and a method for the matrix; with SINKBENCH_ALL_FAMILIES=1 every pair there is.

    Otherwise a method runs on one model of each family. Its variants and compositions take turns: one model each.
    """
    full = bool(os.environ.get("SINKBENCH_ALL_FAMILIES"))
    found = []
    for number, name in enumerate(names):
        turn = {CORE_FAMILIES[number % len(CORE_FAMILIES)]} if {"-", "+"} & {*name} else {*CORE_FAMILIES}
        found += [(family, name) for family in FAMILIES if full or family in turn or name in EVERYWHERE]
    return found


def method(name: str, table: dict[str, dict[str, object]] = ACTIVE | REFOCUSING) -> Method:
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


def preprocessed(a: Adapter, prompts: Sequence[Prompt]) -> dict[str, ImageInputs]:
    """The prompts' images by `ImageRef.key`."""
    return {image.key: a.preprocess(image) for prompt in prompts for image in prompt.images}


def features(a: Adapter, asked: list[Request], bound: Intervention | None = None) -> dict[str, ImageFeatures]:
    """Of the requests' images, and of those that the method's second branch sees."""
    prompts, bound = [a.encode(r) for r in asked], bound or Intervention()
    inputs = add_edited(bound, contrast_prompts(a, bound, prompts), preprocessed(a, prompts))
    return dict(zip(inputs, a.encode_images(list(inputs.values())), strict=True)) if inputs else {}


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
    branches = contrast_prompts(a, bound, prompts)
    seen = [other for other in branches if other.images]
    # Only methods that look at the vision encoder need more of an image than its features.
    marks = mark_images(a, bound, prompts, preprocessed(a, prompts)) if bound.vision_layers else {}
    if bound.selects:
        batch = Alone(prompts, branches, encoded, marks).shortened(a, bound, preprocessed(a, prompts))
        prompts, branches, encoded, marks = batch.prompts, batch.branches, batch.features, batch.marks
        seen = [other for other in branches if other.images]
    if bound.whole_prompt:
        nothing = Prefixes.none(["m"], a.device, {"m": marks})
        return Stream(a, bound, "m", prompts, nothing, room, static, branches, encoded)
    prefixes = prefill_prefixes(a, {"m": bound}, [*prompts, *seen], encoded, image_marks={"m": marks}, **options)
    return Stream(a, bound, "m", prompts, prefixes, room, static, branches)


def stream(a: Adapter, m: Method, asked: list[Request], room: int, **options: Any) -> Stream:
    """The same from requests."""
    prompts, edits = [a.encode(r) for r in asked], bool(m.edits & Stage.PREFIX)
    bound = m.bind(a.info)
    return open_stream(a, bound, prompts, features(a, asked, bound), room, edits=edits, **options)


@torch.inference_mode()
def logits(a: Adapter, m: Method, asked: list[Request], forced: torch.Tensor, **options: Any) -> torch.Tensor:
    """(B, 1 + T, V) edited logits after the prompt and after each of T forced tokens (B, T)."""
    main = stream(a, m, asked, forced.shape[1], **options)
    return torch.stack([main.prefill(), *(main.step(tokens) for tokens in forced.T)], dim=1)


def count_hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def forced_tokens(n: int, steps: int = 4) -> torch.Tensor:
    return torch.randint(5, 20, (n, steps), generator=torch.Generator().manual_seed(0))


@cache
def reference(family: str, name: str) -> torch.Tensor:
    """(B, 5, V) logits of all `requests` in one batch after the prompt and after each of `forced_tokens`."""
    asked = requests()
    return logits(adapter(family), method(name), asked, forced_tokens(len(asked)))


@cache
def reference_answers(family: str, name: str) -> Mapping[str, str]:
    """The answers to all `requests`, by id, of an engine as it comes."""
    return MappingProxyType(answers(adapter(family), method(name), requests()))


def close(actual: torch.Tensor, expected: torch.Tensor, atol: float = 2e-4) -> None:
    """Equal up to rounding, −inf in the same places."""
    assert torch.equal(actual.isinf(), expected.isinf())
    torch.testing.assert_close(actual.nan_to_num(neginf=0), expected.nan_to_num(neginf=0), atol=atol, rtol=1e-4)
