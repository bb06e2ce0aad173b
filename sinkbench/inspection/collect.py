"""From prompts to findings: the probe's batches as one row a sample, whatever the padding they were run with."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sinkbench.adapters.base import Adapter
from sinkbench.adapters.views import View, sample_views
from sinkbench.diagnostics import extreme, secondary
from sinkbench.diagnostics.bos_cosine import mean_square
from sinkbench.diagnostics.head_divergence import head_divergence
from sinkbench.diagnostics.masking import at, masked_max, place, ranks, without
from sinkbench.diagnostics.massive_dims import MassiveDims
from sinkbench.diagnostics.padding_patches import padding_share, square_padding
from sinkbench.diagnostics.recency import RecencyCurve
from sinkbench.diagnostics.text_dominance import dominance, layer_groups, text_sets
from sinkbench.diagnostics.visual_sinks import persistence, sink_tokens, visual_count
from sinkbench.engine.context import Role
from sinkbench.engine.observe import Observed, observe
from sinkbench.engine.prompt import Prompt
from sinkbench.inspection.probe import MLP_PARTS, Choice, Probe, primary_slot
from sinkbench.request import ImageRef

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
        tau: φ above which a token was taken for a sink.
        samples: Ids of the requests.
        tokens: Prompt tokens of each sample.
        image_tokens: Image tokens of each sample.
        layers: By name (N, L, …) arrays of what belongs to a layer.
        states: By name (N, L + 1, …) arrays of what belongs to a hidden state: the inputs of layers 0 … L − 1, and the
            last layer's output before the final norm. Both have NaN where a sample has no value, such as an answer
            that ended at once.
        dominance: By reading of "text" and group of layers, (N,) arrays of MDI and AEI; NaN without images.
        windows: (N, 4) first and end layer of Wong et al.'s window, with and without the last output.
        secondary: Tokens that follow the primary sink.
        alignment: By part of the MLP, cosines to the primary sink's of secondary sinks where they start ("members"),
            and of equal tokens that are none ("controls").
        massive: The detector.
        recency: The recency curve; None without images.
    """

    choice: Choice
    tau: float
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
    batch_size: int | Literal["auto"] = "auto",
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
    findings = Findings(choice, probe.tau, massive=probe.massive)
    parts: list[dict[str, Array]] = []
    for batch in observe(adapter, probe, prompts, new_tokens=new_tokens, batch_size=batch_size):
        reduced = _reduce(adapter, probe, batch, findings)
        parts.append({name: values.float().cpu().numpy() for name, values in reduced.items()})
    joined = _joined(parts)
    findings.windows = joined.pop("windows")
    findings.dominance = {name: joined.pop(name) for name in list(joined) if "/" in name}
    findings.states = {name: joined.pop(name) for name in STATES}
    findings.layers = joined
    if "head" in joined:
        heads = joined.pop("head")
        if without_images:
            findings.layers["head_divergence"] = _divergence(adapter, prompts, findings, heads, batch_size)
    return findings


