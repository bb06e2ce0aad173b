"""`sinkbench.attach`: a method on a model that the caller holds, in transformers' loop and in the engine's."""

from dataclasses import replace

import own_loop
import pytest
import random_models
import torch
from harness import (
    ACTIVE,
    CORE_FAMILIES,
    NEUTRAL,
    REFOCUSING,
    SINK_DIMS,
    adapter,
    answers,
    count_hooks,
    folder,
    image,
    method,
    request,
    requests,
)
from transformers import DynamicCache, LlavaForConditionalGeneration, StaticCache

import sinkbench
from sinkbench.adapters import load_adapter, resolve_model
from sinkbench.api import attaching
from sinkbench.errors import UsageError

families = pytest.mark.parametrize("family", CORE_FAMILIES)

REFUSED = {
    "another request": ("carve", "random_crop", "vicrop", "vicrop+pai", "visual_funnel"),
    "drops image tokens": (
        *("divprune", "divprune+pai", "dyvte", "fastervlm", "fastv", "fastv+debias", "fastv-first", "himap"),
        *("himap-late", "pool", "pyramiddrop", "pyramiddrop+debias", "pyramiddrop-keep", "random", "sparsevlm"),
        *("sparsevlm-apart", "sparsevlm-mean", "sparsevlm-plus", "tokencarve", "tokencarve+debias", "uniform"),
        *("vflowopt", "vflowopt-count", "vflowopt-exact", "visiondrop", "visiondrop-schedule", "visionzip"),
        *("visionzip+pai", "visual_exit", "visual_exit-first"),
    ),
    "second branch": ("icd", "sample+vcd", "var+vcd", "vcd"),
    "chooses the tokens": ("beam", "opera", "pai+beam", "sample"),
    "vision encoder": ("dual_stream", "dual_stream-heads"),
}
"""Why transformers' loop cannot run a method: what the error says."""

REASON = {name: reason for reason, names in REFUSED.items() for name in names}
ALL = ACTIVE | REFOCUSING
RUN = sorted(ALL.keys() - REASON.keys())


@pytest.fixture(autouse=True)
def sink_dimensions(monkeypatch):
    """The sink dimensions that a calibration would find on the random models."""
    monkeypatch.setattr(attaching, "resolve_model", lambda name: replace(resolve_model(name), sink_dims=SINK_DIMS))


def attach(a, m, **settings):
    return sinkbench.attach(a.model, a.processor, m, **settings)


def state(model):
    config = model.model.language_model.config
    grads = [parameter.requires_grad for parameter in model.parameters()]
    own = sorted(vars(model)), sorted(vars(model.model.language_model))
    return (
        config._attn_implementation,
        model.config._attn_implementation,
        count_hooks(model),
        model.training,
        grads,
        own,
    )


def test_every_method_is_either_run_or_refused():
    assert set(REASON) < set(ALL)
    assert {"greedy", "act", "damo", "dola", "gift", "iri", "m3id", "pai", "var", "vhr"} < set(RUN)


@families
@pytest.mark.parametrize("name", sorted(REASON))
def test_what_transformers_cannot_do_is_refused_with_its_reason(family, name):
    a = adapter(family)
    before = state(a.model)
    with pytest.raises(UsageError, match=REASON[name]) as refusal, attach(a, method(name)):
        pass
    assert "own_loop=False" in refusal.value.hint
    assert "sinkbench.evaluate" in refusal.value.hint
    assert state(a.model) == before


@families
@pytest.mark.parametrize("name", RUN)
def test_generate_inside_gives_the_engines_answers(family, name):
    """One sample alone; two of unlike lengths, of which one has two images; one without an image beside one with."""
    a, m, asked = adapter(family), method(name), requests()
    by_id = answers(a, m, asked)
    for batch in ([asked[2]], [asked[0], asked[5]], [asked[3], asked[6]]):
        with attach(a, m):
            assert own_loop.texts(a, batch) == [by_id[one.id] for one in batch]


@families
@pytest.mark.parametrize("name", sorted(name for name in NEUTRAL if name in RUN or name.partition("-")[0] in RUN))
def test_neutral_parameters_change_nothing(family, name):
    a, batch = adapter(family), requests()[:2]
    plain, whole = own_loop.texts(a, batch), own_loop.logits(a, batch)
    with attach(a, method(name, NEUTRAL)):
        assert own_loop.texts(a, batch) == plain
        seen = own_loop.inputs(a, batch)["attention_mask"].bool()
        torch.testing.assert_close(own_loop.logits(a, batch)[seen], whole[seen], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["pai", "gift", "var+vhr", "iri+pai"])
