"""The two masks that need a whole prompt or a prefix of their own: what is visible, and what cannot change."""

from dataclasses import replace

import pytest
import torch
from harness import adapter, close, features, forced_tokens, image, logits, open_stream, request, requests
from vectors import load

from sinkbench.engine.context import Context, Role, Stage
from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.mma_mask import MmaMask, unlocked
from sinkbench.methods.no_vis_vis import NoVisVis, hidden_from_images

TEXT, IMAGE, QUERY, PAD = int(Role.TEMPLATE), int(Role.IMAGE), int(Role.QUERY), int(Role.PAD)


def roles(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.uint8)


def visible(method: Method, given: torch.Tensor, layer: int = 0) -> torch.Tensor:
    """(B, K, K) bool under a method."""
    ctx = Context(Stage.SUFFIX, given, given.shape[1])
    info = adapter("llava").info
    return method.bind(info).edit_mask(layer, ctx.additive_mask, ctx)[:, 0] > torch.finfo(torch.float32).min


def test_mma_vectors(request):
    """The release pads on the right; ours must show the same pairs of real tokens."""
    for vector in load(request, "mma", "main"):
        for number in range(len(vector.params["cases"])):
            shown = vector[f"image_mask_{number}"].bool()
            asked = vector[f"question_mask_{number}"].bool()
            real = vector[f"mask2d_{number}"].bool()
            given = torch.where(shown, IMAGE, torch.where(asked, QUERY, TEXT))
            # The release unlocks the question up to where the answer begins; what follows is no prompt.
            end = int(asked.nonzero()[-1]) + 1
            ours = visible(MmaMask(), given[None, :end].to(torch.uint8))[0]
            expected = vector[f"visible_{number}"].bool()[:end, :end]
            assert ours[real[:end]].equal(expected[real[:end]])


def test_mma_by_hand_with_padding_and_two_images():
    given = roles([PAD, TEXT, IMAGE, QUERY, IMAGE, QUERY, TEXT])
    extra = unlocked(given)[0]
    expected = torch.zeros(7, 7, dtype=torch.bool)
    expected[[[2], [4]], [5, 6]] = True
    assert extra.equal(expected)
    assert not unlocked(roles([TEXT, QUERY, QUERY])).any()


def test_mma_is_causal_in_other_layers_and_leaves_rows_of_text_alone():
    given = roles([TEXT, IMAGE, IMAGE, QUERY, QUERY])
    causal = torch.ones(5, 5).tril().bool()
    assert visible(MmaMask(layers=(1,)), given)[0].equal(causal)
    shown = visible(MmaMask(layers=(1,)), given, layer=1)[0]
    assert shown[[0, 3, 4]].equal(causal[[0, 3, 4]])
    assert shown[1:3].tolist() == [[True, True, False, True, True], [True, True, True, True, True]]


class Rows(Intervention):
    """Keeps the weights that every row has after the mask."""

    def __init__(self, inner: Intervention) -> None:
        self.inner, self.seen = inner, {}
        self.whole_prompt = inner.whole_prompt

    def edit_mask(self, layer, mask, ctx):
        return self.inner.edit_mask(layer, mask, ctx)

    def rows(self, layer, ctx):
        return ctx.all_rows

    def edit_weights(self, layer, weights, ctx):
        if ctx.n_queries > 1:
            self.seen[layer] = weights
        return weights


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl"])
def test_a_large_penalty_is_no_mask_and_a_small_one_is_neither_that_nor_none(family):
    a, asked = adapter(family), requests()
    forced = forced_tokens(len(asked))
    free, soft, closed, plain = (
        logits(a, m, asked, forced) for m in (MmaMask(), MmaMask(gamma=2.0), MmaMask(gamma=1e9), get_method("greedy"))
    )
    close(closed, plain)
    for one, other in ((soft, plain), (soft, free), (free, plain)):
        assert (one - other)[:-1, 0].abs().amax() > 1e-4
    close(free[-1:], plain[-1:])


