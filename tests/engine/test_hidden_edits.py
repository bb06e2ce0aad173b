"""Edits of what layers' parts compute: where they land, whom they spare, and that nothing of them stays."""

import pytest
import torch
from harness import adapter, answers, close, count_hooks, forced_tokens, logits, method, request, requests, stream

from sinkbench.engine.generate import Engine
from sinkbench.methods import get_method
from sinkbench.methods.base import Intervention
from sinkbench.methods.iri import Iri

PARTS = ("attn", "mlp", "block")


class Doubles(Intervention):
    """Doubles the last row of a part in one layer, and keeps what it was shown."""

    def __init__(self, part, layer=2):
        self.edited_parts, self.layer, self.seen = (part,), layer, []

    def edit_hidden(self, layer, part, hidden, ctx):
        if layer != self.layer or not ctx.emits:
            return hidden
        self.seen.append(hidden.clone())
        return torch.cat((hidden[:, :-1], 2 * hidden[:, -1:]), dim=1)


def answer(a, bound, asked):
    engine = Engine(a, get_method("greedy"))
    engine.lanes["greedy"].method = bound
    return [response for batch in engine.answer(asked) for response in batch]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl"])
def test_a_part_is_edited_where_the_model_computes_it(family, part):
    """The last layer's output doubled is twice what a plain run has there before the final norm."""
    a, asked = adapter(family), [request("r", "how many are there ?")]
    module = {"attn": a.layers[2].self_attn, "mlp": a.layers[2].mlp, "block": a.layers[2]}[part]
    plain, doubled = [], []
    for bound, kept in ((Intervention(), plain), (Doubles(part), doubled)):

        def keep(_module, _args, output, kept=kept):
            kept.append((output[0] if isinstance(output, tuple) else output)[:, -1].clone())

        with torch.inference_mode():
            # Hooks run in the order of registration: inside the pass this one comes before the edit.
            following = a.layers[3].register_forward_pre_hook(
                lambda _m, args, kept=kept: kept.append(args[0][:, -1].clone())
            )
            handle = module.register_forward_hook(keep)
            answer(a, bound, asked)
            handle.remove()
            following.remove()
    torch.testing.assert_close(doubled[0], plain[0])
    difference = doubled[1] - plain[1]
    if part != "attn":
        torch.testing.assert_close(difference, plain[0], atol=1e-5, rtol=1e-4)
    assert difference.abs().max() > 1e-4


@pytest.mark.parametrize("part", PARTS)
def test_nothing_stays_even_after_an_exception(part):
    a, asked = adapter("llava"), requests()
    expected = answers(a, method("greedy"), asked)
    before = count_hooks(a.model)

    class Fails(Doubles):
        def edit_hidden(self, layer, part, hidden, ctx):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        answer(a, Fails(part), asked)
    assert count_hooks(a.model) == before
    assert answers(a, method("greedy"), asked) == expected


def test_the_second_branch_is_spared():
    """PAI's image-free logits are the same with and without IRI beside it."""
    a, asked = adapter("llava"), requests()
    rates = {"iri.rates_attn": [0.5] * 6, "iri.rates_mlp": [0.5] * 6, "iri.lambda_attn": 5.0}
    seen = []
    for name, params in (("pai", {}), ("iri+pai", rates)):
        main = stream(a, get_method(name, {**params, "pai.gamma": 1.5}), asked, 2)
        contrast = []
        parts = getattr(main.method, "parts", [main.method])
        edit = parts[-1].edit_logits

        def record(values, ctx, edit=edit, contrast=contrast):
            contrast.append(ctx.contrast_logits.clone())
            return edit(values, ctx)

        parts[-1].edit_logits = record
        with torch.inference_mode():
            main.prefill()
            main.step(forced_tokens(len(asked), 1)[:, 0])
        seen.append(contrast)
    for plain, beside in zip(*seen, strict=True):
        close(beside, plain)


def test_an_edit_that_asks_for_no_part_is_not_called():
    a, asked = adapter("llava"), requests()
    bound = Doubles("mlp")
    bound.edited_parts = ()
    answer(a, bound, asked)
    assert bound.seen == []
    assert set(Iri(rates_attn=(1.0,) * 6, rates_mlp=(1.0,) * 6).bind(a.info).edited_parts) == {"attn", "mlp"}
    forced = forced_tokens(len(asked), 1)
    assert not logits(a, method("iri"), asked, forced).equal(logits(a, method("greedy"), asked, forced))
