"""Visual exit: which layers have the image, and that leaving is as good as being masked."""

import pytest
import torch
from harness import adapter, close, forced_tokens, image, logits, request, requests, stream

from sinkbench.engine.context import Context, Stage
from sinkbench.engine.generate import Engine
from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.pruning.visual_exit import VisualExit


def test_no_layer_behind_the_exit_has_an_image_token():
    a = adapter("qwen2_5_vl")
    answers = {r.id: r for batch in Engine(a, VisualExit(layer=2)).answer(requests()) for r in batch}
    assert answers["wide/dog"].tokens_by_layer == (8, 8, 0, 0, 0, 0)
    assert answers["two"].tokens_by_layer == (17, 17, 0, 0, 0, 0)
    assert answers["text"].tokens_by_layer == (0, 0, 0, 0, 0, 0)
    assert VisualExit().bind(a.info).prunes_at == (3,)
    assert VisualExit(layer=6).bind(a.info).prunes_at == ()


class Hidden(Method):
    """Lets no row behind some layers look at an image token."""

    name, summary, paper, edits = "hidden", "", None, Stage.PREFIX | Stage.SUFFIX | Stage.DECODE

    def __init__(self, first: int) -> None:
        self.first = first

    def bind(self, model):
        return self.Bound(self.first)

    class Bound(Intervention):
        whole_prompt = True

        def __init__(self, first):
            self.first = first

        def edit_mask(self, layer, mask, ctx):
            if layer < self.first:
                return mask
            # An image row still sees itself, so that no softmax is taken over nothing.
            hidden = ctx.is_image[:, None, None, :] & ~torch.eye(ctx.n_queries, ctx.n_keys, dtype=torch.bool)
            return mask.masked_fill(hidden, torch.finfo(torch.float32).min)

        def rows(self, layer, ctx):
            return ctx.all_rows if ctx.stage is Stage.DECODE and layer >= self.first else None

        def edit_weights(self, layer, weights, ctx: Context):
            seen = weights.masked_fill(ctx.is_image[:, None, None, :], 0)
            return seen / seen.sum(-1, keepdim=True)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "llava_next"])
@pytest.mark.parametrize("layer", [1, 4])
def test_leaving_equals_being_masked(family, layer):
    """Positions stay, so that text rows compute the same as where they are kept from looking at the image."""
    a, asked = adapter(family), requests()
    forced = forced_tokens(len(asked))
    close(logits(a, VisualExit(layer=layer), asked, forced), logits(a, Hidden(layer), asked, forced))


def test_the_cache_is_shorter_behind_the_exit():
    a = adapter("llava")
    main = stream(a, VisualExit(layer=4), [request("r", "<image>\nis there a dog ?", image(0))], 2)
    with torch.inference_mode():
        main.prefill()
    n = len(main.prompts[0])
    assert [main.cache.lengths[layer] for layer in range(6)] == [n] * 4 + [n - 16] * 2


def test_layers_that_a_model_lacks_are_refused():
    with pytest.raises(UsageError, match=r"visual_exit\.layer=7") as caught:
        get_method("visual_exit", {"layer": 7}).bind(adapter("llava").info)
    assert "6 to keep the image throughout" in caught.value.hint
    with pytest.raises(UsageError, match=r"visual_exit\.layer=-1"):
        VisualExit(layer=-1).bind(adapter("llava").info)
