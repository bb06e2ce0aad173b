"""Marks that a method makes in the images: one look at each image, and every value in its token's place."""

import pytest
import torch
from harness import (
    FAMILIES,
    adapter,
    answers,
    features,
    image,
    method,
    open_stream,
    preprocessed,
    request,
    requests,
)

from sinkbench.engine.context import Role, Stage
from sinkbench.engine.generate import Engine
from sinkbench.engine.marks import all_marks, mark_images
from sinkbench.engine.observe import observe
from sinkbench.methods import get_method
from sinkbench.methods.base import Intervention
from sinkbench.methods.composed import ComposedIntervention

MARK = "numbers"


class Numbers(Intervention):
    """Numbers an image's patches from 1 on, and adds one weight of the image's attention, by which images differ."""

    vision_layers = (0, -1)

    def __init__(self, branch=None):
        self.shown, self.passes, self.branch = [], [], branch

    def token_marks(self, prompt):
        return {"own": prompt.roles}

    def mark_patches(self, attention, class_tokens):
        self.shown.append(tuple(attention))
        views, _, tokens, _ = attention[0].shape
        count = views * (tokens - class_tokens)
        return {MARK: torch.arange(1.0, count + 1).view(views, -1) + attention[0][0, 0, -1, -1]}

    def contrast(self, prompt):
        return self.branch(prompt) if self.branch else None

    def edit_image(self, tensors, edit, key):
        return tensors

    def rows(self, layer, ctx):
        if layer == 0:
            self.passes.append((ctx.stage, ctx.state.get(MARK), ctx.roles))
        return None


def expected(a, prompt) -> torch.Tensor:
    """(L,): image after image by hand, each alone."""
    marks = torch.zeros(len(prompt))
    places = iter((prompt.ids == a.image_token).nonzero().flatten().tolist())
    for inputs in (a.preprocess(ref) for ref in prompt.images):
        attention = a.vision_attentions([inputs], (0, -1))[0]
        values = Numbers().mark_patches(attention, a.class_tokens)[MARK]
        for value in a.patch_values_to_tokens(values, inputs).tolist():
            marks[next(places)] = value
    assert next(places, None) is None
    return marks


def without_images(prompt):
    return prompt.without_images()


def edited_images(prompt):
    return prompt.with_edited_images("same")


@torch.inference_mode()
def run(a, bound, asked, **options):
    """The bound method after a prefill and two decode passes."""
    stream = open_stream(a, bound, [a.encode(r) for r in asked], features(a, asked, bound), 2, **options)
    stream.prefill()
    for token in (7, 8):
        stream.step(torch.full((len(asked),), token))
    return bound


@pytest.mark.parametrize("options", [{}, {"share": False}, {"pass_tokens": 1}, {"static": True}])
@pytest.mark.parametrize("branch", [None, without_images, edited_images])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_token_has_the_value_of_its_patches(family, branch, options):
    """Two images in a prompt, none, shared prefixes, padding on either side, a second branch."""
    a, asked = adapter(family), requests()
    prompts = [a.encode(r) for r in asked]
    watched = run(a, Numbers(branch), asked, **options)
    by_hand = [expected(a, prompt) for prompt in prompts]
    seen = {stage: (marks, roles) for stage, marks, roles in watched.passes if marks is not None}
    assert set(seen) == {Stage.PREFIX, Stage.SUFFIX, Stage.DECODE}
    for stage in (Stage.SUFFIX, Stage.DECODE):
        marks, roles = seen[stage]
        roles = roles[:, : marks.shape[1]]
        for row, (prompt, wanted) in enumerate(zip(prompts, by_hand, strict=True)):
            valid = roles[row] != Role.PAD
            torch.testing.assert_close(marks[row][valid], wanted, atol=1e-4, rtol=0)
            assert not marks[row][~valid].any()
            assert (wanted[prompt.roles == Role.IMAGE] > 0).all()
        branches = marks[len(prompts) :]
        assert not branches.any()
    # Prefixes: with pass_tokens=1 each is a pass of its own.
    for marks, roles in ((marks, roles) for stage, marks, roles in watched.passes if stage is Stage.PREFIX):
        assert marks.shape == roles.shape
        assert not marks[roles != Role.IMAGE].any()


def test_a_batch_without_images_has_no_names():
    watched = run(adapter("llava"), Numbers(), [request("one", "one ?"), request("two", "are there two ?")])
    assert not watched.shown
    assert [marks for _, marks, _ in watched.passes] == [None] * 3


def test_each_image_is_looked_at_once_whatever_the_step(monkeypatch):
    a, asked = adapter("internvl"), requests()
    prompts = [a.encode(r) for r in asked]
    keys = {ref.key for prompt in prompts for ref in prompt.images}
    together, one_by_one = Numbers(), Numbers()
    marks = mark_images(a, together, prompts, preprocessed(a, prompts))
    assert set(marks) == keys
    assert len(together.shown) == len(keys)
    monkeypatch.setattr("sinkbench.engine.marks._FEATURES", 1)
    alone = mark_images(a, one_by_one, prompts, preprocessed(a, prompts))
    assert len(one_by_one.shown) == len(keys)
    for key in keys:
        torch.testing.assert_close(marks[key][MARK], alone[key][MARK])


