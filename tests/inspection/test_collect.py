"""Findings of a sample are its own: whatever it is batched with, in which order, and whether prefixes are shared."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from harness import FAMILIES, SINK_DIMS, folder, model_folder, request, requests
from random_models import save_text

from sinkbench.adapters import load_adapter, resolve_model
from sinkbench.adapters.base import Adapter
from sinkbench.diagnostics import secondary
from sinkbench.engine import attention
from sinkbench.engine.attention import fused_attention
from sinkbench.engine.context import Role
from sinkbench.inspection.collect import Findings, collect, find_primary
from sinkbench.inspection.probe import Choice

CHOICE = Choice(sink_dims=SINK_DIMS, gaze_layer=3, heads=True)
families = pytest.mark.parametrize("family", [*FAMILIES, "text"])

OF_ANSWERS = ("answer_first", "answer_image", "answer_generated")


@cache
def rigged(family: str) -> Adapter:
    """A random model whose first token is large, and in which "do" and "see" point along it, so that sinks arise."""
    path = save_text(folder() / "rigged-text") if family == "text" else model_folder(family)
    a = load_adapter(replace(resolve_model(str(path)), sink_dims=SINK_DIMS), "cpu", "float32")
    opening = int(a.encode(request("", "see")).ids[0])
    a.embed.weight[opening] *= 3000
    for word, share in (("do", 0.045), ("see", 0.1)):
        a.embed.weight[a.tokenizer.convert_tokens_to_ids(word)] = share * a.embed.weight[opening]
    return a


def asked(family: str) -> list:
    if family != "text":
        return [*requests(), request("text/long", "do you see a red car , a blue car or a dog in the tree ?")]
    texts = ("how many are there ? do you see a dog ?", "is there a dog in the image ? yes no see", "what do you see")
    return [request(text, text) for text in texts]


@pytest.fixture(autouse=True)
def _short_lives(monkeypatch):
    """Six layers are too few for secondary sinks by the published rule."""
    monkeypatch.setattr(secondary, "NOISE", 1)


def found(family: str, order: slice = slice(None), choice: Choice = CHOICE, **options) -> Findings:
    a = rigged(family)
    prompts = [a.encode(r) for r in asked(family)[order]]
    return collect(a, prompts, choice, without_images=True, **options)


def by_sample(findings: Findings) -> dict[str, dict[str, np.ndarray]]:
    """Every array's row of each sample, by the sample's id."""
    arrays = {**findings.layers, **findings.states, **findings.dominance, "windows": findings.windows}
    arrays |= {"tokens": np.array(findings.tokens), "image_tokens": np.array(findings.image_tokens)}
    n = len(findings.samples)
    assert {name: len(values) for name, values in arrays.items()} == dict.fromkeys(arrays, n)
    assert len(set(findings.samples)) == n
    return {
        sample: {name: values[row] for name, values in arrays.items()} for row, sample in enumerate(findings.samples)
    }


def same(ours: Findings, others: Findings, *, but: tuple[str, ...] = ()) -> None:
    """Equal up to rounding, sample by sample."""
    left, right = by_sample(ours), by_sample(others)
    assert left.keys() == right.keys()
    for sample, arrays in left.items():
        names = [name for name in arrays if name not in but]
        assert set(names) == {name for name in right[sample] if name not in but}
        for name in names:
            note = f"{name} of {sample}"
            np.testing.assert_allclose(arrays[name], right[sample][name], rtol=2e-3, atol=2e-4, err_msg=note)
    _same_secondary(ours, others)
    for name in ("hits", "sums", "on_class"):
        torch.testing.assert_close(getattr(ours.massive, name), getattr(others.massive, name), rtol=1e-3, atol=1e-3)
    assert ours.massive.samples == others.massive.samples
    if ours.recency is None or others.recency is None:
        assert ours.recency is others.recency
        return
    for one, other in zip(ours.recency.curve(), others.recency.curve(), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-4, equal_nan=True)


def _same_secondary(ours: Findings, others: Findings) -> None:
    first, second = ({(s.sample, s.place): vars(s) for s in f.secondary} for f in (ours, others))
    assert first.keys() == second.keys()
    for key, one in first.items():
        for name, value in one.items():
            wanted = pytest.approx(value, rel=2e-3, nan_ok=True) if isinstance(value, float) else value
            assert second[key][name] == wanted, (key, name)
    assert ours.alignment.keys() == others.alignment.keys()
    for part, lists in ours.alignment.items():
        for name, values in lists.items():
            np.testing.assert_allclose(sorted(values), sorted(others.alignment[part][name]), rtol=2e-3, atol=2e-4)


def joined(parts: list[Findings]) -> Findings:
    """Findings of several runs as those of one."""
    whole, *rest = parts
    for part in rest:
        for name in ("layers", "states", "dominance"):
            mine, more = getattr(whole, name), getattr(part, name)
            n, m = len(whole.samples), len(part.samples)
            setattr(
                whole,
                name,
                {
                    key: np.concatenate((_rows(mine, more, key, n), _rows(more, mine, key, m)))
                    for key in {**mine, **more}
                },
            )
        whole.windows = np.concatenate((whole.windows, part.windows))
        for name in ("samples", "tokens", "image_tokens", "secondary"):
            getattr(whole, name).extend(getattr(part, name))
        for name, lists in part.alignment.items():
            for kind, values in lists.items():
                whole.alignment[name][kind] += values
        for name in ("hits", "sums", "on_class"):
            setattr(whole.massive, name, getattr(whole.massive, name) + getattr(part.massive, name))
        whole.massive.samples = [a + b for a, b in zip(whole.massive.samples, part.massive.samples, strict=True)]
        if part.recency is not None and whole.recency is not None:
            for size, sums in part.recency.sums.items():
                whole.recency.sums[size] = whole.recency.sums.get(size, 0) + sums
                whole.recency.counts[size] = whole.recency.counts.get(size, 0) + part.recency.counts[size]
        whole.recency = whole.recency or part.recency
    return whole


def _rows(own: dict[str, np.ndarray], other: dict[str, np.ndarray], key: str, n: int) -> np.ndarray:
    """The run's own array; NaN where only the other run had something to say."""
    return own[key] if key in own else np.full((n, *other[key].shape[1:]), np.nan)