@pytest.mark.parametrize("family", ["llava_next", "llava_onevision", "qwen2_vl", "qwen3_vl", "internvl3_5"])
def test_other_families_answer_likewise(family, name):
    a, m, asked = adapter(family), method(name), requests()
    by_id = answers(a, m, asked)
    with attach(a, m):
        assert own_loop.texts(a, asked[:6]) == [by_id[one.id] for one in asked[:6]]


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_model_that_reads_text_only(kind):
    config, settings = random_models.TEXT_KINDS[kind]
    where = random_models.save_text(folder() / f"attached-{kind}", config, **settings)
    a, m = load_adapter(resolve_model(str(where)), "cpu", "float32"), method("dola")
    a.tokenizer.padding_side = "left"
    asked = [request("1", "is there a dog ?"), request("2", "how many red cat do you see ?")]
    by_id = answers(a, m, asked)
    with sinkbench.attach(a.model, a.tokenizer, m) as attached:
        assert own_loop.texts(a, asked) == [by_id["1"], by_id["2"]]
        assert attached.generate([one.messages[0].text for one in asked], max_new_tokens=6) == [by_id["1"], by_id["2"]]


@families
def test_afterwards_the_model_is_as_it_was_found(family):
    a, batch = adapter(family), requests()[:2]
    a.model.train()
    a.model.lm_head.weight.requires_grad_(True)
    try:
        # The first call lets transformers install what it leaves installed.
        plain, whole, before = own_loop.texts(a, batch), own_loop.logits(a, batch), state(a.model)
        with attach(a, method("var+pai")):
            assert own_loop.texts(a, batch) != plain
            assert not a.model.training
        assert state(a.model) == before
        assert own_loop.texts(a, batch) == plain
        assert torch.equal(own_loop.logits(a, batch), whole)
    finally:
        a.model.eval().requires_grad_(False)