def test_prompts_of_other_methods_are_not_marked():
    """In a sweep the prefixes of all methods' prompts are run together, the images of one's own alone are looked at."""
    a = adapter("llava")
    prompts = [a.encode(r) for r in requests()]
    marks = mark_images(a, Numbers(), prompts[:1], preprocessed(a, prompts))
    assert set(marks) == {prompts[0].images[0].key}
    by_prompt = all_marks(Numbers(), prompts, marks)
    assert [set(own) for own in by_prompt] == [{"own", MARK}] * len(prompts)
    # The first three are about one image, the sixth is about this one and another.
    assert [bool(own[MARK].any()) for own in by_prompt] == [True, True, True, False, False, False, False]


def test_who_looks_pays_for_it_and_shares_the_prefix(monkeypatch):
    a, asked = adapter("llava"), requests()
    methods = {"greedy": get_method("greedy"), "dual_stream": method("dual_stream-heads")}
    engine, ran = Engine(a, methods), []
    monkeypatch.setattr(engine, "_since", lambda start: 1.0)
    mark, prefill = engine._mark, engine._prefill
    monkeypatch.setattr(engine, "_mark", lambda name, *rest: (mark(name, *rest)[0], {"dual_stream": 10.0}.get(name, 0)))
    monkeypatch.setattr(engine, "_prefill", lambda names, *rest: ran.append(list(names)) or prefill(names, *rest))
    together = {name: {} for name in methods}
    for name, responses in engine.sweep(asked, lambda name, r: name == "greedy" or r.id != "tall/dog"):
        together[name] |= {response.id: response.text for response in responses}
    assert ran == [["greedy", "dual_stream"]]
    assert together["greedy"] == answers(a, methods["greedy"], asked)
    assert together["dual_stream"] == answers(a, methods["dual_stream"], [r for r in asked if r.id != "tall/dog"])
    assert {name: lane.timings.vision_s for name, lane in engine.lanes.items()} == {"greedy": 1.0, "dual_stream": 11.0}


def test_who_reads_the_prefix_has_a_pass_of_its_own(monkeypatch):
    """What GIFT's rows in the prefix and CARVE's looks cost must not count as greedy's time."""
    a, asked = adapter("llava"), requests()
    methods = {name: method(name) for name in ("greedy", "gift", "image_scale", "var")}
    methods["carve"] = get_method("carve", {"tokens": 4})
    engine, ran = Engine(a, methods), []
    prefill = engine._prefill
    monkeypatch.setattr(engine, "_prefill", lambda names, *rest: ran.append(sorted(names)) or prefill(names, *rest))
    list(engine.sweep(asked, lambda *_: True))
    # The last pass answers what CARVE asks in the end.
    assert ran[:3] == [["greedy", "image_scale"], ["gift", "var"], ["carve"]]


def test_a_probe_has_its_marks():
    a, asked = adapter("llava"), requests()
    prompts = [a.encode(r) for r in asked]
    (seen,) = observe(a, Numbers(), prompts)
    for row, prompt in enumerate(seen.prompts):
        torch.testing.assert_close(seen.cut(seen.state[MARK], row), expected(a, prompt), atol=1e-4, rtol=0)


def test_the_parts_of_a_composition_each_see_their_layers():
    class First(Intervention):
        vision_layers = (-1,)

        def mark_patches(self, attention, class_tokens):
            (self.last,) = attention
            return {"first": attention[0][:, 0, 0, class_tokens:]}

    a, first, numbers = adapter("llava_next"), First(), Numbers()
    both = ComposedIntervention([first, get_method("vaf").bind(a.info), numbers])
    assert both.vision_layers == (-1, 0)
    prompts = [a.encode(r) for r in requests()[:1]]
    (marks,) = mark_images(a, both, prompts, preprocessed(a, prompts)).values()
    assert set(marks) == {"first", MARK}
    own = numbers.shown[-1]
    assert torch.equal(own[1], first.last)
    assert not torch.equal(own[0], own[1])
    assert ComposedIntervention([get_method("vaf").bind(a.info)]).vision_layers == ()


def test_marks_keep_their_kind():
    class Kinds(Intervention):
        vision_layers = (0,)

        def mark_patches(self, attention, class_tokens):
            values = attention[0][:, 0, 0, class_tokens:]
            return {"bool": values > values.median(), "int": (values > 0).long(), "float": values}

    a = adapter("internvl")
    prompts = [a.encode(request("r", "<image> is there a cat ?", image(0, 60, 30)))]
    (own,) = all_marks(Kinds(), prompts, mark_images(a, Kinds(), prompts, preprocessed(a, prompts)))
    assert [own[kind].dtype for kind in ("bool", "int", "float")] == [torch.bool, torch.int64, torch.float32]


def test_who_looks_must_mark():
    a = adapter("llava")

    class Looks(Intervention):
        vision_layers = (0,)

    prompts = [a.encode(r) for r in requests()]
    with pytest.raises(NotImplementedError, match="Looks looks at the vision encoder"):
        mark_images(a, Looks(), prompts, preprocessed(a, prompts))
    assert mark_images(a, Intervention(), prompts, {}) == {}