@families
@pytest.mark.parametrize("new_tokens", [0, 3])
def test_a_batch_is_its_singles(family, new_tokens):
    whole = found(family, new_tokens=new_tokens)
    count = len(asked(family))
    singles = joined([found(family, slice(n, n + 1), new_tokens=new_tokens) for n in range(count)])
    same(whole, singles)
    assert whole.secondary
    if family != "text":
        assert whole.layers["visual_sinks"].any()


@families
def test_the_order_and_the_size_of_batches_are_irrelevant(family):
    whole = found(family, new_tokens=2)
    same(whole, found(family, slice(None, None, -1), new_tokens=2, batch_size=2))


@families
def test_what_is_found_in_prompts_does_not_depend_on_answers(family):
    silent, speaking = found(family), found(family, new_tokens=4)
    assert set(speaking.layers) - set(silent.layers) == set(OF_ANSWERS)
    same(silent, speaking, but=(*OF_ANSWERS, *silent.dominance))
    if silent.dominance:
        shown = np.array(silent.image_tokens) > 0
        changed = ~np.isclose(silent.dominance["mdi/all/late"], speaking.dominance["mdi/all/late"])
        assert (changed & shown).any()


def test_answers_that_end_at_once_have_no_value(monkeypatch):
    """In their batch and alone; MDI falls back to the prompt's last row."""
    a, silent = rigged("llava"), found("llava")
    monkeypatch.setattr(a, "eos", tuple(range(len(a.tokenizer))))
    ended = found("llava", new_tokens=3)
    same(silent, ended)
    monkeypatch.undo()
    said = found("llava", new_tokens=1)
    prompts = [a.encode(r) for r in asked("llava")]
    logits = a.model(input_ids=prompts[-1].ids[None]).logits
    monkeypatch.setattr(a, "eos", (int(logits[0, -1].argmax()),))
    some = found("llava", new_tokens=1, batch_size=2)
    arrays, before = by_sample(some), by_sample(said)
    assert np.isnan(arrays["text/long"]["answer_first"]).all()
    assert not np.isnan(before["text/long"]["answer_first"]).any()
    gone = {sample for sample, values in arrays.items() if np.isnan(values["answer_first"]).all()}
    assert gone < set(some.samples)
    for sample in gone:
        np.testing.assert_allclose(arrays[sample]["aei/all/early"], by_sample(silent)[sample]["aei/all/early"])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_needs_an_image_is_missing_without_one(family):
    whole = by_sample(found(family))
    assert set(whole["text"]) == set(whole["wide/dog"])
    for name in ("visual_border", "mdi/all/late", "image_entropy"):
        assert np.isnan(whole["text"][name]).all()
    assert np.isfinite(whole["wide/dog"]["mdi/all/late"])
    assert any(np.isfinite(arrays["visual_border"]).any() for arrays in whole.values())
    assert not whole["text"]["image_ratio"].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_diverge_by_what_the_image_does(family):
    """A prompt without images is the same prompt without its images."""
    divergence = {sample: arrays["head_divergence"] for sample, arrays in by_sample(found(family)).items()}
    assert divergence["text"].max() < 1e-4 * divergence["wide/dog"].max()
    assert divergence["wide/dog"].mean() > 0.1
    assert "head" not in found(family).layers


