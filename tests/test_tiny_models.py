"""The shipped models: the engine answers as transformers' own generate, and well enough to measure methods on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from harness import answers, features, open_stream

from sinkbench.adapters import load_adapter, resolve_model
from sinkbench.adapters.base import Adapter
from sinkbench.diagnostics.sink_dims import default_layers, default_tau, find_sink_dims
from sinkbench.engine.context import Role
from sinkbench.engine.generate import Engine
from sinkbench.inspection.first_token import first_token_states
from sinkbench.methods import get_method
from sinkbench.methods.base import Method
from sinkbench.paths import asset, read_packed
from sinkbench.request import Generation, ImageRef, Message, Request
from sinkbench.scoring import chair, pope

SCENES = asset("scenes/val")
ASKED = {"pope": 170, "text": 20, "chair": 50}
"""How many questions of each task the engine answers: all about the first 50 images, which take most of the time."""


@dataclass(frozen=True)
class Shipped:
    """A shipped model and what it is held to.

    Attributes:
        image_tokens: Tokens that a scene becomes.
        most_bytes: Limit of the weights' size.
        compared: How many of the questions transformers' `generate` answers as well.
        found_sinks: Dimensions that the detector finds.
    """

    image_tokens: int
    most_bytes: float
    compared: Mapping[str, int]
    found_sinks: tuple[int, ...]


MODELS = {
    "tiny-llava": Shipped(196, 16e6, {"pope": 170, "text": 20, "chair": 10}, (210,)),
    "tiny-qwen": Shipped(144, 10e6, {"pope": 45, "text": 10, "chair": 5}, ()),
    "tiny-internvl": Shipped(245, 10e6, {"pope": 45, "text": 10, "chair": 5}, ()),
}
models = pytest.mark.parametrize("name", MODELS, scope="module")


@cache
def rows(task: str) -> list[dict[str, Any]]:
    """Rows of the shipped split; of POPE the adversarial ones, four an image, half of them "yes"."""
    table = [json.loads(line) for line in read_packed(SCENES / f"{task}.jsonl").splitlines()]
    if task == "pope":
        adversarial = (row for row in table if row["category"] == "adversarial")
        table = [row for place, row in enumerate(adversarial) if place % 3]
    return table[: ASKED[task]]


@cache
def questions(**numbers: int) -> list[Request]:
    """The first questions of each task, with equal settings, so that the tasks share batches."""
    return [
        Request(
            f"{task}/{row['id']}",
            (Message("user", f"<image>\n{row['question']}"),),
            (ImageRef(str(SCENES / "images" / row["image"])),),
            Generation(max_new_tokens=64),
        )
        for task, number in numbers.items()
        for row in rows(task)[:number]
    ]


@cache
def adapter(name: str) -> Adapter:
    return load_adapter(resolve_model(name), "cpu", "float32")


@cache
def greedy_answers(name: str) -> dict[str, str]:
    """Answers to all questions, 32 at a time; those about one image follow each other and share its prefix."""
    asked = sorted(questions(**ASKED), key=lambda request: request.images[0].path)
    return answers(adapter(name), get_method("greedy"), asked, batch_size=32)


@cache
def reference(name: str) -> tuple[Any, Any, dict[str, Any]]:
    """Model and processor as any user of transformers would load them, and what loading said."""
    folder = Path(resolve_model(name).location)
    (architecture,) = json.loads((folder / "config.json").read_text())["architectures"]
    model, report = getattr(transformers, architecture).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True
    )
    return model.eval(), transformers.AutoProcessor.from_pretrained(folder), report


def reference_inputs(name: str, request: Request) -> Any:
    """What the processor makes of a question."""
    _, processor, _ = reference(name)
    text = request.messages[0].text.removeprefix("<image>\n")
    conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    prompt = processor.apply_chat_template(conversation, add_generation_prompt=True)
    return processor(images=request.images[0].load(), text=prompt, return_tensors="pt")


@torch.inference_mode()
def generate(name: str, request: Request) -> str:
    model, processor, _ = reference(name)
    inputs = reference_inputs(name, request)
    out = model.generate(**inputs, max_new_tokens=request.generation.max_new_tokens, do_sample=False)
    return str(processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


def some(name: str, asked: list[Request]) -> dict[str, str]:
    return {request.id: greedy_answers(name)[request.id] for request in asked}


@models
def test_the_folder_loads_as_the_class_it_names(name):
    model, _, report = reference(name)
    assert not any(report.values()), report
    weights = Path(resolve_model(name).location) / "model.safetensors"
    assert weights.stat().st_size <= MODELS[name].most_bytes
    assert type(model) is type(adapter(name).model)


@models
def test_a_scene_becomes_as_many_tokens_as_its_processor_makes_of_it(name):
    for request in questions(pope=1, text=1, chair=1):
        prompt = adapter(name).encode(request)
        assert prompt.ids.tolist() == reference_inputs(name, request)["input_ids"][0].tolist()
        assert (prompt.roles == Role.IMAGE).sum() == MODELS[name].image_tokens


@models
def test_answers_are_those_of_generate_one_by_one(name):
    asked = questions(**MODELS[name].compared)
    assert {request.id: generate(name, request) for request in asked} == some(name, asked)


@models
@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 32, "share_prefix": False}], ids=str)
def test_neither_batches_nor_shared_prefixes_change_an_answer(name, options):
    asked = questions(pope=4, text=1, chair=1)
    assert answers(adapter(name), get_method("greedy"), asked, **options) == some(name, asked)


@models
def test_methods_in_one_sweep_answer_as_each_alone(name):
    a, asked = adapter(name), [shortened(request) for request in questions(pope=4, chair=2)]
    methods = {m: get_method(m, model=name) for m in ("greedy", "pai", "var")}
    methods["gift"] = get_method("gift", {"content": "all"}, model=name)
    together: dict[str, dict[str, str]] = {m: {} for m in methods}
    for m, responses in Engine(a, methods, batch_size=32).sweep(asked, lambda *_: True):
        together[m] |= {response.id: response.text for response in responses}
    assert together == {m: answers(a, method, asked, batch_size=32) for m, method in methods.items()}
    # Methods that do not act would agree whatever the engine did.
    assert together["greedy"] not in (together["gift"], together["pai"])


def shortened(request: Request) -> Request:
    """With an answer that is long enough to tell the methods apart."""
    return replace(request, generation=Generation(max_new_tokens=16))


@models
def test_it_is_good_at_yes_and_no_but_not_perfect(name):
    given = greedy_answers(name)
    judged = [pope.score(given[f"pope/{row['id']}"], row["answer"], row["category"]) for row in rows("pope")]
    assert 0.75 <= sum(score.score for score in judged) / len(judged) <= 0.95
    assert sum(score.counts["adversarial.unparsed"] for score in judged) == 0


@models
def test_its_captions_name_some_objects_that_are_not_there(name):
    finder = chair.MentionFinder((SCENES / "synonyms.txt").read_text(), "simplemma")
    mentions = {row["id"]: finder.find(greedy_answers(name)[f"chair/{row['id']}"]) for row in rows("chair")}
    scores = [chair.score(mentions[row["id"]], row["objects"]) for row in rows("chair")]
    hallucinated, named = (sum(score.counts[key] for score in scores) for key in ("hallucinated", "mentions"))
    assert 0.05 <= hallucinated / named <= 0.25


@models
@pytest.mark.parametrize("word", ["dog", "traffic light", "scissors"])
def test_the_tokenizer_knows_the_world(name, word):
    a = adapter(name)
    ids = a.tokenizer(f"Is there a {word} in the image?", add_special_tokens=False).input_ids
    assert a.tokenizer.unk_token_id not in ids
    assert a.decode(ids) == f"Is there a {word} in the image?"


@models
def test_what_the_detector_finds(name):
    a = adapter(name)
    layers = default_layers(a.info.n_layers)
    asked = [Request("0", (Message("user", "How many dogs are there?"),))]
    found = find_sink_dims(first_token_states(a, asked, layers), layers, default_tau(a.info.hidden_size))
    assert found.dims == MODELS[name].found_sinks
    assert found.runner_up < found.tau < min(map(min, found.ratios.values()), default=torch.inf)


def test_var_acts_where_image_tokens_count_as_sinks_and_only_there():
    """At the detector's tau only text tokens are sinks, and VAR leaves such layers alone (spec §2, step 4)."""
    a, asked = adapter("tiny-llava"), questions(chair=4)
    prompts, encoded = [a.encode(request) for request in asked], features(a, asked)

    @torch.inference_mode()
    def first_logits(method: Method) -> torch.Tensor:
        return open_stream(a, method.bind(a.info), prompts, encoded, 0).prefill()

    plain = first_logits(get_method("greedy"))
    assert torch.equal(first_logits(get_method("var", {"tau": 8.0})), plain)
    moved = (first_logits(get_method("var", model="tiny-llava")) - plain).abs().amax(-1)
    assert get_method("var", model="tiny-llava").params()["tau"] == 2.0
    assert (moved > 1e-3).any()
    assert a.language_model.config._attn_implementation == "sdpa"
