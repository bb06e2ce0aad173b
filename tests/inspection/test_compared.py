"""Views of one question: shares, which row is shown, what is said of it, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from harness import adapter, image, method, request
from scenes_folder import write_scenes

from sinkbench import runner
from sinkbench.adapters import resolve_model
from sinkbench.errors import UsageError
from sinkbench.inspection.compared import Compared, Comparison, MethodView, compare
from sinkbench.inspection.sample import Question
from sinkbench.methods import get_method
from sinkbench.spec import RunSpec
from sinkbench.store import RunStore


def asked(**generation):
    return request("wide/dog", "<image>\nis there a dog in the image ?", image(0, 60, 30), **generation)


def views(*names, step=None, of=None):
    methods = {name: method(name) for name in ("greedy", *names)}
    return compare(adapter("llava"), methods, of or asked(), step)


def view(name="greedy", maps=None, kept=None, total=None, **changes):
    """A made-up view: two layers, two heads, three image tokens."""
    maps = np.array(maps if maps is not None else np.full((2, 2, 3), 0.1), dtype=np.float32)
    return MethodView(
        name,
        {},
        "yes",
        adapter("llava").encode(asked()),
        maps,
        np.ones((2, 3), dtype=bool) if kept is None else np.array(kept),
        np.ones((2, 2), dtype=np.float32) if total is None else np.array(total, dtype=np.float32),
        changes.get("first_edit"),
        changes.get("on_logits", False),
        [],
    )


def test_shares_by_hand():
    one = view(
        maps=[[[0.1, 0.2, 0.1], [0.0, 0.0, 0.2]], [[0.5, 0.5, 0.2], [0.3, 0.0, 0.0]]], total=[[1.0, 1.0], [1.5, 1.0]]
    )
    np.testing.assert_allclose(one.shares, [[0.4, 0.2], [0.8, 0.3]], atol=1e-6)
    np.testing.assert_allclose(one.by_layer, [0.3, 0.55], atol=1e-6)
    np.testing.assert_allclose(one.heat(None), [0.225, 0.175, 0.125], atol=1e-6)
    np.testing.assert_allclose(one.heat(1), [0.4, 0.25, 0.1], atol=1e-6)
    assert not one.sums_to_one


def test_dropped_tokens_are_those_of_the_layer_drawn():
    one = view(kept=[[True, True, True], [True, False, True]])
    assert one.dropped(None).tolist() == [False, True, False]
    assert one.dropped(0).tolist() == [False, False, False]


@pytest.mark.parametrize(
    ("after", "step", "note"),
    [
        (view("m"), 0, "attention of this row unchanged"),
        (view("m", first_edit=2), 0, "attention of this row unchanged; it edits later rows: --step 2"),
        (view("m", on_logits=True), 0, "attention unchanged by construction: it acts behind the last layer"),
        (view("m", maps=np.full((2, 2, 3), 0.2)), 0, ""),
        (view("m", maps=np.full((2, 2, 3), 0.2), total=np.full((2, 2), 1.25)), 0, "edited rows sum to 1.25 to 1.25"),
        (
            view("m", maps=np.full((2, 2, 3), 0.2), kept=[[True] * 3, [True, False, False]]),
            0,
            "1 of 3 image tokens left in the last layer",
        ),
        (
            replace(view("m", maps=np.full((2, 2, 3), 0.2)), answer="no"),
            1,
            "the answers differ, so the tokens before this row may too",
        ),
    ],
)
def test_what_is_said_of_a_view(after, step, note):
    before = view()
    seen = Compared([before, after], step, 1e-5)
    assert seen.note(after) == note
    assert seen.note(before) == ""


def test_the_prompts_last_row_is_shown_where_a_method_edits_it():
    seen = views("pai", "sparc")
    assert (seen.step, seen.row) == (0, "the prompt's last row")
    assert seen.note(seen.views[1]) == ""
    assert seen.note(seen.views[2]).endswith("it edits later rows: --step 2")


def test_else_the_first_row_that_one_edits():
    seen = views("sparc", "vcd")
    assert (seen.step, seen.row) == (2, "the row of generated token 2")
    assert np.abs(seen.views[1].maps - seen.before.maps).max() > 1e-3
    assert seen.views[1].first_edit == 2


def test_a_row_that_is_asked_for_is_shown():
    assert views("sparc", step=0).step == 0
    assert views("sparc", step=3).row == "the row of generated token 3"


def test_pruned_maps_are_zero_where_nothing_is_left():
    one = views("fastv").views[1]
    assert one.kept[1].all()
    assert one.kept[2].sum() == 6
    assert (one.maps[2:][:, :, ~one.kept[2]] == 0).all()
    assert (one.maps[2][:, one.kept[2]] > 0).all()


def test_tokens_selected_before_the_model_stand_where_they_stood():
    """`random` keeps what a seeded draw says, sorted; of both images, each by itself."""
    both = request("two", "<image> is there a cat <image> what do you see ?", image(0, 60, 30), image(2, 50, 50))
    one = views("random", of=both).views[1]
    drawn = torch.randperm(16, generator=torch.Generator().manual_seed(2))[:6].sort().values.tolist()
    assert np.flatnonzero(one.kept[0]).tolist() == [*drawn, *(16 + n for n in drawn)]


def test_added_images_are_part_of_the_view():
    seen = views("random_crop")
    one = seen.views[1]
    assert (len(one.prompt.images), one.maps.shape[-1], len(one.boxes[0])) == (3, 48, 2)
    assert seen.note(one) == "answers about 3 images, 2 of them added"


@pytest.mark.parametrize(
    ("names", "step", "of", "message", "hint"),
    [
        (("beam",), 2, None, "searches with several hypotheses", "leave beam out"),
        (("pai",), None, request("text", "how many are there ?"), "no image", "--image FILE"),
        (("pai",), 99, None, "has 6 tokens", "Give --step 5 or less"),
        (("pai",), 1, asked(max_new_tokens=1), "has 1 tokens", "Leave --step out"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_a_way_out(names, step, of, message, hint):
    with pytest.raises(UsageError, match=message) as refused:
        views(*names, step=step, of=of)
    assert hint in refused.value.hint


def test_a_method_that_cannot_answer_is_named():
    gone = request("gone", "<image>\nis there a dog ?", replace(image(0, 60, 30), path="gone.png", sha256=""))
    with pytest.raises(UsageError, match="cannot answer this question") as refused:
        views("pai", of=gone)
    assert "gone.png" in str(refused.value)


def test_the_plain_model_comes_first_and_once():
    preset = resolve_model("tiny-llava")
    built = Comparison(("var", "greedy", "var"), {"var.tau": 5}).build(preset, None)
    assert list(built) == ["greedy", "var"]
    assert built["var"] == get_method("var", {"tau": 5}, "tiny-llava")


@pytest.mark.parametrize(
    ("comparison", "message"),
    [
        (Comparison(("vra",)), "unknown method 'vra'"),
        (Comparison(("var",), {"pai.alpha": 1.0}), "pai is none of the methods shown"),
        (Comparison(("var",), {"var.tua": 1.0}), "var.tua"),
    ],
)
def test_wrong_names_are_refused_before_the_model_loads(comparison, message):
    with pytest.raises(UsageError, match=message):
        comparison.build(resolve_model("tiny-llava"), None)


def test_answers_are_those_of_an_evaluation(tmp_path):
    """Every method on the tiny model, with the settings of a run; the same engine answers both."""
    data = write_scenes(tmp_path / "scenes", 1)
    names = ("greedy", "var", "pai", "gift", "image_scale", "fastv", "vicrop", "sparc", "beam")
    shared = {"model": "tiny-llava", "task": "scenes_pope", "limit": 2, "data_dir": data, "device": "cpu"}
    params = {"fastv.keep": 0.25}
    specs = [
        RunSpec(**shared, method=name, params=params if name == "fastv" else {}, output=tmp_path / "runs")
        for name in names
    ]
    answered = {
        spec.method: {row["id"]: row["text"] for row in RunStore(outcome.directory).lines()}
        for spec, outcome in zip(specs, runner.run(specs), strict=True)
    }
    from sinkbench.adapters import load_adapter

    preset = resolve_model("tiny-llava")
    question = Question(None, "", "scenes_pope", 1, data).request(tmp_path)
    methods = Comparison(names[1:], params).build(preset, "scenes_pope", data)
    seen = compare(load_adapter(preset, "cpu", "auto"), methods, question, None)
    assert {one.method: one.answer for one in seen.views} == {name: answered[name][question.id] for name in names}
