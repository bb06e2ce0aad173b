"""From prompts to findings: the probe's batches as one row a sample, whatever the padding they were run with."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sinkbench.adapters.base import Adapter
from sinkbench.diagnostics import extreme, secondary
from sinkbench.diagnostics.bos_cosine import mean_square
from sinkbench.diagnostics.head_divergence import head_divergence
from sinkbench.diagnostics.masking import place, real_slots
from sinkbench.diagnostics.massive_dims import MassiveDims
from sinkbench.diagnostics.padding_patches import padding_share, square_padding
from sinkbench.diagnostics.recency import RecencyCurve
from sinkbench.diagnostics.text_dominance import dominance, layer_groups, text_sets
from sinkbench.diagnostics.visual_sinks import border, persistence, sink_tokens, visual_count
from sinkbench.engine.context import Role
from sinkbench.engine.observe import Observed, observe
from sinkbench.engine.prompt import Prompt
from sinkbench.inspection.probe import MLP_PARTS, Choice, Probe

Array = NDArray[Any]

PILOT = 8
"""Prompts from which the primary sink's place is found."""


@dataclass
class Secondary:
    """A secondary sink that was found.

    Attributes:
        sample: The request's id.
        token: Its text.
        place: Its index in the prompt.
        start: First layer of the run of layers in which it points along the primary sink.
        lifetime: How many such layers there are.
        run: The longest run of successive ones.
        label: By Wong et al.'s rule.
        relative: By the rule for models of any depth.
        attention: Mean attention it receives behind its first layer.
        strength: ‖X‖ after its first layer.
    """

    sample: str
    token: str
    place: int
    start: int
    lifetime: int
    run: int
    label: str
    relative: str
    attention: float
    strength: float


@dataclass
class Findings:
    """What was found in N samples of a model with L layers.

    Attributes:
        choice: What was looked for.
        samples: Ids of the requests.
        tokens: Prompt tokens of each sample.
        image_tokens: Image tokens of each sample.
        layers: By name (N, L, …) arrays of what belongs to a layer.
        states: By name (N, L + 1, …) arrays of what belongs to a hidden state: the inputs of layers 0 … L − 1, and the
            last layer's output before the final norm.
        dominance: By reading of "text" and group of layers, (N,) arrays of MDI and AEI.
        windows: (N, 4) first and end layer of Wong et al.'s window, with and without the last output.
        secondary: Tokens that follow the primary sink.
        alignment: By part of the MLP, cosines to the primary sink's of secondary sinks where they start ("members"),
            and of equal tokens that are none ("controls").
        border: For each visual sink's layer and sample, share of the visual sinks on the rim of the image.
        massive: The detector.
        recency: The recency curve; None without images.
    """

    choice: Choice
    samples: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    image_tokens: list[int] = field(default_factory=list)
    layers: dict[str, Array] = field(default_factory=dict)
    states: dict[str, Array] = field(default_factory=dict)
    dominance: dict[str, Array] = field(default_factory=dict)
    windows: Array = field(default_factory=lambda: np.zeros((0, 4)))
    secondary: list[Secondary] = field(default_factory=list)
    alignment: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    massive: MassiveDims | None = None
    recency: RecencyCurve | None = None


def find_primary(adapter: Adapter, prompts: Sequence[Prompt]) -> int:
    """Which of a prompt's first three tokens is the primary sink: the one of largest norm over layers and prompts."""
    probe = Probe(adapter.info, Choice(mlp=False), adapter.device)
    totals = torch.zeros(3)
    for batch in observe(adapter, probe, prompts[:PILOT]):
        for number in range(len(batch.prompts)):
            norms = _layerwise(batch.state, "norm", adapter.info.n_layers + 1)[number, 1:, batch.slots(number)[:3]]
            totals[: norms.shape[1]] += norms.mean(0).cpu()
    return int(totals.argmax())


def collect(
    adapter: Adapter,
    prompts: Sequence[Prompt],
    choice: Choice,
    *,
    new_tokens: int = 0,
    batch_size: int | Any = "auto",
    without_images: bool = False,
) -> Findings:
    """Run prompts through a model and reduce what the probe saw.

    Args:
        adapter: The model.
        prompts: Encoded prompts.
        choice: What to look for.
        new_tokens: Tokens of each answer to look at too.
        batch_size: Most samples in a batch, or "auto".
        without_images: Also run each prompt without its images, for VHD; takes `choice.heads`.
    """
    probe = Probe(adapter.info, choice, adapter.device)
    findings = Findings(choice, massive=probe.massive)
    gathered: dict[str, list[Tensor]] = {}
    for batch in observe(adapter, probe, prompts, new_tokens=new_tokens, batch_size=batch_size):
        for name, values in _reduce(adapter, probe, batch, findings).items():
            gathered.setdefault(name, []).append(values.float().cpu())
    joined = {name: torch.cat(parts).numpy() for name, parts in gathered.items()}
    n_layers = adapter.info.n_layers
    findings.states = {name: v for name, v in joined.items() if name in STATES}
    findings.layers = {name: v for name, v in joined.items() if name not in STATES and name != "windows"}
    findings.windows = joined["windows"]
    if without_images:
        other = Probe(adapter.info, Choice(primary=choice.primary, mlp=False, heads=True), adapter.device)
        blind = [prompt.without_images() for prompt in prompts]
        order = {sample: number for number, sample in enumerate(findings.samples)}
        heads = np.zeros_like(findings.layers["head"])
        for batch in observe(adapter, other, blind, batch_size=batch_size):
            rows = _layerwise(batch.state, "head", n_layers).cpu().numpy()
            for prompt, row in zip(batch.prompts, rows, strict=True):
                heads[order[prompt.request.id]] = row
        with_image = torch.from_numpy(findings.layers["head"])
        findings.layers["head_divergence"] = head_divergence(with_image, torch.from_numpy(heads)).numpy()
    findings.layers.pop("head", None)
    return findings


