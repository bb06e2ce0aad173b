"""VCD: the published numbers, the noise, the second branch that sees noisy images."""

import pytest
import torch
from harness import adapter, answers, image, method, request, requests, stream
from vectors import load, same_as

from sinkbench.engine import generate
from sinkbench.engine.generate import Engine
from sinkbench.engine.prefix import add_edited, prefill_prefixes
from sinkbench.engine.prompt import EditedImage
from sinkbench.engine.stream import contrast_prompts
from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.methods.base import Intervention
from sinkbench.methods.contrastive import contrast
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.vcd import Vcd, VcdIntervention, coefficients

INFO = ModelInfo("m", n_layers=4, n_heads=4, n_kv_heads=4, hidden_size=16)


class GivenNoise:
    """A generator's stand-in: `torch.randn` returns the noise of the vectors."""

    def __init__(self, noise):
        self.noise = noise

    def __call__(self, shape, generator):
        assert shape == self.noise.shape
        return self.noise


def test_vectors(request, monkeypatch):
    for vector in load(request, "vcd", "main"):
        signal, noise = coefficients()
        torch.testing.assert_close(signal, vector["signal_coef"].float(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(noise, vector["noise_coef"].float(), atol=1e-6, rtol=1e-5)
        monkeypatch.setattr(torch, "randn", GivenNoise(vector["noise"]))
        for step in vector.params["steps"]:
            bound = Vcd(noise_step=step).bind(INFO)
            noisy = bound.edit_image({"pixel_values": vector["image"]}, "vcd", "key")["pixel_values"]
            torch.testing.assert_close(noisy, vector[f"noisy_t{step}"], atol=vector.tolerance["noisy_atol"], rtol=0)
        method = Vcd(alpha=vector.params["alpha"], beta=vector.params["beta"])
        scores = contrast(vector["cond_logits"], vector["contrast_logits"], method.alpha, method.beta)
        same_as(scores, vector["out_logits"], vector.tolerance["logits_atol"])


def test_noise_depends_on_the_image_and_the_seed_alone():
    pixels = {"pixel_values": torch.zeros(3, 8, 8), "other": torch.ones(2)}
    bound, edit = Vcd(noise_step=900).bind(INFO), "vcd/900/0"
    first = bound.edit_image(pixels, edit, "a")
    assert first["other"] is pixels["other"]
    assert first["pixel_values"].equal(bound.edit_image(pixels, edit, "a")["pixel_values"])
    assert not first["pixel_values"].equal(bound.edit_image(pixels, edit, "b")["pixel_values"])
    assert not first["pixel_values"].equal(bound.edit_image(pixels, "vcd/900/1", "a")["pixel_values"])
    assert float(first["pixel_values"].std()) == pytest.approx(float(coefficients()[1][900]), rel=0.15)


def test_the_branch_sees_noisy_images_and_unchanged_words():
    a, bound = adapter("llava"), Vcd(noise_step=999).bind(adapter("llava").info)
    prompts = [a.encode(r) for r in requests()]
    branches = contrast_prompts(a, bound, prompts)
    inputs = {ref.key: a.preprocess(ref) for prompt in prompts for ref in prompt.images}
    known = add_edited(bound, branches, inputs)
    for prompt, branch in zip(prompts, branches, strict=True):
        assert branch.ids.equal(prompt.ids)
        for ref, edited in zip(prompt.images, branch.images, strict=True):
            assert not known[edited.key].tensors["pixel_values"].allclose(known[ref.key].tensors["pixel_values"])
            assert known[ref.key] is inputs[ref.key]


def test_the_branch_is_the_model_on_noisy_pixels():
    """Its logits are those of a plain run whose image is replaced by the noisy one."""
    a, asked = adapter("llava"), request("r", "<image>\nwhat do you see ?", image(0, 60, 30))
    prompt, seen = a.encode(asked), []

    class Spy(VcdIntervention):
        def edit_logits(self, logits, ctx):
            seen.append(ctx.contrast_logits)
            return logits

    class Look(Intervention):
        def edit_logits(self, logits, ctx):
            seen.append(logits)
            return logits

    bound = Spy(Vcd(noise_step=800))
    clear = {prompt.images[0].key: a.preprocess(prompt.images[0])}
    (branch,) = contrast_prompts(a, bound, [prompt])
    noisy = {prompt.images[0].key: add_edited(bound, [branch], clear)[branch.images[0].key]}
    for intervention, inputs in ((bound, clear), (Look(), noisy)):
        engine = Engine(a, get_method("greedy"))
        engine.lanes["greedy"].method = intervention
        engine.generate([prompt], inputs)
    torch.testing.assert_close(seen[0], seen[len(seen) // 2], atol=1e-4, rtol=1e-4)


def test_other_methods_of_a_sweep_do_not_pay_for_the_branch(monkeypatch):
    """Noisy images and their prefixes are made for VCD alone."""
    a, asked, ran = adapter("llava"), requests(), {}

    def spy(adapter, methods, prompts, *args, **options):
        edited = any(isinstance(ref, EditedImage) for prompt in prompts for ref in prompt.images)
        ran[tuple(methods)] = edited
        return prefill_prefixes(adapter, methods, prompts, *args, **options)

    monkeypatch.setattr(generate, "prefill_prefixes", spy)
    engine = Engine(a, {name: method(name) for name in ("greedy", "vcd", "var")})
    found = {name: {} for name in engine.lanes}
    for name, responses in engine.sweep(asked, lambda *_: True):
        found[name] |= {response.id: response.text for response in responses}
    assert ran == {("greedy",): False, ("var",): False, ("vcd",): True}
    assert found == {name: answers(a, method(name), asked) for name in found}


def test_neutral_parameters_answer_greedily():
    """With α = 0 the second branch does not count; with β = 1 only the most probable token is left."""
    a, asked = adapter("llava"), requests()
    assert answers(a, Vcd(alpha=0.0), asked) == answers(a, method("greedy"), asked)
    assert answers(a, Vcd(beta=1.0), asked) == answers(a, method("greedy"), asked)


def test_bad_values_and_compositions():
    with pytest.raises(UsageError, match="no share"):
        Vcd(beta=0.0)
    with pytest.raises(UsageError, match="noise_step=1000"):
        Vcd(noise_step=1000)
    with pytest.raises(UsageError, match="each contrast"):
        get_method("vcd+pai")
    assert stream(adapter("llava"), get_method("vcd+var"), requests(), 1).branch_prefix
