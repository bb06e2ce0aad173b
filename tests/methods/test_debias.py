"""Attention Debiasing: the shipped weights and masks, the weights of a prompt's tokens, and what a host then keeps."""

import math
from dataclasses import replace

import pytest
import torch
import vectors
from harness import adapter, forced_tokens, image, logits, model_folder, request, requests, stream

from sinkbench.adapters import load_adapter, resolve_model
from sinkbench.engine.context import Context, Role, Stage
from sinkbench.engine.generate import Engine
from sinkbench.engine.prompt import Prompt
from sinkbench.errors import UsageError
from sinkbench.methods import get_method, method_config
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.pruning.budget import top_tokens
from sinkbench.methods.pruning.debias import (
    WEIGHT,
    Debias,
    DebiasIntervention,
    image_tokens,
    is_content,
    places_in_image,
    trend_weights,
)
from sinkbench.methods.pruning.fastv import SCORE, FastV
from sinkbench.request import ImageRef, Request

INFO = ModelInfo("m", n_layers=4, n_heads=4, n_kv_heads=2, hidden_size=64)
HOSTS = {
    "FastV": ("fastv", ""),
    "HiMAP": ("himap", "himap"),
    "PyramidDrop": ("pyramiddrop", "pdrop"),
    "SparseVLMs": ("sparsevlm", "sparse"),
}
BENCHMARKS = {"MME": "mme", "gqa": "gqa", "scienceqa": "sqa"}


class Sized(ImageRef):
    """An image of which only the size matters."""

    def size(self) -> tuple[int, int]:
        width, _, height = self.path.partition("x")
        return int(width), int(height)


def prompt_of(*parts: int | str, images: tuple[str, ...]) -> Prompt:
    """Numbers are runs of image features, words are text, and "|" is a separator within an image."""
    ids, roles = [], []
    for part in parts:
        if isinstance(part, int):
            ids += [-1] * part
            roles += [int(Role.IMAGE)] * part
        else:
            ids.append(-1 if part == "|" else 7)
            roles.append(int(Role.TEMPLATE if part == "|" else Role.QUERY))
    refs = tuple(Sized(name) for name in images)
    length = len(ids)
    tensors = torch.tensor(ids), torch.tensor(roles, dtype=torch.uint8), torch.arange(length)[None]
    return Prompt(Request("r", (), refs), *tensors, refs, -1)


def marks(method: Debias, prompt: Prompt) -> list[float]:
    return DebiasIntervention(method).token_marks(prompt)[WEIGHT].tolist()


@pytest.fixture
def release(request):
    return vectors.load(request, "attention_debiasing", "main")


def test_padding_masks_of_the_release(release):
    for vector in release:
        grid = vector.params["grid"]
        for row, size in enumerate(vector["image_wh"].tolist()):
            for threshold in vector.params["thresholds"]:
                content = is_content(Sized("{}x{}".format(*size)), grid * grid, "square", threshold)
                assert content.equal(vector[f"pad_mask_thr{threshold}"][row]), (size, threshold)