def _joined(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """The batches' arrays (B, …) below each other; NaN where a batch lacks what another one has."""
    shapes = {name: values.shape[1:] for part in parts for name, values in part.items()}

    def rows(name: str) -> Iterator[Array]:
        for part in parts:
            yield part[name] if name in part else np.full((len(part["windows"]), *shapes[name]), np.nan, np.float32)

    return {name: np.concatenate(list(rows(name))) for name in shapes}


def _divergence(
    adapter: Adapter, prompts: Sequence[Prompt], findings: Findings, heads: Array, batch_size: int | Literal["auto"]
) -> Array:
    """VHD (N, L, H): the prompts once more, without their images; `heads` (N, L, H, d) are the outputs with them."""
    probe = Probe(adapter.info, Choice(mlp=False, heads=True), adapter.device)
    order = {sample: number for number, sample in enumerate(findings.samples)}
    others = np.zeros_like(heads)
    for batch in observe(adapter, probe, [prompt.without_images() for prompt in prompts], batch_size=batch_size):
        rows = _layerwise(batch.state, "head", adapter.info.n_layers).cpu().numpy()
        others[[order[prompt.request.id] for prompt in batch.prompts]] = rows
    divergence: Array = head_divergence(torch.from_numpy(heads), torch.from_numpy(others)).numpy()
    return divergence


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
    primary = primary_slot(valid, probe.choice.primary)
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
    out["norm_primary"] = at(norms, primary)
    out["largest_first"] = at(_layerwise(state, "largest", n_layers + 1), first)
    out["residual_peak"] = extreme.residual_peak(norms, primary, valid)
    out["cosine_square"] = mean_square(cosines, valid)
    if _has(state, "phi", n_layers):
        phis = _layerwise(state, "phi", n_layers)
        sinks = sink_tokens(phis, valid, probe.tau)
        out["phi_primary"] = at(phis, primary)
        out["phi_image"] = masked_max(phis, image).masked_fill(~image.any(1, keepdim=True), torch.nan)
        visual = sinks & image[:, None]
        out["visual_sinks"] = visual_count(sinks, image).float()
        jaccard = persistence(visual)
        out["visual_persistence"] = torch.cat((jaccard.new_full((len(jaccard), 1), torch.nan), jaccard), dim=1)
        out["text_sinks"] = (sinks & ~image[:, None]).sum(-1).float()
        if any(prompt.images for prompt in batch.prompts):
            out["visual_border"] = _border_share(adapter, batch, visual, image)
    if any(prompt.images for prompt in batch.prompts):
        out |= _image_looks(adapter, batch, valid, image, findings)
    out["windows"] = _secondary(adapter, batch, norms, cosines, valid, primary, findings)
    return out


def _secondary(
    adapter: Adapter, batch: Observed, norms: Tensor, cosines: Tensor, valid: Tensor, primary: Tensor, out: Findings
) -> Tensor:
    """Find secondary sinks; returns the windows (B, 4)."""
    n_layers = adapter.info.n_layers
    # "After layer l" is X[l + 1].
    norms, cosines = norms[:, 1:], cosines[:, 1:]
    along = at(norms, primary)
    windows = torch.stack((*secondary.window(along), *secondary.window(along[:, :-1])), dim=1)
    looked = secondary.prominent(norms, primary, valid)
    found = secondary.levels(secondary.candidates(cosines, looked, primary, valid))
    rule = secondary.labels(found.lifetime, n_layers)
    relative = secondary.relative_labels(found.lifetime, looked.sum(1))
    received = secondary.later_attention(_layerwise(batch.state, "received", n_layers), found.start)
    sample, slot = (found.lifetime > secondary.NOISE).nonzero(as_tuple=True)
    start = found.start[sample, slot]
    counts = torch.stack([table[sample, slot] for table in (ranks(valid), *found, rule, relative)], dim=1)
    sizes = torch.stack((received[sample, slot], norms[sample, start, slot]), dim=1)
    for number, row, (attention, strength) in zip(sample.tolist(), counts.tolist(), sizes.tolist(), strict=True):
        prompt, (index, first, lifetime, run, *labels) = batch.prompts[number], row
        published, scaled = (secondary.Label(label).name.lower() for label in labels)
        text = _text_of(adapter, prompt, index)
        sink = Secondary(prompt.request.id, text, index, first, lifetime, run, published, scaled, attention, strength)
        out.secondary.append(sink)
    _align(adapter, batch, found, relative == secondary.Label.SECONDARY, without(valid, primary), out)
    return windows


def _align(
    adapter: Adapter, batch: Observed, found: secondary.Levels, members: Tensor, valid: Tensor, out: Findings
) -> None:
    """Compare secondary sinks' MLPs with those of equal tokens; `valid` (B, K) without the primary sink."""
    n_layers = adapter.info.n_layers
    ids = torch.zeros_like(valid, dtype=torch.int64)
    is_prompt = batch.valid[:, : valid.shape[1]] & (batch.roles[:, : valid.shape[1]] != Role.GENERATED)
    ids[is_prompt] = torch.cat([prompt.ids for prompt in batch.prompts]).to(ids.device)
    for part in MLP_PARTS:
        if not _has(batch.state, f"align_{part}", n_layers):
            continue
        pair = secondary.alignment(_layerwise(batch.state, f"align_{part}", n_layers), found, members, ids, valid)
        lists = out.alignment.setdefault(part, {"members": [], "controls": []})
        lists["members"] += pair.members.tolist()
        lists["controls"] += pair.controls.tolist()


def _image_looks(
    adapter: Adapter, batch: Observed, valid: Tensor, image: Tensor, findings: Findings
) -> dict[str, Tensor]:
    """What only images have: padding share (B, L), MDI and AEI (B,); the recency curve goes into the findings."""
    look = _layerwise(batch.state, "look", adapter.info.n_layers)
    out = _dominance(adapter, batch, valid, image)
    counted = image
    if adapter.preset.options.get("image_padding") == "square":
        padding, known = _cells(adapter, batch, image, _is_padding)
        out["padding_share"] = padding_share(look, padding, image).masked_fill(~known[:, None], torch.nan)
        counted = image & ~padding
    sizes = [[_size(adapter, one) for one in prompt.images] for prompt in batch.prompts]
    if findings.recency is None:
        findings.recency = RecencyCurve()
    # The curve is summed sample by sample, which on a GPU would wait for each.
    findings.recency.update(look.cpu(), image.cpu(), counted.cpu(), sizes)
    return out


def _dominance(adapter: Adapter, batch: Observed, valid: Tensor, image: Tensor) -> dict[str, Tensor]:
    """MDI and AEI (B,) of each sample's answer rows, or of its prompt's last row where no answer was looked at."""
    n_layers, k = adapter.info.n_layers, valid.shape[1]
    rows = _layerwise(batch.state, "look", n_layers)
    if _has(batch.state, "answer_row", n_layers):
        answered = _layerwise(batch.state, "answer_steps", n_layers)[..., None] > 0
        rows = torch.where(answered, _layerwise(batch.state, "answer_row", n_layers)[..., :k], rows)
    template = batch.roles[:, :k] == Role.TEMPLATE
    out: dict[str, Tensor] = {}
    for reading, text in text_sets(valid & ~image, valid.int().argmax(1), template).items():
        for group, layers in layer_groups(n_layers).items():
            found = dominance(rows[:, layers].mean(1), text, image)
            out |= {f"{measure}/{reading}/{group}": getattr(found, measure) for measure in ("mdi", "aei")}
    return out


def _layerwise(state: Any, name: str, count: int) -> Tensor:
    """The values (B, …) of all layers as (B, L, …); NaN where the first layers have none."""
    last = state[f"{name}.{count - 1}"]
    missing = torch.full_like(last, torch.nan) if f"{name}.0" not in state else last
    return torch.stack([state.get(f"{name}.{layer}", missing) for layer in range(count)], dim=1)


def _has(state: Any, name: str, count: int) -> bool:
    return f"{name}.{count - 1}" in state


def _border_share(adapter: Adapter, batch: Observed, visual: Tensor, image: Tensor) -> Tensor:
    """Share (B, L) of the visual sinks (B, L, K) on the rim of their view; NaN where views or sinks are wanting."""
    rim, known = _cells(adapter, batch, image, _is_rim)
    share = (visual & rim[:, None]).sum(-1) / visual.sum(-1)
    return share.masked_fill(~known[:, None], torch.nan)


def _cells(
    adapter: Adapter, batch: Observed, image: Tensor, find: Callable[[View, tuple[int, int]], Array]
) -> tuple[Tensor, Tensor]:
    """Image tokens by where they lie in the picture.

    Args:
        adapter: The model.
        batch: B prompts.
        image: (B, K) bool.
        find: From a view, and the picture's width and height, to (rows, columns) bool.

    Returns:
        (B, K) bool; and (B,) bool, false where an image is seen in no grid.
    """
    flags, known = [], []
    for prompt in batch.prompts:
        views = sample_views(adapter, prompt)
        own = np.zeros(prompt.visual_tokens, dtype=bool)
        for view in views:
            own[view.tokens] = find(view, adapter.image_size(prompt.images[view.image]))
        flags.append(torch.from_numpy(own))
        known.append({view.image for view in views} == set(range(len(prompt.images))))
    return place(flags, image), torch.tensor(known, device=image.device)


def _is_rim(view: View, _size: tuple[int, int]) -> Array:
    rim = np.ones(view.tokens.shape, dtype=bool)
    rim[1:-1, 1:-1] = False
    return rim


def _is_padding(view: View, size: tuple[int, int]) -> Array:
    flags: Array = square_padding(*size, len(view.tokens)).view(view.tokens.shape).numpy()
    return flags


def _size(adapter: Adapter, image: ImageRef) -> int:
    """Image tokens of an image, separators excluded."""
    return int((adapter.image_layout(image) == Role.IMAGE).sum())


def _text_of(adapter: Adapter, prompt: Prompt, index: int) -> str:
    if prompt.ids[index] == prompt.image_token:
        return f"image token {int((prompt.ids[:index] == prompt.image_token).sum())}"
    return str(adapter.tokenizer.decode([int(prompt.ids[index])]))