@torch.inference_mode()
def test_weights_of_the_first_layer_under_mma():
    """Rows sum to one, text rows are the plain model's, image rows look ahead."""
    a = adapter("llava")
    prompt = a.encode(requests()[0])
    seen = []
    for inner in (MmaMask().bind(a.info), MmaMask(gamma=1e9).bind(a.info)):
        rows = Rows(inner)
        open_stream(a, rows, [prompt], features(a, [requests()[0]]), 1).prefill()
        seen.append(rows.seen[0])
    mutual, causal = seen
    torch.testing.assert_close(mutual.sum(-1), torch.ones_like(mutual.sum(-1)))
    is_image = prompt.roles == Role.IMAGE
    close(mutual[:, :, ~is_image], causal[:, :, ~is_image], atol=1e-6)
    last = int(is_image.nonzero()[-1])
    assert mutual[:, :, is_image, last + 1 :].min() > 0
    assert causal[:, :, is_image, last + 1 :].max() == 0


def test_no_vis_vis_by_hand():
    given = roles([PAD, TEXT, IMAGE, IMAGE, TEXT, IMAGE, QUERY])
    hidden = hidden_from_images(given, see_prefix=True)[0]
    assert hidden.nonzero().tolist() == [[2, 3], [2, 5], [3, 2], [3, 5], [5, 2], [5, 3]]
    alone = visible(NoVisVis(see_prefix=False), given)[0]
    assert alone[[2, 3, 5]].equal(torch.eye(7).bool()[[2, 3, 5]])
    assert visible(NoVisVis(), given)[0, 6].tolist() == [False, *[True] * 6]


@pytest.mark.parametrize("rows", ["self", "bypass"])
@torch.inference_mode()
def test_an_image_token_alone_depends_on_nothing_else(rows):
    """The hidden state of an image token is a function of its own embedding, whatever the others hold (spec §8)."""
    a = adapter("llava")
    asked = [request("q", "<image>\nis there a dog in the image ?", image(2, 50, 50))]
    prompt = a.encode(asked[0])
    encoded = features(a, asked)
    (key,) = encoded
    states = []
    for scale in (1.0, 3.0):
        changed = encoded[key].tokens.clone()
        changed[0] *= scale
        kept: dict[int, torch.Tensor] = {}

        class Spy(Intervention):
            hidden_layers = (a.info.n_layers,)
            inner = NoVisVis(see_prefix=False, rows=rows).bind(a.info)
            store = kept

            def edit_mask(self, layer, mask, ctx):
                return self.inner.edit_mask(layer, mask, ctx)

            def edit_heads(self, layer, heads, ctx):
                return self.inner.edit_heads(layer, heads, ctx)

            def observe_hidden(self, layer, hidden, ctx):
                if ctx.stage is Stage.PREFIX:
                    self.store[0] = hidden

        seen = {key: replace(encoded[key], tokens=changed)}
        open_stream(a, Spy(), [prompt], seen, 1, edits=True).prefill()
        is_image = (prompt.roles == Role.IMAGE)[: prompt.prefix_length]
        states.append(kept[0][0, is_image])
    assert states[0][1:].equal(states[1][1:])
    assert not states[0][0].equal(states[1][0])


@pytest.mark.parametrize("family", ["llava", "internvl"])
def test_no_vis_vis_in_no_layer_is_the_plain_model_and_text_alone_is_untouched(family):
    a, asked = adapter(family), requests()
    forced = forced_tokens(len(asked))
    plain, edited = (logits(a, m, asked, forced) for m in (get_method("greedy"), NoVisVis()))
    close(edited[-1:], plain[-1:])
    assert (edited - plain)[:-1].abs().amax() > 1e-3
    bypass = logits(a, NoVisVis(rows="bypass"), asked, forced)
    assert (bypass - edited)[:-1].abs().amax() > 1e-3


def test_bad_parameters():
    info = adapter("llava").info
    for method in (MmaMask(layers=(99,)), NoVisVis(layers=(99,))):
        with pytest.raises(UsageError, match="layers 0 to"):
            method.bind(info)
    with pytest.raises(UsageError, match="favour"):
        MmaMask(gamma=-1.0)