@families
@pytest.mark.parametrize("own", [True, False])
def test_an_exception_inside_leaves_the_model_as_it_was_found(family, own):
    a, batch = adapter(family), requests()[:2]
    whole, before = own_loop.logits(a, batch), state(a.model)

    def fail():
        with attach(a, method("pai"), own_loop=own) as attached:
            attached.generate("what do you see ?", max_new_tokens=1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert state(a.model) == before
    assert torch.equal(own_loop.logits(a, batch), whole)


def test_an_exception_inside_a_pass_leaves_the_next_call_in_order():
    a, asked = adapter("llava"), requests()
    m = method("pai")
    expected = answers(a, m, [asked[1]])
    with attach(a, m):
        given = own_loop.inputs(a, [asked[0]])
        with pytest.raises(ValueError, match="do not match"):
            a.model(**{**given, "pixel_values": given["pixel_values"].repeat(2, 1, 1, 1)})
        with pytest.raises(UsageError, match="by itself"):
            a.model.model(**given)
        assert own_loop.texts(a, [asked[1]]) == [*expected.values()]


@families
def test_each_call_starts_afresh(family):
    """Neither calls of one block nor blocks in a row know of each other."""
    a, asked = adapter(family), requests()
    var, pai = (answers(a, method(name), asked) for name in ("var", "pai"))
    for m, by_id in ((method("var"), var), (method("pai"), pai), (method("var"), var)):
        with attach(a, m):
            for one in (asked[0], asked[6], asked[5], asked[0]):
                assert own_loop.texts(a, [one]) == [by_id[one.id]]


def test_a_loop_written_by_hand_gives_the_same():
    """Whether it goes on with the cache that it gave or with the one that it got."""
    a, m = adapter("llava"), method("pai")
    asked = requests()[:1]
    expected = answers(a, m, asked)[asked[0].id]
    for keeps_own in (True, False):
        with attach(a, m), torch.no_grad():
            given, cache, ids = own_loop.inputs(a, asked), DynamicCache(), []
            for _ in range(6):
                output = a.model(**given, past_key_values=cache)
                ids.append(int(output.logits[0, -1].argmax()))
                cache = cache if keeps_own else output.past_key_values
                given = {"input_ids": torch.tensor([ids[-1:]])}
        assert a.decode(ids[: ids.index(a.eos[0])] if a.eos[0] in ids else ids) == expected


def test_answers_longer_than_the_first_room():
    a, asked = adapter("llava"), [request("long", "<image>\nwhat do you see ?", image(0, 60, 30), max_new_tokens=150)]
    asked = [replace(one, generation=replace(one.generation, ignore_eos=True)) for one in asked]
    expected = answers(a, method("pai"), asked)["long"]
    with attach(a, method("pai")):
        given = own_loop.inputs(a, asked)
        ids = a.model.generate(**given, max_new_tokens=150, do_sample=False, eos_token_id=10**6)
    new = ids[0, given["input_ids"].shape[1] :].tolist()
    assert len(new) == 150
    assert a.decode(new) == expected


@families
def test_beams_of_generate_are_those_of_the_method_beam(family):
    a, asked = adapter(family), requests()[:2]
    expected = answers(a, method("pai+beam"), asked)
    with attach(a, method("pai")):
        assert own_loop.texts(a, asked, num_beams=3) == [expected[one.id] for one in asked]


@families
def test_the_other_rows_are_the_models_where_the_method_acts(family):
    """VAF edits from the suffix on: what was read before it is as it was, and what comes after is not."""
    a, one = adapter(family), requests()[0]
    plain = own_loop.logits(a, [one])[0]
    with attach(a, method("vaf")):
        edited = own_loop.logits(a, [one])[0]
    end = a.encode(one).prefix_length
    torch.testing.assert_close(edited[:end], plain[:end], atol=2e-4, rtol=1e-4)
    assert ((edited[end:] - plain[end:]).abs().amax(-1) > 1e-3).any()


@families
@pytest.mark.parametrize("name", ["vcd", "fastv", "carve", "sample", "beam", "dual_stream", "pai"])
def test_the_engine_answers_under_every_method(family, name):
    a, m = adapter(family), method(name)
    asked = [replace(one, id=str(number)) for number, one in enumerate(requests())]
    expected = answers(a, m, asked)
    prompts, images = [one.messages[0].text for one in asked], [list(one.images) for one in asked]
    own = name == "pai"
    with attach(a, m, own_loop=own) as attached:
        given = [[ref.path for ref in refs] or None for refs in images]
        assert attached.generate(prompts, given, max_new_tokens=6) == [expected[one.id] for one in asked]
        if not own:
            with pytest.raises(UsageError, match=f"without {name}"):
                own_loop.logits(a, asked[:1])


def test_images_may_be_files_and_need_no_placeholder(tmp_path):
    a, ref = adapter("llava"), image(1, 30, 60)
    with attach(a, "greedy") as attached:
        named = attached.generate(["<image>\nwhat do you see ?"], [ref.load()], max_new_tokens=4)
        assert attached.generate("what do you see ?", ref.path, max_new_tokens=4) == named
        assert attached.generate(["what do you see ?"], [[ref.path]], max_new_tokens=4) == named
        with pytest.raises(UsageError, match="2 prompts and images for 1"):
            attached.generate(["one ?", "two ?"], [ref.path])
        with pytest.raises(UsageError, match=r"gone\.png is no file"):
            attached.generate("one ?", str(tmp_path / "gone.png"))
        with pytest.raises(sinkbench.IncompleteError, match="2 image tokens for 1 images"):
            attached.generate("<image> <image> one ?", ref.path)
    with pytest.raises(UsageError, match="no longer attached"):
        attached.generate("one ?")


def test_a_model_is_attached_once_at_a_time():
    a = adapter("llava")
    with attach(a, "greedy"):
        with pytest.raises(UsageError, match="attached already") as error, attach(a, "pai"):
            pass
        assert "var+pai" in error.value.hint
    with attach(a, "pai"):
        pass


def test_a_model_of_no_supported_family_is_refused():
    a = adapter("llava")
    with pytest.raises(UsageError, match="Linear is a model of no supported family") as error:
        sinkbench.attach(torch.nn.Linear(1, 1), a.processor).__enter__()
    assert "llava_next" in error.value.hint
    with pytest.raises(UsageError, match="no head"):
        sinkbench.attach(a.model.model, a.processor).__enter__()
    with pytest.raises(UsageError, match="is no processor of LlavaForConditionalGeneration"):
        sinkbench.attach(a.model, None).__enter__()


def test_names_and_parameters_are_checked():
    a = adapter("llava")
    for settings, problem in (
        ({"method": "pia"}, "unknown method 'pia'"),
        ({"method": "pai", "params": {"alhpa": 1.0}}, "pai.alhpa"),
        ({"method": "debias"}, "does nothing by itself"),
        ({"method": method("pai"), "params": {"alpha": 1.0}}, "beside a Pai"),
        ({"method": "pai", "preset": "tiny-qwen"}, "family qwen_vl, the model of llava"),
    ):
        with pytest.raises(UsageError, match=problem):
            sinkbench.attach(a.model, a.processor, **settings).__enter__()
    with sinkbench.attach(a.model, a.processor, "pai", params={"alpha": 0.25}) as attached:
        assert attached.method.params()["alpha"] == 0.25


def test_var_without_sink_dimensions_says_how_to_find_them(monkeypatch):
    monkeypatch.setattr(attaching, "resolve_model", resolve_model)
    a = adapter("llava")
    with pytest.raises(UsageError, match="needs the sink dimensions of llava-0") as error, attach(a, "var"):
        pass
    assert "calibrate var" in error.value.hint


def test_a_preset_gives_what_is_known_of_the_model(monkeypatch):
    monkeypatch.setattr(attaching, "resolve_model", resolve_model)
    preset = resolve_model("tiny-llava")
    model = LlavaForConditionalGeneration.from_pretrained(preset.location)
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(preset.location)
    with sinkbench.attach(model, processor, "var", preset="tiny-llava") as attached:
        assert attached._engine.adapter.info.sink_dims == preset.sink_dims != ()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"use_cache": False}, "use_cache=False"),
        ({"output_attentions": True}, "output_attentions"),
        ({"output_hidden_states": True}, "output_hidden_states"),
        ({"return_dict": False}, "return_dict=False"),
        ({"logits_to_keep": torch.tensor([0])}, "logits_to_keep"),
        ({"attention_mask": torch.ones(1, 1, 8, 8)}, "mask made by hand"),
    ],
)
def test_calls_that_cannot_be_right_are_refused(change, problem):
    a = adapter("llava")
    with attach(a, "greedy"), pytest.raises(UsageError, match=problem):
        a.model(**{**own_loop.inputs(a, requests()[:1]), **change})


