"""SPARC: selections and their effect by hand, and against values scaled in the cache as the released code does it."""

import pytest
import torch
from harness import adapter, close, features, forced_tokens, logits, method, open_stream, requests

from sinkbench.engine.context import Context, Role, Stage, State
from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.methods.base import Intervention
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.sparc import AVERAGE, COUNTS, Sparc

LETTERS = {"_": Role.PAD, "t": Role.TEMPLATE, "i": Role.IMAGE, "q": Role.QUERY}
SAMPLES = ("tiiiq", "_tiiq", "__tqq")
ROLES = torch.tensor([[int(LETTERS[letter]) for letter in sample] for sample in SAMPLES], dtype=torch.uint8)


def model(n_layers: int = 4) -> ModelInfo:
    return ModelInfo("m", n_layers=n_layers, n_heads=2, n_kv_heads=2, hidden_size=8)


class Run:
    """Shows a bound method one row of weights (B, H, 1, K) in every layer, pass by pass: the prompt's, then steps."""

    def __init__(self, empty: int = 0, **params: object) -> None:
        self.bound = Sparc(**{"alpha": 2.0, "selection_layer": 1, **params}).bind(model())
        self.state, self.step, self.empty = State(), 0, empty

    def __call__(self, *on_image: float) -> list[torch.Tensor | None]:
        """Factors (B, K) by layer, None where the method wants no row; the image slots 1 to 3 have these weights."""
        answer = torch.full((3, self.step), int(Role.GENERATED), dtype=torch.uint8)
        empty = torch.zeros(3, self.empty if self.step else 0, dtype=torch.uint8)
        roles = torch.cat((ROLES, answer, empty), dim=1)
        stage, n_queries = (Stage.DECODE, 1) if self.step else (Stage.SUFFIX, 2)
        ctx = Context(stage, roles, n_queries, step=self.step, state=self.state)
        mean = torch.full((roles.shape[1],), 10.0**self.step)  # What is no image token would always be selected.
        mean[1:4] = torch.tensor(on_image)
        given = torch.stack((1.5 * mean, 0.5 * mean))[None, :, None].repeat(3, 1, 1, 1)
        self.step += 1
        factors: list[torch.Tensor | None] = []
        for layer in range(4):
            rows = self.bound.rows(layer, ctx)
            assert rows in (None, ctx.last_row)
            edited = None if rows is None else self.bound.edit_weights(layer, given, ctx)
            factors.append(None if edited is None else _factor(edited, given))
        return factors