def test_heads_that_do_not_look_at_the_image_do_not_diverge(monkeypatch):
    """Attention is even, whatever the positions, and the image is hidden from the question."""
    a = load_adapter(resolve_model(str(model_folder("llava"))), "cpu", "float32")
    for layer in a.layers:
        layer.self_attn.q_proj.weight.zero_()
    prompts = [a.encode(r) for r in requests() if len(r.images) == 1]
    assert collect(a, prompts, CHOICE, without_images=True).layers["head_divergence"].max() > 0.1

    def blind(query, keys, ctx, scaling):
        hidden = ctx.roles.masked_fill(ctx.roles == Role.IMAGE, Role.PAD)
        return fused_attention(query, keys, replace(ctx, roles=hidden, padded=True), scaling)

    monkeypatch.setattr(attention, "fused_attention", blind)
    assert collect(a, prompts, CHOICE, without_images=True).layers["head_divergence"].max() < 1e-4


def test_the_primary_sink_is_found_among_the_first_three_tokens():
    a = load_adapter(resolve_model(str(model_folder("llava"))), "cpu", "float32")
    prompts = [a.encode(r) for r in requests()]
    second = int(prompts[0].ids[1])
    a.embed.weight[second] *= 100
    assert find_primary(a, prompts) == 1
    findings = collect(a, prompts, Choice(primary=1, mlp=False))
    assert (findings.states["residual_peak"][:, 0] > 5).all()
    assert not findings.alignment


def test_prompts_of_one_token():
    a = rigged("text")
    one = a.encode(request("one", "see"))
    one = replace(one, ids=one.ids[:1], roles=one.roles[:1], positions=one.positions[:, :1], user_texts=())
    findings = collect(a, [one, a.encode(request("many", "what do you see"))], Choice(primary=2))
    rows = by_sample(findings)
    assert rows["one"]["tokens"] == 1
    np.testing.assert_allclose(rows["one"]["alpha_first"], 1)
    alone = by_sample(collect(a, [one], Choice(primary=2)))["one"]
    for name, values in alone.items():
        np.testing.assert_allclose(rows["one"][name], values, rtol=1e-3, atol=1e-4, err_msg=name)
