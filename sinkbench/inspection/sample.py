"""`sinkbench inspect sample`: one question about one image, where the model looks, and which tokens are sinks."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from sinkbench.adapters import check_available, load_adapter, resolve_model
from sinkbench.adapters.base import Adapter
from sinkbench.diagnostics.visual_sinks import sink_tokens
from sinkbench.engine.context import Role
from sinkbench.engine.observe import Observed, observe
from sinkbench.engine.prompt import Prompt
from sinkbench.errors import UsageError
from sinkbench.inspection.collect import find_primary
from sinkbench.inspection.compared import Comparison
from sinkbench.inspection.probe import Choice, Probe, sink_tau
from sinkbench.request import IMAGE_PLACEHOLDER, Generation, ImageRef, Message, Request

if TYPE_CHECKING:
    from sinkbench.inspection.sample_pictures import Sample


GAZE_DEPTH = 11 / 32
"""Where the gaze shift is taken, as a share of the layers: GIFT (arXiv 2510.22067) takes layer 11 of 32."""


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        image: Image file, or None for a task's question.
        text: The question.
        task: Task whose question is asked instead.
        index: Number of the question, from 0.
        data_dir: Folder with the task's data.
        id: The question's id in a run, such as "scenes_pope/17"; it goes before `index`.
    """

    image: Path | None
    text: str
    task: str | None = None
    index: int = 0
    data_dir: Path | None = None
    id: str | None = None

    def request(self, folder: Path) -> Request:
        """The request; images that a data set embeds are written to the folder.

        Raises:
            UsageError: There is no such file or question, or its row in the data is broken.
        """
        if self.task is None:
            if self.image is None or not self.image.is_file():
                raise UsageError(f"--image {self.image} is no file", "Give an image, or --task NAME --index N.")
            messages = (Message("user", f"{IMAGE_PLACEHOLDER}\n{self.text}"),)
            return Request("sample", messages, (ImageRef.from_file(self.image),), Generation(max_new_tokens=64))
        from sinkbench.tasks.load import build_requests, check_data, load_task

        check_data(self.task, self.data_dir)
        loaded = load_task(self.task, self.data_dir)
        index = self.index if self.id is None else _place(loaded, self.task, self.id)
        found = list(build_requests(loaded, folder / "images", index + 1))
        if len(found) <= index:
            raise UsageError(f"{self.task} has {len(found)} questions", f"Give --index {len(found) - 1} or less.")
        if found[index].history:
            raise UsageError(
                f"question {index} of {self.task} goes on with a dialogue", "Give the --index of a first turn."
            )
        if fault := found[index].fault:
            raise UsageError(f"question {index} of {self.task} is broken: {fault}", "Give another --index.")
        return found[index]


def _place(loaded: Any, task: str, id: str) -> int:
    """The number of a loaded task's question with an id, which may lack the task's name."""
    from sinkbench.tasks.load import documents, each_document, request_id

    ids = [request_id(loaded, document) for document in each_document(documents(loaded))]
    for given in (id, f"{task}/{id}"):
        if given in ids:
            return ids.index(given)
    near = get_close_matches(id, ids, n=3)
    hint = (
        f"Did you mean {' or '.join(near)}?" if near else f"Ids are like {', '.join(ids[:2])}; samples.jsonl has them."
    )
    raise UsageError(f"{task} has no question {id!r}", hint)