STATES = ("norm_primary", "largest_first", "median", "top_value", "top_dim", "residual_peak", "cosine_square")
"""What belongs to hidden states rather than to layers."""

_PLAIN = (
    *("alpha_first", "alpha_image", "top_class", "value_drain", "output_drain", "logit_gap", "row_entropy"),
    *("column_entropy", "image_ratio", "image_entropy", "look_first", "look_image", "look_query", "look_template"),
    *("word_stop", "word_punctuation", "word_content", "portion", "image_centric", "sink_mass", "head"),
    *("answer_first", "answer_image", "answer_generated"),
)


def _reduce(adapter: Adapter, probe: Probe, batch: Observed, findings: Findings) -> dict[str, Tensor]:
    """A batch's values (B, L, …) and (B, L + 1, …) by name; what is no tensor goes into the findings."""
    n_layers, state = adapter.info.n_layers, batch.state
    norms = _layerwise(state, "norm", n_layers + 1)
    k = norms.shape[-1]
    valid = batch.valid[:, :k] & (batch.roles[:, :k] != Role.GENERATED)
    image = batch.roles[:, :k] == Role.IMAGE
    primary = real_slots(valid)[:, probe.choice.primary]
    first = valid.int().argmax(1)
    findings.samples += [prompt.request.id for prompt in batch.prompts]
    findings.tokens += valid.sum(1).tolist()
    findings.image_tokens += image.sum(1).tolist()

    out = {name: _layerwise(state, name, n_layers) for name in _PLAIN if _has(state, name, n_layers)}
    if "answer_first" in out:
        steps = _layerwise(state, "answer_steps", n_layers)[..., None]
        for name in ("answer_first", "answer_image", "answer_generated"):
            out[name] = out[name] / steps.where(steps > 0, torch.nan)
    for name in ("median", "top_value", "top_dim"):
        out[name] = _layerwise(state, name, n_layers + 1)
    cosines = _layerwise(state, "cosine", n_layers + 1)
    out["norm_primary"] = _at(norms, primary)
    out["largest_first"] = _at(_layerwise(state, "largest", n_layers + 1), first)
    out["residual_peak"] = extreme.residual_peak(norms, primary, valid)
    out["cosine_square"] = mean_square(cosines, valid)
    if _has(state, "phi", n_layers):
        sinks = sink_tokens(_layerwise(state, "phi", n_layers), valid, probe.tau)
        visual = sinks & image[:, None]
        out["visual_sinks"] = visual_count(sinks, image).float()
        jaccard = persistence(visual)
        out["visual_persistence"] = torch.cat((jaccard.new_full((len(jaccard), 1), torch.nan), jaccard), dim=1)
        out["text_sinks"] = (sinks & ~image[:, None]).sum(-1).float()
        if (rim := _rim(batch, image)) is not None:
            out["visual_border"] = (visual & rim[:, None]).sum(-1) / visual.sum(-1)
    look = _layerwise(state, "look", n_layers)
    if bool(image.any()):
        padding = _padding(adapter, batch, image)
        if padding is not None:
            out["padding_share"] = padding_share(look, padding, image)
        if findings.recency is None:
            findings.recency = RecencyCurve()
        sizes = [[len(adapter.image_layout(i)) for i in p.images] for p in batch.prompts]
        exact = [sum(s) for s in sizes] == image.sum(1).tolist()
        findings.recency.update(look, image, image if padding is None else image & ~padding, sizes if exact else None)
        _dominance(probe, batch, valid, image, findings)
    out["windows"] = _secondary(adapter, batch, norms, cosines, valid, primary, findings)
    return out


