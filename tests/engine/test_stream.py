"""The passes over a prompt: how many, which one emits, and where a method's marks lie in each."""

import pytest
import torch
from harness import FAMILIES, adapter, close, features, open_stream, request, requests

from sinkbench.engine.context import Stage
from sinkbench.methods import get_method
from sinkbench.methods.base import Intervention
from sinkbench.methods.composed import ComposedIntervention


class Watches(Intervention):
    """Notes the context of each pass; its marks are the roles, which the context holds as well."""

    def __init__(self, alone: bool) -> None:
        self.last_token_alone = alone
        self.seen = []

    def token_marks(self, prompt):
        return {"watches.roles": prompt.roles}

    def rows(self, layer, ctx):
        if layer == 0:
            self.seen.append((ctx.stage, ctx.n_queries, ctx.emits, ctx.last_row))
            marks = ctx.state["watches.roles"]
            known = ctx.roles[:, : marks.shape[1]]
            touched = slice(None) if ctx.untouched is None else ~ctx.untouched
            assert torch.equal(marks[touched], known[touched])
            assert (marks.shape[1] == ctx.n_keys) == (ctx.stage is not Stage.DECODE)
        return None


@torch.inference_mode()
def prefill(a, bound, asked) -> torch.Tensor:
    stream = open_stream(a, bound, [a.encode(r) for r in asked], features(a, asked), 1)
    logits = stream.prefill()
    return torch.stack((logits, stream.step(torch.full((len(asked),), 7))), dim=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_token_can_be_a_pass_of_its_own(family):
    a, asked = adapter(family), requests()
    together, alone = Watches(False), Watches(True)
    close(prefill(a, together, asked), prefill(a, alone, asked))
    stages = [(stage, emits) for stage, _, emits, _ in together.seen]
    assert stages == [(Stage.PREFIX, False), (Stage.SUFFIX, True), (Stage.DECODE, True)]
    stages = [(stage, emits) for stage, _, emits, _ in alone.seen]
    assert stages == [(Stage.PREFIX, False), (Stage.SUFFIX, False), (Stage.SUFFIX, True), (Stage.DECODE, True)]
    assert together.seen[1][1] == alone.seen[1][1] + 1
    assert alone.seen[2][1:] == (1, True, slice(0, 1))


def test_without_images_there_is_no_prefix():
    a, watches = adapter("llava"), Watches(True)
    prefill(a, watches, [request("short", "one ?"), request("long", "how many red cat are there ?")])
    assert [stage for stage, *_ in watches.seen] == [Stage.SUFFIX, Stage.SUFFIX, Stage.DECODE]


def test_prefixes_with_different_marks_are_not_shared():
    a, asked = adapter("llava"), requests()[:3]

    class Differs(Watches):
        def token_marks(self, prompt):
            return {"differs": torch.full((len(prompt),), len(prompt))}

        def rows(self, layer, ctx):
            self.seen.append(ctx)
            return None

    differs = Differs(False)
    prefill(a, differs, asked)
    lengths = [len(a.encode(r)) for r in asked]
    assert len(differs.seen[0].roles) == len(set(lengths))
    final = differs.seen[-1].state["differs"]
    assert final.amax(1).tolist() == lengths


def test_a_composition_passes_both_wishes_on():
    a = adapter("llava")
    pai = get_method("pai", {"first_token": "always"}).bind(a.info)
    both = ComposedIntervention([pai, Watches(True)])
    assert both.last_token_alone
    assert set(both.token_marks(a.encode(requests()[0]))) == {"watches.roles"}
    assert not ComposedIntervention([pai, Watches(False)]).last_token_alone
    # PAI's "last row" must stay the prompt's, not become the last row of the pass before.
    asked = requests()[:2]
    close(prefill(a, both, asked), prefill(a, pai, asked))
