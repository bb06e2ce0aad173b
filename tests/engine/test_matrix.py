"""The correctness matrix: every family × every method, float32, on tiny random models.

SINKBENCH_ALL_FAMILIES=1 runs every method on every model of each family, which takes three times as long.
"""

from itertools import product

import pytest
import torch
from harness import (
    ACTIVE,
    DECODING,
    FAMILIES,
    NEUTRAL,
    REFOCUSING,
    adapter,
    answers,
    close,
    forced_tokens,
    logits,
    method,
    pairs,
    reference,
    reference_answers,
    requests,
    stream,
)

from sinkbench.engine.context import Stage
from sinkbench.engine.generate import Engine
from sinkbench.methods.base import Intervention, Method

WITHOUT_IMAGE = (
    *("dual_stream-heads", "gift", "image_scale", "image_scale-mul", "mma_mask", "no_vis_vis", "no_vis_vis-alone"),
    *("no_vis_vis-bypass", "pai-attention", "sparc", "vaf", "var", "vhr"),
)
"""Methods that find nothing to edit where there is no image."""

families = pytest.mark.parametrize("family", FAMILIES)
active = pytest.mark.parametrize(("family", "name"), pairs(ACTIVE))
edits = pytest.mark.parametrize(("family", "name"), pairs(name for name in ACTIVE if name not in DECODING))
chooses = pytest.mark.parametrize(("family", "name"), pairs(name for name in DECODING if name != "greedy"))
answering = pytest.mark.parametrize(("family", "name"), pairs([*ACTIVE, *REFOCUSING]))


