"""The probe's numbers by plain formulas on transformers' own attention maps and states, and planted sinks found."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from harness import FAMILIES, SINK_DIMS, adapter, folder, image, request
from random_models import save_text

from sinkbench.adapters import load_adapter, resolve_model
from sinkbench.adapters.base import Adapter
from sinkbench.engine import keys
from sinkbench.engine.context import Context, Role, Stage, State
from sinkbench.engine.observe import Observed, observe
from sinkbench.engine.prompt import Prompt
from sinkbench.engine.view import MlpParts
from sinkbench.inspection import collect as collecting
from sinkbench.inspection.collect import Findings, collect
from sinkbench.inspection.probe import CLASSES, Choice, Probe, primary_slot
from sinkbench.inspection.words import mark_words
from sinkbench.methods.facts import ModelInfo

LAYERS = 6
families = pytest.mark.parametrize("family", [*FAMILIES, "text"])
QUESTION = "what do you see , is there a dog in the image ?"


@cache
def model(family: str) -> Adapter:
    if family != "text":
        return adapter(family)
    return load_adapter(resolve_model(str(save_text(folder() / "probed-text"))), "cpu", "float32")


def asked(family: str, name: str = "asked"):
    return request(name, QUESTION) if family == "text" else request(name, f"<image>\n{QUESTION}", image(0, 60, 30))


@torch.inference_mode()
def seen_by_transformers(a: Adapter, asked, more: list[int] = ()) -> tuple[torch.Tensor, list, list, list]:
    """Maps (L, H, N, N); and of each layer the input (N, d), with the last one's output, values and W_O by head."""
    text, _ = a._render(asked)
    if asked.images:
        inputs = a.processor(text=text, images=[[i.load() for i in asked.images]], return_tensors="pt")
    else:
        inputs = a.tokenizer(text, return_tensors="pt", add_special_tokens=False)
    for name, values in inputs.items():
        if len(more) and values.shape == inputs["attention_mask"].shape and name != "input_ids":
            inputs[name] = torch.cat((values, values[:, -1:].expand(-1, len(more))), 1)
    inputs["input_ids"] = torch.cat((inputs["input_ids"], torch.tensor([list(more)], dtype=torch.int64)), 1)
    states, values, hooks = [], [], []

    def note(_module, args, kwargs):
        states.append((args[0] if args else kwargs["hidden_states"])[0])

    for layer in a.layers:
        hooks.append(layer.register_forward_pre_hook(note, with_kwargs=True))
        hooks.append(layer.self_attn.v_proj.register_forward_hook(lambda _m, _a, out: values.append(out[0])))
    hooks.append(a.language_model.norm.register_forward_pre_hook(note, with_kwargs=True))
    a.model.set_attn_implementation("eager")
    try:
        maps = torch.cat(a.model(**inputs, output_attentions=True).attentions)
    finally:
        a.model.set_attn_implementation("sdpa")
        for hook in hooks:
            hook.remove()
    weights = [layer.self_attn.o_proj.weight.view(a.info.hidden_size, a.info.n_heads, -1) for layer in a.layers]
    return maps.double(), states, values, weights


def entropy(p: torch.Tensor, axis: int = -1) -> torch.Tensor:
    return -torch.xlogy(p, p).sum(axis)


def attention_by_hand(maps: torch.Tensor, roles: torch.Tensor) -> dict[str, torch.Tensor]:
    """Maps (L, H, N, N) to what the probe says of attention, (L, H) or (L,) each."""
    n, is_image = len(roles), roles == Role.IMAGE
    alpha = torch.stack([maps[:, :, k:, k].mean(-1) for k in range(n)], -1)
    columns = [maps[:, :, k:, k] for k in range(n - 7)]
    spread = [entropy(c / c.sum(-1, keepdim=True)) / np.log(c.shape[-1]) for c in columns]
    gaps = [
        maps[:, :, i, 0].log() - maps[:, :, i, 1 : i + 1].log().mean(-1) for i in range(1, n)
    ]  # Scores up to a constant of the row.
    last = maps[:, :, -1]
    out = {
        "alpha_first": alpha[..., 0],
        "alpha_image": (alpha[..., : n - 7] * is_image[: n - 7]).amax(-1),
        "column_entropy": torch.stack(spread).amax(0),
        "row_entropy": torch.stack([entropy(maps[:, :, i]) / np.log(i + 1) for i in range(1, n)]).mean(0),
        "logit_gap": torch.stack(gaps).mean(0),
        "image_ratio": last[..., is_image].sum(-1),
        "look_first": last[..., 0],
        "look_image": last[..., is_image].sum(-1),
        "look_query": last[..., roles == Role.QUERY].sum(-1),
        "look_template": last[..., 1:][..., roles[1:] == Role.TEMPLATE].sum(-1),
    }
    if is_image.any():
        looked = last.mean(1)[..., is_image]
        out["image_entropy"] = entropy(looked / looked.sum(-1, keepdim=True)) / np.log(int(is_image.sum()))
    kinds = [0 if k == 0 else {Role.IMAGE: 1, Role.QUERY: 2, Role.TEMPLATE: 3}[Role(int(roles[k]))] for k in range(n)]
    out["top_class"] = torch.tensor(kinds)[alpha[..., : n - 7].argmax(-1)]
    return out


