"""The runner of observers: what it yields, in which order, and what it keeps of samples that end early."""

import pytest
import torch
from harness import FAMILIES, NEW_TOKENS, adapter, answers, close, request, requests
from observers import Keeps, kept

from sinkbench.engine.context import Role, Stage
from sinkbench.engine.observe import NO_TOKEN, observe
from sinkbench.errors import SampleError
from sinkbench.inspection.first_token import first_token_states
from sinkbench.methods import get_method
from sinkbench.methods.base import Intervention
from sinkbench.request import ImageRef

LAYERS = 6
families = pytest.mark.parametrize("family", FAMILIES)


class Counts(Intervention):
    """Counts each sample's decode rows, and keeps layer 2's input of each token."""

    hidden_layers = (2,)

    def observe_hidden(self, layer, hidden, ctx):
        ctx.state["hidden"] = ctx.append(ctx.state.get("hidden"), hidden.transpose(1, 2))
        if ctx.stage is Stage.DECODE:
            ctx.state["steps"] = ctx.state.get("steps", 0) + torch.ones(len(hidden), dtype=torch.int64)


@families
def test_slots_are_the_tokens_of_each_prompt_in_order(family):
    a = adapter(family)
    prompts = [a.encode(r) for r in requests()]
    (batch,) = observe(a, Counts(), prompts)
    assert {id(p) for p in batch.prompts} == {id(p) for p in prompts}
    assert batch.tokens.shape == (len(prompts), 0)
    for row, prompt in enumerate(batch.prompts):
        assert torch.equal(batch.cut(batch.roles, row), prompt.roles)
        assert int(batch.valid[row].sum()) == len(prompt)
    assert batch.state["hidden"].shape[::2] == batch.roles.shape


@families
def test_tokens_are_the_greedy_answer(family):
    a, asked = adapter(family), requests()
    texts = answers(a, get_method("greedy"), asked)
    for options in ({}, {"batch_size": 2}, {"share": False}):
        for batch in observe(a, Counts(), [a.encode(r) for r in asked], new_tokens=NEW_TOKENS, **options):
            for row, prompt in enumerate(batch.prompts):
                tokens = [token for token in batch.tokens[row].tolist() if token != NO_TOKEN]
                assert a.decode(tokens) == texts[prompt.request.id]
                generated = batch.roles[row] == Role.GENERATED
                assert int(generated.sum()) == len(tokens)
                assert int(batch.state["steps"][row]) == len(tokens)


@pytest.mark.parametrize("step", [0, 2])
def test_samples_that_end_early_keep_their_state(step, monkeypatch):
    """Ends are made up: the token that one sample says at a step ends every answer."""
    a = adapter("llava")
    prompts = [a.encode(r) for r in requests()]
    probe = Keeps(LAYERS)
    (whole,) = observe(a, probe, prompts, new_tokens=4)
    monkeypatch.setattr(a, "eos", (int(whole.tokens[1, step]),))
    (ended,) = observe(a, probe, prompts, new_tokens=4)
    assert ended.prompts == whole.prompts
    lengths = (ended.tokens != NO_TOKEN).sum(1).tolist()
    assert lengths[1] <= step
    assert len(set(lengths)) > 1
    for row, length in enumerate(lengths):
        said = whole.tokens[row].tolist()
        assert ended.tokens[row].tolist() == [*said[:length], *[NO_TOKEN] * (4 - length)]
        before, after = kept(whole, row), kept(ended, row)
        for name in before:
            close(after[name], before[name], atol=1e-3)
        prompt_slots = whole.roles.shape[1] - 4
        generated = ended.state["hidden.3"][row, :, prompt_slots:]
        close(generated[:, :length], whole.state["hidden.3"][row, :, prompt_slots : prompt_slots + length], atol=1e-3)
        assert not generated[:, length:].any()
        assert not ended.roles[row, prompt_slots + length :].any()