def test_what_no_template_writes_is_refused():
    a = adapter("llava")
    given = own_loop.inputs(a, requests()[:1])
    with attach(a, "greedy"):
        with pytest.raises(UsageError, match=r"row 0 of input_ids: .* chat template") as error:
            a.model(**{**given, "input_ids": given["input_ids"][:, :-1], "attention_mask": None})
        assert "add_generation_prompt=True" in error.value.hint
        with pytest.raises(UsageError, match="input_ids"):
            a.model(inputs_embeds=torch.zeros(1, 3, 64))
        padded = own_loop.inputs(a, requests()[:2])
        with pytest.raises(UsageError, match="padded on the left"):
            a.model(**{**padded, "attention_mask": padded["attention_mask"].flip(1)})


def test_caches_are_not_carried_over():
    a, asked = adapter("llava"), requests()[:1]
    given = own_loop.inputs(a, asked)
    with torch.no_grad():
        filled = a.model(**given).past_key_values
    one = {"input_ids": torch.tensor([[7]])}
    with attach(a, "pai"), torch.no_grad():
        with pytest.raises(UsageError, match="outside this `with` block"):
            a.model(**one, past_key_values=filled)
        with pytest.raises(UsageError, match="static cache"):
            a.model(**given, past_key_values=StaticCache(a.language_model.config, 64))
        cache = a.model(**given).past_key_values
        with pytest.raises(UsageError, match="continue 1 answers"):
            a.model(input_ids=torch.tensor([[7, 8]]), past_key_values=cache)
        with pytest.raises(UsageError, match="tokens were read before"):
            a.model(**one, attention_mask=given["attention_mask"], past_key_values=cache)
    with attach(a, "pai"), torch.no_grad(), pytest.raises(UsageError, match="another `with` block"):
        a.model(**one, past_key_values=cache)
    with torch.no_grad(), pytest.raises(UsageError, match="read by the plain model"):
        a.model(**one, past_key_values=cache)