@torch.inference_mode()
def plain_generate(a, request) -> tuple[str, torch.Tensor]:
    """Answer and first-step logits (V,) of transformers' own generate, sdpa, batch 1."""
    text, _ = a._render(request)
    # Nested: one list of images for the one text, by which processors tell several images in a prompt.
    images = [[image.load() for image in request.images]] if request.images else None
    inputs = a.processor(text=text, images=images, return_tensors="pt", add_special_tokens=False)
    out = a.model.generate(
        **inputs,
        max_new_tokens=request.generation.max_new_tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return a.decode(out.sequences[0, inputs["input_ids"].shape[1] :].tolist()), out.logits[0][0]


@pytest.mark.parametrize(("family", "name"), pairs(NEUTRAL))
def test_neutral_parameters_equal_plain_generate(family, name):
    a, asked = adapter(family), requests()
    neutral = method(name, NEUTRAL)
    ours = answers(a, neutral, asked)
    first = logits(a, neutral, asked, forced_tokens(len(asked), 0))[:, 0]
    for row, request in zip(first, asked, strict=True):
        text, reference = plain_generate(a, request)
        assert ours[request.id] == text
        torch.testing.assert_close(row, reference, atol=2e-4, rtol=1e-4)


@edits
def test_active_parameters_change_the_logits(family, name):
    """Without this, every other test of the matrix could pass on a method that never acts."""
    asked = requests()
    edited, plain = (reference(family, m).log_softmax(-1) for m in (name, "greedy"))
    for index, request in enumerate(asked):
        difference = (edited[index] - plain[index]).nan_to_num(neginf=-1e3).abs().amax()
        if request.images:
            assert difference > 1e-3, request.id
        elif name in WITHOUT_IMAGE:
            assert difference < 1e-4, "without an image there is nothing to edit"


@chooses
def test_another_choice_of_tokens_gives_other_answers_from_the_same_logits(family, name):
    assert torch.equal(reference(family, name), reference(family, "greedy"))
    chosen, greedy = (reference_answers(family, m) for m in (name, "greedy"))
    assert sum(chosen[key] != greedy[key] for key in greedy) >= 2


@active
def test_batch_equals_singles(family, name):
    a, asked, m = adapter(family), requests(), method(name)
    forced, together = forced_tokens(len(asked)), reference(family, name)
    for index, request in enumerate(asked):
        close(together[index], logits(a, m, [request], forced[index : index + 1])[0])


@answering
def test_a_batch_is_answered_like_singles(family, name):
    a, asked, m = adapter(family), requests(), method(name)
    assert reference_answers(family, name) == answers(a, m, asked, batch_size=1)


@active
def test_shared_prefix_equals_unshared(family, name):
    a, asked, m = adapter(family), requests(), method(name)
    close(reference(family, name), logits(a, m, asked, forced_tokens(len(asked)), share=False))


@answering
def test_answers_do_not_depend_on_sharing(family, name):
    a, asked, m = adapter(family), requests(), method(name)
    assert reference_answers(family, name) == answers(a, m, asked, share_prefix=False)


@answering
def test_order_of_samples_is_irrelevant(family, name):
    a, asked, m = adapter(family), requests(), method(name)
    assert reference_answers(family, name) == answers(a, m, asked[::-1], batch_size=3)


@answering
def test_nothing_leaks_between_batches(family, name):
    a, asked, m = adapter(family), requests(), method(name)
    fresh = answers(a, m, asked[3:])
    engine = Engine(a, m)
    list(engine.answer(asked[:3]))
    again = {r.id: r.text for batch in engine.answer(asked[3:]) for r in batch}
    assert again == fresh


@active
def test_dropping_finished_rows_changes_nothing(family, name):
    a, asked, m = adapter(family), requests(), method(name)
    forced, full = forced_tokens(len(asked)), reference(family, name)
    # The last of the requests has no image: what is left of the batch then has no prefix.
    for static, kept in product((False, True), (torch.tensor([5, 0, 2]), torch.tensor([6]))):
        main = stream(a, m, asked, 3, static=static)
        with torch.inference_mode():
            main.prefill()
            main.step(forced[:, 0])
            main.keep(kept)
            close(main.step(forced[kept, 1]), full[kept, 2])


@active
def test_counting_on_the_device_changes_nothing(family, name):
    """Decode passes of fixed shapes, as captured on a GPU, see empty slots; none may count."""
    a, asked, m = adapter(family), requests(), method(name)
    close(logits(a, m, asked, forced_tokens(len(asked)), static=True), reference(family, name))


@active
def test_prefixes_in_several_passes_equal_one(family, name):
    a, asked, m = adapter(family), requests(), method(name)
    forced = forced_tokens(len(asked))[:, :2]
    close(logits(a, m, asked, forced, pass_tokens=1), reference(family, name)[:, :3])


@families
def test_methods_that_share_a_prefix_answer_as_each_alone(family):
    a, asked = adapter(family), requests()
    methods = {name: method(name) for name in (*ACTIVE, *REFOCUSING)}
    together: dict[str, dict[str, str]] = {name: {} for name in methods}
    engine = Engine(a, methods)
    for name, responses in engine.sweep(asked, lambda *_: True):
        together[name] |= {response.id: response.text for response in responses}
    assert together == {name: reference_answers(family, name) for name in methods}


@answering
def test_the_model_is_left_as_it_was_found(family, name):
    a, asked = adapter(family), requests()
    config = a.language_model.config
    before = config._attn_implementation, [len(layer._forward_pre_hooks) for layer in a.layers]
    plain = plain_generate(a, asked[0])[1]
    answers(a, method(name), asked)
    assert (config._attn_implementation, [len(layer._forward_pre_hooks) for layer in a.layers]) == before
    assert torch.equal(plain_generate(a, asked[0])[1], plain)


@families
def test_an_exception_inside_a_pass_restores_the_model(family):
    a, asked = adapter(family), requests()
    engine = Engine(a, method("var"))

    def explode(*_):
        raise ZeroDivisionError

    engine.lanes["var"].method.scale_groups = explode  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        list(engine.answer(asked))
    assert a.language_model.config._attn_implementation == "sdpa"
    assert not any(layer._forward_pre_hooks for layer in a.layers)


@families
def test_sampling_does_not_depend_on_the_batch(family):
    a = adapter(family)
    from dataclasses import replace

    asked = [
        replace(r, generation=replace(r.generation, do_sample=True, temperature=1.5, top_p=0.9)) for r in requests()
    ]
    m = method("greedy")
    together = answers(a, m, asked)
    assert together == answers(a, m, asked, batch_size=1)
    assert together != answers(a, m, asked, seed=1)


class ScalesPrefix(Method):
    """Edits the prefix: halves every head's output at image tokens."""

    name = "scales-prefix"
    summary = ""
    paper = None
    edits = Stage.PREFIX

    class Bound(Intervention):
        def edit_heads(self, layer, heads, ctx):
            return heads * 0.5 if ctx.stage is Stage.PREFIX else heads

    def bind(self, model):
        return self.Bound()


@families
def test_a_method_that_edits_the_prefix_has_one_of_its_own(family):
    a, asked = adapter(family), requests()
    forced = forced_tokens(len(asked), 2)
    edited, plain = (logits(a, m, asked, forced) for m in (ScalesPrefix(), method("greedy")))
    for row, request in enumerate(asked):
        assert ((edited[row] - plain[row]).abs().max() > 1e-3) == bool(request.images)
    close(edited, torch.cat([logits(a, ScalesPrefix(), [r], f[None]) for r, f in zip(asked, forced, strict=True)]))
    engine = Engine(a, {"edits": ScalesPrefix(), "greedy": method("greedy")})
    together: dict[str, dict[str, str]] = {"edits": {}, "greedy": {}}
    for name, responses in engine.sweep(asked, lambda *_: True):
        together[name] |= {response.id: response.text for response in responses}
    assert together["greedy"] == answers(a, method("greedy"), asked)
    assert together["edits"] == answers(a, ScalesPrefix(), asked)
    assert together["edits"] != together["greedy"]