def inspect_sample(
    model: str,
    question: Question,
    folder: Path,
    say: Callable[[str], None],
    *,
    layer: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    new_tokens: int | Literal["all"] = "all",
    comparison: Comparison | None = None,
) -> dict[str, Any]:
    """Answer the question, draw where the last row of the prompt looks, and list the sinks.

    Args:
        model: Preset, folder or hub id.
        question: What is asked.
        folder: Where sample.json and the pictures go.
        say: Told what goes on.
        layer: Whose heads are drawn; by default the one that looks at the image most.
        device: Where to run.
        dtype: Weights' type.
        new_tokens: Tokens of the answer.
        comparison: Methods to show beside the plain model, whose answers then have the length that the task asks for.

    Raises:
        UsageError: A name, file or parameter is wrong, or a method cannot be shown on this question.
    """
    from sinkbench.inspection.before_after import write_before_after
    from sinkbench.inspection.sample_pictures import draw_sample

    preset = resolve_model(model)
    methods = comparison.build(preset, question.task, question.data_dir) if comparison else {}
    check_available(preset)
    folder.mkdir(parents=True, exist_ok=True)
    request = question.request(folder)
    say(f"loading {preset.name}")
    adapter = load_adapter(preset, device, dtype)
    if layer is not None:
        adapter.info.check_layers("--layer", [layer])
    prompt = adapter.encode(request)
    gaze_layer = round(GAZE_DEPTH * adapter.info.n_layers)
    primary = find_primary(adapter, [prompt])
    choice = Choice(adapter.info.sink_dims, primary, gaze_layer, mlp=False, maps=True)
    limit = request.generation.max_new_tokens if new_tokens == "all" else new_tokens
    (batch,) = observe(adapter, Probe(adapter.info, choice, adapter.device), [prompt], new_tokens=limit)
    answer = adapter.decode([token for token in batch.tokens[0].tolist() if token >= 0])
    asked = request.messages[-1].text.replace(IMAGE_PLACEHOLDER, "").strip()
    sample = _sample(adapter, prompt, batch, f"{preset.name}: {asked} → {answer}")
    drawn = draw_sample(sample, folder, layer)
    document = {
        "model": preset.name,
        "question": asked,
        "images": [Path(image.path).name for image in request.images],
        "answer": answer,
        "sinks": _sinks(adapter, prompt, batch),
        "image_attention": [round(float(row.sum()), 4) for row in sample.look],
        "gaze_shift": {"layer": gaze_layer, "image_tokens": _gaze(prompt, batch)},
        "pictures": [path.name for path in drawn],
    }
    if comparison:
        say(f"comparing {', '.join(methods)}")
        document["before_after"] = write_before_after(
            adapter, methods, request, folder, task=question.task, step=comparison.step, layer=layer
        )
    (folder / "sample.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return document


def _gaze(prompt: Prompt, batch: Observed) -> list[float]:
    """The gaze shift over the image tokens; empty without images."""
    if "gaze" not in batch.state:
        return []
    slots = batch.slots(0)[(prompt.roles == Role.IMAGE).to(batch.roles.device)]
    return [float(f"{value:.4g}") for value in batch.state["gaze"][0, slots].tolist()]


def _by_token(batch: Observed, name: str, n_layers: int) -> Tensor:
    """(L, …, n) of the only sample, by prompt token."""
    return torch.stack([batch.cut(batch.state[f"{name}.{layer}"], 0) for layer in range(n_layers)]).float().cpu()


def _phi_sinks(adapter: Adapter, batch: Observed) -> Tensor | None:
    """(L, n) bool sinks by φ; None where no sink dimensions are known."""
    if not adapter.info.sink_dims:
        return None
    phis = _by_token(batch, "phi", adapter.info.n_layers)
    return sink_tokens(phis[None], torch.ones(1, phis.shape[1], dtype=torch.bool), sink_tau(adapter.info))[0]


def _sample(adapter: Adapter, prompt: Prompt, batch: Observed, title: str) -> "Sample":
    from sinkbench.adapters.views import sample_views
    from sinkbench.inspection.sample_pictures import Sample

    n_layers = adapter.info.n_layers
    is_image = prompt.roles == Role.IMAGE
    sinks = _phi_sinks(adapter, batch)
    look, maps = _by_token(batch, "look", n_layers), _by_token(batch, "map", n_layers)
    text = ~is_image
    marked = torch.zeros(int(text.sum()), dtype=torch.bool) if sinks is None else sinks[:, text].any(0)
    return Sample(
        title=title,
        pictures=[image.load() for image in prompt.images],
        views=sample_views(adapter, prompt),
        look=look[:, is_image].numpy(),
        maps=maps[..., is_image].numpy(),
        sinks=None if sinks is None else sinks[:, is_image].numpy(),
        texts=[adapter.tokenizer.decode([token]) for token in prompt.ids[text].tolist()],
        text_look=look[:, text].numpy(),
        marked=marked.numpy(),
    )


def _sinks(adapter: Adapter, prompt: Prompt, batch: Observed) -> list[dict[str, Any]]:
    """The tokens that are sinks by φ in some layer: what they are, where, in which layers."""
    sinks = _phi_sinks(adapter, batch)
    if sinks is None:
        return []
    rows = []
    for place in sinks.any(0).nonzero()[:, 0].tolist():
        image = bool(prompt.roles[place] == Role.IMAGE)
        number = int((prompt.roles[:place] == Role.IMAGE).sum())
        token = f"image token {number}" if image else adapter.tokenizer.decode([int(prompt.ids[place])])
        layers = sinks[:, place].nonzero()[:, 0].tolist()
        rows.append({"token": token, "place": place, "image": image, "layers": layers})
    return rows