def _secondary(
    adapter: Adapter, batch: Observed, norms: Tensor, cosines: Tensor, valid: Tensor, primary: Tensor, out: Findings
) -> Tensor:
    """Find secondary sinks; returns the windows (B, 4)."""
    n_layers = adapter.info.n_layers
    # "After layer l" is X[l + 1].
    norms, cosines = norms[:, 1:], cosines[:, 1:]
    along = norms.gather(2, primary[:, None, None].expand(-1, n_layers, 1))[..., 0]
    windows = torch.stack((*secondary.window(along), *secondary.window(along[:, :-1])), dim=1)
    looked = secondary.prominent(norms, primary, valid)
    found = secondary.levels(secondary.candidates(cosines, looked, primary, valid))
    rule = secondary.labels(found.lifetime, n_layers)
    relative = secondary.relative_labels(found.lifetime, looked.sum(1))
    members = relative == secondary.Label.SECONDARY
    received = secondary.later_attention(_layerwise(batch.state, "received", n_layers), found.start)
    for sample, slot in (found.lifetime > secondary.NOISE).nonzero().tolist():
        prompt, slots = batch.prompts[sample], batch.slots(sample).tolist()
        index, start = slots.index(slot), int(found.start[sample, slot])
        out.secondary.append(
            Secondary(
                sample=prompt.request.id,
                token=_text_of(adapter, prompt, index),
                place=index,
                start=start,
                lifetime=int(found.lifetime[sample, slot]),
                run=int(found.run[sample, slot]),
                label=secondary.Label(int(rule[sample, slot])).name.lower(),
                relative=secondary.Label(int(relative[sample, slot])).name.lower(),
                attention=float(received[sample, slot]),
                strength=float(norms[sample, start, slot]),
            )
        )
    ids = torch.zeros_like(valid, dtype=torch.int64)
    for number, prompt in enumerate(batch.prompts):
        ids[number, batch.slots(number)] = prompt.ids.to(ids.device)
    others = valid.scatter(1, primary[:, None], torch.zeros_like(valid[:, :1]))
    for part in MLP_PARTS:
        if not _has(batch.state, f"align_{part}", n_layers):
            continue
        pair = secondary.alignment(_layerwise(batch.state, f"align_{part}", n_layers), found, members, ids, others)
        lists = out.alignment.setdefault(part, {"members": [], "controls": []})
        lists["members"] += pair.members.tolist()
        lists["controls"] += pair.controls.tolist()
    return windows


def _dominance(probe: Probe, batch: Observed, valid: Tensor, image: Tensor, out: Findings) -> None:
    """MDI and AEI of the answer's rows, or of the prompt's last row where no answer was looked at."""
    n_layers, k = probe.info.n_layers, valid.shape[1]
    name = "answer_row" if _has(batch.state, "answer_row", n_layers) else "look"
    rows = _layerwise(batch.state, name, n_layers)[..., :k]
    template = batch.roles[:, :k] == Role.TEMPLATE
    for reading, text in text_sets(valid & ~image, valid.int().argmax(1), template).items():
        for group, layers in layer_groups(n_layers).items():
            found = dominance(rows[:, layers].mean(1), text, image)
            for measure in ("mdi", "aei"):
                key = f"{measure}/{reading}/{group}"
                values = getattr(found, measure).cpu().numpy()
                out.dominance[key] = np.concatenate((out.dominance.get(key, values[:0]), values))


def _layerwise(state: Any, name: str, count: int) -> Tensor:
    """The values (B, …) of all layers as (B, L, …)."""
    return torch.stack([state[f"{name}.{layer}"] for layer in range(count)], dim=1)


def _has(state: Any, name: str, count: int) -> bool:
    return f"{name}.{count - 1}" in state and f"{name}.0" in state


def _at(values: Tensor, slot: Tensor) -> Tensor:
    return values.gather(2, slot[:, None, None].expand(-1, values.shape[1], 1))[..., 0]


def _rim(batch: Observed, image: Tensor) -> Tensor | None:
    """(B, K) bool: image tokens on the rim of their square grid; None where an image is no square."""
    sides = [isqrt(n) for n in image.sum(1).tolist()]
    if any(len(p.images) != 1 for p in batch.prompts) or [s * s for s in sides] != image.sum(1).tolist():
        return None
    return border(image, [[(side, side)] for side in sides])


def _padding(adapter: Adapter, batch: Observed, image: Tensor) -> Tensor | None:
    """(B, K) bool: image tokens that are letterbox padding; None where the model pads no image."""
    if adapter.preset.options.get("image_padding") != "square":
        return None
    flags = []
    for prompt in batch.prompts:
        sizes = [adapter.image_size(one) for one in prompt.images]
        parts = [
            square_padding(*size, isqrt(len(adapter.image_layout(one))))
            for size, one in zip(sizes, prompt.images, strict=True)
        ]
        flags.append(torch.cat(parts) if parts else torch.zeros(0, dtype=torch.bool))
    return place(flags, image)


def _text_of(adapter: Adapter, prompt: Prompt, index: int) -> str:
    if prompt.ids[index] == prompt.image_token:
        return f"image token {int((prompt.ids[:index] == prompt.image_token).sum())}"
    return str(adapter.tokenizer.decode([int(prompt.ids[index])]))