def states_by_hand(states: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Hidden states (N, d) of each index to what the probe says of them, (L + 1, …) each."""
    stacked = torch.stack(states).double()
    norms = stacked.norm(dim=-1)
    unit = stacked / norms[..., None]
    top = stacked.flatten(1).abs().topk(3, dim=1).indices
    return {
        "median": stacked.abs().flatten(1).median(dim=1).values,
        "top_value": stacked.flatten(1).gather(1, top),
        "top_dim": top % stacked.shape[-1],
        "norm_primary": norms[:, 0],
        "largest_first": stacked[:, 0].abs().amax(-1),
        "residual_peak": norms[:, 0] / norms[:, 1:].amax(1),
        "cosine_square": (unit[:, 1:] @ unit[:, 0, :, None])[..., 0].square().mean(1),
    }


def drained(norms: torch.Tensor) -> torch.Tensor:
    """(H, N) to (H,): the first token's against the others' median."""
    return norms[:, 0] / norms[:, 1:].median(dim=1).values


def values_by_hand(values: list[torch.Tensor], weights: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """‖v‖ by KV head and ‖W_O v‖ by query head, as drains."""
    out: dict[str, list[torch.Tensor]] = {"value_drain": [], "output_drain": []}
    for value, weight in zip(values, weights, strict=True):
        by_head = value.double().view(len(value), -1, weight.shape[-1]).transpose(0, 1)
        share = weight.shape[1] // len(by_head)
        outputs = torch.einsum("ohd,hnd->hno", weight.double(), by_head.repeat_interleave(share, 0))
        out["value_drain"].append(drained(by_head.norm(dim=-1)))
        out["output_drain"].append(drained(outputs.norm(dim=-1)))
    return {name: torch.stack(rows) for name, rows in out.items()}


def check(found: np.ndarray, wanted: torch.Tensor, name: str) -> None:
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-3, atol=1e-4, err_msg=name)


@families
def test_findings_are_plain_formulas_on_what_transformers_computes(family):
    """In a batch with prompts of other lengths; the median is exact where there is no prefix."""
    a, one = model(family), asked(family)
    others = [request("short", "one ?"), request("long", f"{QUESTION} {QUESTION}")]
    prompts = [a.encode(r) for r in (one, *others)]
    findings = collect(a, prompts, Choice(sink_dims=SINK_DIMS))
    row, roles = findings.samples.index("asked"), prompts[0].roles
    maps, states, values, weights = seen_by_transformers(a, one)
    wanted = attention_by_hand(maps, roles) | values_by_hand(values, weights)
    for kind, mark in mark_words(prompts[0]).items():
        wanted[f"word_{kind}"] = maps[:, :, -1].mean(1)[:, mark].sum(-1)
    for name, array in wanted.items():
        check(findings.layers[name][row], array, name)
    by_state = states_by_hand(states)
    if family != "text":
        by_state.pop("median")
    for name, array in by_state.items():
        check(findings.states[name][row], array, name)


@pytest.mark.parametrize("family", ["llava", "internvl", "text"])
def test_answers_are_summed_apart_from_the_prompt(family):
    a, one = model(family), asked(family)
    probe = Probe(a.info, Choice())
    (batch,) = observe(a, probe, [a.encode(one)], new_tokens=3)
    said = [token for token in batch.tokens[0].tolist() if token >= 0]
    findings = collect(a, [a.encode(one)], Choice(), new_tokens=3)
    maps = seen_by_transformers(a, one, said)[0]
    n = maps.shape[-1] - len(said)
    rows, is_image = maps[:, :, n:], batch.prompts[0].roles == Role.IMAGE
    check(findings.layers["answer_first"][0], rows[..., 0].mean(-1), "first")
    check(findings.layers["answer_image"][0], rows[..., :n][..., is_image].sum(-1).mean(-1), "image")
    check(findings.layers["answer_generated"][0], rows[..., n:].sum(-1).mean(-1), "generated")
    if is_image.any():
        late = rows[-2:].mean((0, 1)).sum(0)[:n]
        mdi = late[~is_image].mean() / late[is_image].mean()
        check(findings.dominance["mdi/all/late"], mdi[None], "mdi")


@pytest.mark.parametrize("family", ["llava", "internvl"])
def test_gaze_is_the_positive_change_over_the_questions_words(family, monkeypatch):
    """Row by row, and from the image's last row on."""
    a, one = model(family), asked(family)
    prompts = [a.encode(r) for r in (one, request("text", QUESTION), request("long", f"{QUESTION} {QUESTION}"))]
    monkeypatch.setattr(keys, "_SCORES_AT_ONCE", 1)
    (batch,) = observe(a, Probe(a.info, Choice(gaze_layer=3)), prompts)
    number = batch.prompts.index(prompts[0])
    looks = seen_by_transformers(a, one)[0][3][..., prompts[0].roles == Role.IMAGE]
    words = (prompts[0].roles == Role.QUERY).nonzero()[:, 0]
    wanted = sum((looks[:, row] - looks[:, row - 1]).clamp_min(0) for row in words.tolist()).mean(0)
    found = batch.cut(batch.state["gaze"], number)
    check(found[prompts[0].roles == Role.IMAGE].numpy(), wanted, "gaze")
    assert not found[prompts[0].roles != Role.IMAGE].any()


DEPTH, WIDTH, DIM = 12, 512, 17
IMAGE_TOKEN, TWIN = 99, 7
TOKENS = {"first": 2, "image": 9, "twin": 20, "follower": 22}
"""Slots of the planted tokens of the second sample; the first sample's slots 0 and 1 are padding, and nothing is."""


def planted_prompts() -> tuple[list[Prompt], torch.Tensor]:
    """Two prompts of 28 and 26 tokens, and their (B, K) roles, padded before."""
    roles = torch.full((28,), Role.QUERY, dtype=torch.uint8)
    roles[:4], roles[4:16] = Role.TEMPLATE, Role.IMAGE
    ids = torch.arange(100, 128)
    ids[4:16] = IMAGE_TOKEN
    ids[[TOKENS["twin"], TOKENS["follower"]]] = TWIN
    padded = roles.clone()
    padded[:2] = Role.PAD
    prompts = [
        Prompt(request(name, "?"), ids[start:], roles[start:], torch.arange(28 - start)[None], (), IMAGE_TOKEN)
        for name, start in (("plain", 0), ("planted", 2))
    ]
    return prompts, torch.stack((roles, padded))


def planted_states() -> list[torch.Tensor]:
    """X[0] … X[12] (2, 28, 512): noise, but for three tokens of the second sample."""
    draw = torch.Generator().manual_seed(0)
    direction = torch.randn(WIDTH, generator=draw)
    direction[DIM] = 3000.0
    states = []
    for index in range(DEPTH + 1):
        hidden = torch.randn(2, 28, WIDTH, generator=draw)
        if 2 <= index <= 11:
            hidden[1, TOKENS["first"]] = direction
        if 5 <= index <= 6:
            hidden[1, TOKENS["image"], DIM] = 60.0
        if 4 <= index <= 9:
            hidden[1, TOKENS["follower"]] = -0.05 * direction
        hidden[1, :2] = 1e6  # Padding counts nothing.
        states.append(hidden)
    return states


@pytest.fixture
def planted():
    """A probe that was shown the planted states; with its context."""
    info = ModelInfo("planted", DEPTH, 4, 2, WIDTH, (DIM,))
    probe = Probe(info, Choice(sink_dims=(DIM,)))
    _, roles = planted_prompts()
    ctx = Context(Stage.SUFFIX, roles, 28, state=State(shown=torch.zeros_like(roles)))
    for index, hidden in enumerate(planted_states()):
        probe.observe_hidden(index, hidden, ctx)
    return probe, ctx


def test_a_planted_massive_dimension_is_found(planted):
    probe, ctx = planted
    (massive,) = probe.massive.found()
    assert massive.dim == DIM
    assert massive.spans == ((2, 11),)
    assert massive.mean == pytest.approx(3000)
    assert massive.classes == {"first": 1.0} | dict.fromkeys(CLASSES[1:], 0.0)
    for index in range(DEPTH + 1):
        on = 2 <= index <= 11
        assert (ctx.state[f"top_value.{index}"][1, 0] == 3000) == on
        if on:
            assert (ctx.state[f"top_slot.{index}"][1, 0], ctx.state[f"top_dim.{index}"][1, 0]) == (TOKENS["first"], DIM)


def test_planted_visual_sinks_are_found(planted):
    probe, ctx = planted
    found = torch.stack([probe._sinks(layer, ctx) for layer in range(2, DEPTH)]) & ctx.is_image
    assert (found.nonzero() + torch.tensor([2, 0, 0])).tolist() == [[5, 1, TOKENS["image"]], [6, 1, TOKENS["image"]]]
    assert probe._sinks(1, ctx) is None


def test_a_planted_secondary_sink_is_found(planted):
    """With the layer where its MLP follows the primary sink's, and an equal token whose MLP does not."""
    probe, ctx = planted
    prompts, roles = planted_prompts()
    for layer in range(DEPTH):
        vectors = torch.eye(28).repeat(2, 1, 1)
        if layer == 3:
            vectors[1, TOKENS["follower"]] = vectors[1, TOKENS["first"]]
        probe.observe_mlp(layer, MlpParts(vectors, vectors, vectors, vectors, -vectors), ctx)
        ctx.state[f"received.{layer}"] = torch.full((2, 28), 0.01)
        ctx.state[f"received.{layer}"][1, TOKENS["follower"]] = 0.2
    findings = Findings(probe.choice, probe.tau)
    batch = Observed(prompts, roles, ctx.state, torch.zeros(2, 0))
    adapter = SimpleNamespace(info=probe.info, tokenizer=SimpleNamespace(decode=lambda ids: f"<{ids[0]}>"))
    norms, cosines = (torch.stack([ctx.state[f"{n}.{i}"] for i in range(DEPTH + 1)], 1) for n in ("norm", "cosine"))
    windows = collecting._secondary(adapter, batch, norms, cosines, ctx.is_valid, ctx.state["primary"], findings)
    assert windows[1].tolist() == [1, 11, 1, 11]
    (sink,) = findings.secondary
    assert (sink.sample, sink.token, sink.place) == ("planted", f"<{TWIN}>", TOKENS["follower"] - 2)
    assert (sink.start, sink.lifetime, sink.run) == (3, 6, 6)
    assert (sink.label, sink.relative) == ("primary_like", "secondary")
    assert sink.attention == pytest.approx(0.2)
    assert sink.strength == pytest.approx(150, rel=0.01)
    for part, lists in findings.alignment.items():
        assert lists == {"members": [pytest.approx(1)], "controls": [pytest.approx(0)]}, part


@pytest.mark.parametrize("cut", [8, 16, 27])
def test_two_passes_keep_what_one_does(planted, cut):
    """The prompt in two passes, the primary sink in the first of them."""
    whole, ctx = planted
    halves = Probe(whole.info, whole.choice)
    roles, state = ctx.roles, State()
    for start, end in ((0, cut), (cut, 28)):
        state["shown"] = torch.zeros_like(roles[:, :end])
        part = Context(Stage.SUFFIX, roles[:, :end], end - start, state=state, emits=end == 28)
        for index, hidden in enumerate(planted_states()):
            halves.observe_hidden(index, hidden[:, start:end], part)
    for name, values in ctx.state.items():
        if not name.startswith("median"):
            torch.testing.assert_close(state[name], values, msg=name)
        else:
            torch.testing.assert_close(state[name], values, rtol=0.05, atol=0)
    assert torch.equal(halves.massive.hits, whole.massive.hits)
    assert set(state) == set(ctx.state)


@pytest.mark.parametrize(("number", "slots"), [(0, [1, 2]), (1, [3, 2]), (2, [3, 2])])
def test_the_primary_slot_is_a_real_token(number, slots):
    valid = torch.tensor([[False, True, False, True], [False, False, True, False]])
    assert primary_slot(valid, number).tolist() == slots