def test_state_of_samples_that_never_took_a_step(monkeypatch):
    a = adapter("llava")
    prompts = [a.encode(r) for r in requests()]
    (whole,) = observe(a, Counts(), prompts, new_tokens=1)
    monkeypatch.setattr(a, "eos", (int(whole.tokens[0, 0]),))
    (ended,) = observe(a, Counts(), prompts, new_tokens=1)
    assert torch.equal(ended.state["steps"], (ended.tokens[:, 0] != NO_TOKEN).long())
    assert 0 < int(ended.state["steps"].sum()) < len(prompts)
    monkeypatch.setattr(a, "eos", tuple(range(len(a.tokenizer))))
    (silent,) = observe(a, Counts(), prompts, new_tokens=3)
    assert (silent.tokens == NO_TOKEN).all()
    assert "steps" not in silent.state
    assert silent.roles.shape == silent.state["hidden"].shape[::2]


def test_an_end_can_be_ignored(monkeypatch):
    a = adapter("llava")
    monkeypatch.setattr(a, "eos", tuple(range(len(a.tokenizer))))
    (batch,) = observe(a, Counts(), [a.encode(request("go on", "one ?", ignore_eos=True))], new_tokens=3)
    assert (batch.tokens != NO_TOKEN).all()


def test_batches_keep_to_the_budget():
    a = adapter("llava")
    prompts = [a.encode(r) for r in requests()]
    batches = list(observe(a, Counts(), prompts, batch_size=3))
    assert max(len(batch.prompts) for batch in batches) == 3
    assert sorted(p.request.id for batch in batches for p in batch.prompts) == sorted(p.request.id for p in prompts)


def test_an_image_that_cannot_be_read(tmp_path):
    a = adapter("llava")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    asked = request("broken", "<image>\nwhat do you see ?", ImageRef(str(broken)))
    with pytest.raises(SampleError, match=r"broken: .*broken\.png"):
        list(observe(a, Counts(), [a.encode(asked)]))


def test_first_token_states_come_in_the_order_of_the_requests():
    """Batches are planned by length; text-only prompts of several lengths, each against itself alone."""
    a = adapter("llava")
    asked = [request(str(n), "many " * n + "?") for n in (3, 9, 1, 5)]
    states = first_token_states(a, asked, [2, 5])
    assert states.shape == (2, 4, 64)
    assert states.dtype == torch.float32
    close(states, torch.cat([first_token_states(a, [r], [2, 5]) for r in asked], dim=1))
    (batch,) = observe(a, Keeps(LAYERS), [a.encode(asked[1])])
    close(states[0, 1], batch.cut(batch.state["hidden.2"], 0)[:, 0])


@families
def test_prompts_that_share_nothing_are_one_pass_each_and_seen_alike(family):
    """Three prompts about images of their own, of several lengths; with a limit, in batches of what fits."""
    a = adapter(family)
    asked = [requests()[0], requests()[3], requests()[5]]
    prompts = [a.encode(r) for r in asked]
    probe = Keeps(LAYERS)
    (split,) = observe(a, probe, prompts, new_tokens=2, share=False)
    stages: list[Stage] = []

    class Notes(Keeps):
        def observe_hidden(self, layer, hidden, ctx):
            if layer == 0:
                stages.append(ctx.stage)
            super().observe_hidden(layer, hidden, ctx)

    (whole,) = observe(a, Notes(LAYERS), prompts, new_tokens=2)
    assert stages == [Stage.SUFFIX, Stage.DECODE, Stage.DECODE]
    parts = list(observe(a, Notes(LAYERS), prompts, new_tokens=2, pass_tokens=max(map(len, prompts))))
    assert [len(part.prompts) for part in parts] == [1, 1, 1]
    by_id = {prompt.request.id: kept(part, 0) for part in parts for prompt in part.prompts}
    for row, prompt in enumerate(split.prompts):
        assert whole.prompts[row] is prompt
        expected, ours = kept(split, row), kept(whole, row)
        for name in expected:
            close(ours[name], expected[name], atol=1e-3)
            close(by_id[prompt.request.id][name], expected[name], atol=1e-3)
    assert torch.equal(whole.tokens, split.tokens)