def _factor(edited: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    factor = torch.where(given > 0, edited / given, 1.0)
    assert factor.equal(factor[:, :1].expand_as(factor)), "heads share their factors"
    return factor[:, 0, 0]


def expected(slots: int, *of_image: float) -> torch.Tensor:
    """Sample 0 has three image tokens, sample 1 the last two, sample 2 none."""
    factors = torch.ones(3, slots)
    factors[0, 1:4] = torch.tensor(of_image)
    factors[1, 2:4] = torch.tensor(of_image[1:])
    return factors


@pytest.mark.parametrize("empty", [0, 2])
def test_selections_count_from_the_next_step_on_and_add_up(empty):
    run = Run(empty)
    prompt = run(0.1, 0.2, 0.0)
    assert prompt[0] is prompt[2] is prompt[3] is None
    assert prompt[1].eq(1).all()
    # Averages, after beta 0.1: 0.1 0.2 0; then 0.244 0.29 0; then 0.2044 0.749 0.009. Selected from 2.5 times that on.
    for on_image, factors in (
        ((0.26, 0.30, 0.00), (1, 1, 1)),  # selects 1
        ((0.20, 0.80, 0.01), (2, 1, 1)),  # selects 2, and 3, which nobody had looked at
        ((0.52, 0.80, 0.01), (2, 2, 2)),  # selects 1 again
        ((0.10, 0.10, 0.01), (4, 2, 2)),
        ((0.10, 0.10, 0.01), (4, 2, 2)),
    ):
        found = run(*on_image)
        for layer in range(4):
            torch.testing.assert_close(found[layer], expected(found[layer].shape[1], *factors))


def test_beta_is_the_memory_of_the_average():
    for beta, average in ((0.0, 0.4), (0.25, 0.35), (1.0, 0.2)):
        run = Run(beta=beta)
        run(0.2, 0.2, 0.2)
        run(0.4, 0.4, 0.4)
        torch.testing.assert_close(run.state[AVERAGE][0, 1:4], torch.full((3,), average))


def test_only_the_chosen_layers_are_edited_while_another_selects():
    run = Run(layers=(0, 2))
    run(0.1, 0.1, 0.1)
    first, second = run(1.0, 0.1, 0.1), run(0.1, 0.1, 0.1)
    assert all(factor is None or factor.eq(1).all() for factor in first)
    assert second[3] is None
    assert second[1].eq(1).all()
    for layer in (0, 2):
        torch.testing.assert_close(second[layer], expected(7, 2, 1, 1))


def test_neutral_parameters_return_the_weights_as_they_are():
    for params in ({"alpha": 1.0}, {"tau": 1e9}):
        run = Run(**params)
        for on_image in ((0.1, 0.1, 0.1), (0.9, 0.9, 0.9), (0.9, 0.9, 0.9)):
            assert all(factor is None or factor.eq(1).all() for factor in run(*on_image))


class Watch(Intervention):
    """Keeps the selecting layer's attention of the last row, mean over heads."""

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def observe_attention(self, layer, view, ctx):
        if layer == self.layer and ctx.emits:
            self.seen = view.rows(ctx.last_row).mean(1)[0, 0]


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
@torch.inference_mode()
def test_equals_values_scaled_in_the_cache(family):
    """The released code's way: before a step, what the step before selected is multiplied into every layer's values."""
    a, m = adapter(family), Sparc(alpha=3.0, beta=0.3, tau=0.02, selection_layer=2)
    for request in requests()[:4]:
        forced = forced_tokens(1, 6)
        ours = logits(a, m, [request], forced)
        watch = Watch(2)
        reference = open_stream(a, watch, [a.encode(request)], features(a, [request]), 6)
        found, selections = [reference.prefill()], 0
        slots = reference.context.is_image[0].nonzero()[:, 0]
        average, selected = watch.seen[slots], slots[:0]
        for tokens in forced.T:
            for values in reference.cache.prefix.values.values():
                values[:, :, selected] *= 3.0
            found.append(reference.step(tokens))
            attention = watch.seen[slots]
            selected = slots[(attention - average) / average >= 0.02]
            average = 0.7 * attention + 0.3 * average
            selections += len(selected)
        assert 0 < selections < 6 * len(slots)
        torch.testing.assert_close(ours[0], torch.cat(found), atol=2e-4, rtol=1e-4)


@torch.inference_mode()
def test_the_cache_is_left_alone_and_text_alone_is_not_edited():
    a, asked = adapter("llava"), requests()
    forced = forced_tokens(len(asked), 3)
    m = Sparc(alpha=3.0, tau=0.0, selection_layer=1)
    stream = open_stream(a, m.bind(a.info), [a.encode(r) for r in asked], features(a, asked), 3)
    stream.prefill()
    before = {layer: values.clone() for layer, values in stream.cache.prefix.values.items()}
    for tokens in forced.T:
        stream.step(tokens)
    assert all(torch.equal(before[layer], values) for layer, values in stream.cache.prefix.values.items())
    assert (stream.state[COUNTS].amax(1) > 0).tolist() == [True] * 6 + [False]
    edited, plain = (logits(a, m, asked, forced) for m in (m, method("greedy")))
    assert torch.equal(edited[:, :2], plain[:, :2])  # The prompt and the step that selects first.
    assert torch.equal(edited[-1], plain[-1])
    assert ((edited - plain)[:-1, 2:].abs().amax((1, 2)) > 1e-3).all()


def test_beside_a_second_branch_each_sample_is_selected_for_alone():
    a, asked, forced = adapter("llava"), requests(), forced_tokens(7, 4)
    m = get_method("sparc+pai", {"sparc.alpha": 3.0, "sparc.tau": 0.0, "sparc.selection_layer": 1, "pai.gamma": 1.5})
    together = logits(a, m, asked, forced)
    for index, request in enumerate(asked):
        close(together[index], logits(a, m, [request], forced[index : index + 1])[0])
    plain = logits(a, get_method("pai", {"gamma": 1.5}), asked, forced)
    assert ((together - plain).nan_to_num().abs().amax((1, 2)) > 1e-3).tolist() == [True] * 6 + [False]


@pytest.mark.parametrize(("n_layers", "selecting"), [(32, 20), (40, 25), (6, 3), (1, 0)])
def test_default_layers(n_layers, selecting):
    bound = Sparc().bind(model(n_layers))
    assert (bound.selecting, bound.layers) == (selecting, set(range(n_layers)))
    assert bound.capturable


def test_published_values():
    published = get_method("sparc", model="llava").params()
    assert published == {"alpha": 1.1, "beta": 0.1, "tau": 1.5, "selection_layer": 20, "layers": ()}
    assert get_method("sparc", {"sparc.profile": "code"}) == Sparc()


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"alpha": 0.0}, "sparc.alpha=0.0 amplifies nothing"),
        ({"alpha": float("nan")}, "sparc.alpha=nan"),
        ({"beta": 1.5}, "sparc.beta=1.5 is no memory"),
        ({"tau": -0.5}, "sparc.tau=-0.5 is no growth"),
        ({"selection_layer": 4}, r"sparc.selection_layer=\[4\]: m has layers 0 to 3"),
        ({"selection_layer": -2}, "m has layers 0 to 3"),
        ({"layers": [1, 9]}, r"sparc.layers=\[1, 9\]: m has layers 0 to 3"),
    ],
)
def test_mistakes_are_named(params, says):
    with pytest.raises(UsageError, match=says):
        get_method("sparc", params).bind(model())