def released_form(weights: torch.Tensor) -> tuple[str, list[float]]:
    """The form and numbers of a shipped file, read off a few of its weights."""
    x = places_in_image(len(weights))
    b = -float(weights[-1].log())
    if torch.allclose(weights.log(), -b * x, rtol=0, atol=1e-9):
        return "exp", [b]
    at = torch.tensor([len(x) // 3, 2 * len(x) // 3, len(x) - 1])
    powers = x[at, None] ** torch.arange(1, 4)
    return "cubic", torch.linalg.solve(powers, (1 / weights[at] - 1)[:, None])[:, 0].tolist()


def test_weights_of_the_release(release):
    forms = set()
    for vector in release:
        for name in vector.params["weights"]:
            expected = vector[f"weight_{name}"]
            form, trend = released_form(expected)
            forms.add(form)
            actual = trend_weights(form, trend, places_in_image(len(expected)))
            torch.testing.assert_close(actual, expected, rtol=vector.tolerance["weight_rtol"], atol=0)
    assert forms == {"exp", "cubic"}


def test_profiles_hold_the_weights_of_the_release(release):
    """As far as the digits of the published table go."""
    profiles, checked = method_config("debias")["profiles"], set()
    for vector in release:
        for name in vector.params["weights"]:
            host, _, benchmark = name.partition("_")
            method, short = HOSTS[host]
            profile = f"{short}-{BENCHMARKS.get(benchmark)}" if short else method
            if profile in profiles and len(vector[f"weight_{name}"]) == 576:
                params = profiles[profile]["params"]
                actual = trend_weights(params["form"], params["trend"], places_in_image(576))
                torch.testing.assert_close(actual, vector[f"weight_{name}"], rtol=5e-5, atol=0)
                assert params["host"] == method
                checked.add(profile)
    if any(vector.path.name == "attention_debiasing.safetensors" for vector in release):
        assert {"fastv", "himap-mme", "pdrop-sqa", "sparse-gqa"} <= checked


def test_scores_and_kept_tokens_of_the_release(release):
    """From sizes and raw scores to the tokens that FastV keeps, through the hooks of both methods."""
    for vector in release:
        grid, keep = vector.params["grid"], vector.params["keep"]
        n, (form, trend) = grid * grid, released_form(vector[f"weight_{vector.params['example_weight']}"])
        threshold = float(vector.params["example_mask"].removeprefix("pad_mask_thr"))
        bound = DebiasIntervention(Debias(form=form, trend=tuple(trend), canvas="square", padding=threshold))
        fastv = FastV(keep=keep).bind(INFO)
        fastv.weighing = bound
        fewer = 0
        for row, size in enumerate(vector["image_wh"].tolist()):
            prompt = prompt_of("a", n, "b", images=("{}x{}".format(*size),))
            ctx = Context(Stage.SUFFIX, prompt.roles[None], n + 2)
            ctx.state[WEIGHT] = bound.token_marks(prompt)[WEIGHT][None]
            ctx.scratch[SCORE] = torch.nn.functional.pad(vector["raw_score"][row][None], (1, 1), value=9.0)
            debiased = bound.weigh_tokens(ctx.scratch[SCORE], ctx)[0, 1:-1]
            torch.testing.assert_close(debiased.clamp_min(0), vector["debiased_score"][row], rtol=1e-6, atol=0)
            kept = fastv.keep_tokens(None, ctx).index[0].tolist()  # type: ignore[union-attr,arg-type]
            expected = [int(index) for index in vector["kept"][row] if index >= 0]
            assert kept == [0, *(1 + index for index in expected), n + 1]
            fewer += len(expected) < keep
        if vector.path.name == "attention_debiasing.safetensors":
            assert (vector["kept"] < 0).any() == (fewer > 0)


@pytest.mark.parametrize(
    ("form", "trend", "end"),
    [
        ("exp", [4.6370e-3 * 575], 0.0695),
        ("exp", [1.1125e-3 * 575], 0.5275),
        ("cubic", [1.73373862, -4.82643345, 4.88412565], 0.3582),
    ],
)
def test_presets_end_where_the_release_does(form, trend, end):
    weights = trend_weights(form, trend, places_in_image(576))
    assert float(weights[0]) == 1
    assert float(weights[-1]) == pytest.approx(end, abs=5e-5)
    if form == "cubic":
        assert float(weights.sum()) == pytest.approx(415.541, abs=5e-4)
    else:
        assert (weights.diff() < 0).all()


def test_empirical_weights_lie_on_straight_lines():
    weights = trend_weights("empirical", [1.0, 0.5, 0.25], places_in_image(5))
    assert weights.tolist() == [1.0, 0.75, 0.5, 0.375, 0.25]
    assert places_in_image(1).tolist() == [0.0]
    assert trend_weights("empirical", [1.0, 0.5], places_in_image(1)).tolist() == [1.0]


@pytest.mark.parametrize(("size", "content"), [("336x336", 576), ("640x480", 432), ("480x640", 432), ("333x500", 384)])
def test_content_of_padded_images(size, content):
    assert int(is_content(Sized(size), 576, "square", 0.5).sum()) == content
    assert is_content(Sized(size), 576, "none", 0.5).all()


def test_an_image_too_thin_for_any_content_is_not_masked():
    assert is_content(Sized("1000x10"), 576, "square", 0.5).all()


def test_places_are_counted_anew_in_each_image_and_separators_left_out():
    b = math.log(16)
    prompt = prompt_of("a", 2, "|", 1, "|", "b", 5, "c", images=("1x1", "1x1"))
    expected = [0, 1, 1 / 4, 0, 1 / 16, 0, 0, 1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 0]
    assert marks(Debias(trend=(b,)), prompt) == pytest.approx(expected)
    assert marks(Debias(trend=(b,)), prompt_of("a", "b", images=())) == [0, 0]


def test_images_with_nothing_between_them_count_as_one_but_on_a_square_canvas():
    prompt = prompt_of("a", 8, images=("2x1", "1x2"))
    assert [run.tolist() for run in image_tokens(prompt, "none")] == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert [run.tolist() for run in image_tokens(prompt, "square")] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    # Half of each patch is padding, which is not more than the threshold.
    assert marks(Debias(trend=(0.0,), canvas="square"), prompt) == [0] + 8 * [1]


def test_padding_is_told_image_by_image():
    prompt = prompt_of(16, "and", 16, images=("4x2", "2x4"))
    rows = torch.tensor([[0.0], [1.0], [1.0], [0.0]]).expand(4, 4)
    given = torch.tensor(marks(Debias(trend=(0.0,), canvas="square"), prompt))
    assert given[:16].equal(rows.flatten())
    assert given[17:].equal(rows.T.flatten())


def test_the_trend_is_taken_out_of_scores_that_have_it():
    generator = torch.Generator().manual_seed(0)
    plain = torch.rand(1, 400, generator=generator)
    scores = plain * torch.linspace(0, 2.5, 400).exp() / 70
    prompt = prompt_of(400, images=("1x1",))
    ctx = Context(Stage.SUFFIX, prompt.roles[None], 400)
    bound = DebiasIntervention(Debias(trend=(2.5,)))
    ctx.state[WEIGHT] = bound.token_marks(prompt)[WEIGHT][None]
    weighed = bound.weigh_tokens(scores, ctx)
    assert weighed.argsort(1).equal(plain.argsort(1))
    assert not scores.argsort(1).equal(plain.argsort(1))


def test_a_method_that_cannot_keep_fewer_takes_padding_last():
    scores = torch.tensor([[0.1, -torch.inf, 0.3, -torch.inf, 9.0]])
    among = torch.tensor([[True, True, True, True, False]])
    taken = [top_tokens(scores, among, torch.tensor([n]))[0].tolist() for n in (1, 2, 3, 4)]
    assert taken == [
        [False, False, True, False, False],
        [True, False, True, False, False],
        [True, True, True, False, False],
        [True, True, True, True, False],
    ]


@pytest.mark.parametrize("host", ["fastv", "pyramiddrop", "tokencarve"])
def test_no_trend_and_no_padding_leave_the_host_as_it_is(host):
    a, asked, forced = adapter("llava"), requests(), forced_tokens(7)
    budget = {"fastv": {"keep": 0.4}, "pyramiddrop": {}, "tokencarve": {"keep": 0.4}}[host]
    given = {f"{host}.{key}": value for key, value in budget.items()}
    plain = get_method(host, given)
    debiased = get_method(f"{host}+debias", {**given, "debias.trend": [0.0]})
    assert logits(a, debiased, asked, forced).equal(logits(a, plain, asked, forced))
    steep = get_method(f"debias+{host}", {**given, "debias.trend": [9.0]})
    assert not logits(a, steep, asked, forced).allclose(logits(a, plain, asked, forced), atol=1e-3)


def padding_llava():
    """A LLaVA that pads images to squares."""
    preset = resolve_model(str(model_folder("llava")))
    return load_adapter(replace(preset, options={"image_padding": "square"}), "cpu", "float32")


def test_padding_of_an_image_is_dropped_and_its_content_kept():
    a = padding_llava()
    wide = image(0, 80, 40)
    asked = [request("r", "<image>\nis there a dog ?", wide)]
    given = {"fastv.keep": 12, "debias.trend": [0.0]}
    plain, masked = (
        next(r for batch in Engine(a, get_method("fastv+debias", {**given, **more})).answer(asked) for r in batch)
        for more in ({}, {"debias.canvas": "square"})
    )
    assert plain.tokens_by_layer == (16, 16, 12, 12, 12, 12)
    # 4 × 4 patches, of which the rows at the top and at the bottom are padding.
    assert masked.tokens_by_layer == (16, 16, 8, 8, 8, 8)
    main = stream(a, get_method("fastv+debias", {**given, "debias.canvas": "square"}), asked, 1)
    with torch.inference_mode():
        main.prefill()
    assert int((main.pruning.groups[0].roles == Role.IMAGE).sum()) == 8


def test_mistakes_are_named():
    with pytest.raises(UsageError, match=r"debias\.trend is not known of m") as caught:
        Debias().bind(INFO)
    assert "sinkbench calibrate debias --model m" in caught.value.hint
    with pytest.raises(UsageError, match="form exp has one number"):
        Debias(trend=(1.0, 2.0))
    with pytest.raises(UsageError, match="not above 0"):
        Debias(form="cubic", trend=(-2.0, 0.0, 0.0))
    with pytest.raises(UsageError, match="not above 0"):
        Debias(form="empirical", trend=(1.0, 0.0))
    with pytest.raises(UsageError, match="no share of a patch"):
        Debias(padding=1.0)
    with pytest.raises(UsageError, match="12 tokens, which make no square"):
        marks(Debias(trend=(1.0,), canvas="square"), prompt_of(12, images=("3x3",)))
    with pytest.raises(UsageError, match="trend is of himap's scores, and fastv"):
        get_method("fastv+debias", {"debias.profile": "himap-pope"})
    get_method("fastv+debias", {"debias.profile": "himap-pope", "debias.host": ""})
    get_method("fastv+debias", {"debias.profile": "fastv"})
    with pytest.raises(UsageError, match="divprune takes tokens out before"):
        get_method("divprune+fastv+debias", {"debias.trend": [1.0]})
    with pytest.raises(UsageError, match="debias weighs the scores of a method"):
        get_method("debias+pai")
    with pytest.raises(UsageError, match="does nothing by itself"):
        Engine(adapter("llava"), Debias(trend=(1.0,)))


def test_llava_is_known_to_pad():
    assert get_method("fastv+debias", model="llava").params()["debias.canvas"] == "square"
    assert get_method("fastv+debias", model="tiny-qwen").params()["debias.canvas"] == "none"
