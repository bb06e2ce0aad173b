"""DAMO: the update is replaced by its momentum from the layer on where the prediction turns round."""

import pytest
import torch

from sinkbench.engine.context import Context, ReadOut, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.damo import Damo
from sinkbench.methods.facts import ModelInfo

INFO = ModelInfo("m", n_layers=6, n_heads=1, n_kv_heads=1, hidden_size=3)


def run(method: Damo, outputs: list[torch.Tensor], emits: bool = True) -> list[torch.Tensor]:
    """The outputs (B, Q, d) of successive layers under DAMO, each layer adding what it added without."""
    ctx = Context(Stage.SUFFIX, torch.ones(2, 2, dtype=torch.uint8), 2, emits=emits)
    ctx.read_out = ReadOut(lambda x: x, lambda x: x.float())
    bound, hidden, before, edited = method.bind(INFO), outputs[0], outputs[0], []
    for layer, output in enumerate(outputs):
        hidden = bound.edit_hidden(layer, "block", hidden + output - before if layer else hidden, ctx)
        before = output
        edited.append(hidden)
    return edited


def there_and_back() -> list[torch.Tensor]:
    """Sample 0 moves on along one token; sample 1 turns round at layer 4."""
    scores = torch.zeros(6, 2, 2, 3)
    scores[:, 0, 1, 0] = torch.tensor([0, 0.5, 1, 1.5, 2, 2.5])
    scores[:, 1, 1, 0] = torch.tensor([0, 0.5, 1, 1.5, 0.25, 0.125])
    return list(scores)


def test_only_the_sample_that_turns_round_changes_and_only_from_there_on():
    outputs = there_and_back()
    edited = run(Damo(start=3), outputs)
    for before, after in zip(outputs[:4], edited[:4], strict=True):
        assert after.equal(before)
    assert edited[5][0].equal(outputs[5][0])
    assert edited[5][:, 0].equal(outputs[5][:, 0])
    assert not edited[4][1, 1].allclose(outputs[4][1, 1])


def test_the_momentum_by_hand():
    """Updates of token 0 at layers 3 and 4: 0.5 and −1.25; beta1 at layer 3, beta2 at layer 4, which turns."""
    edited = run(Damo(start=3, beta1=0.05, beta2=0.2), there_and_back())
    third = 0.95 * 0.5
    fourth = 0.2 * third + 0.8 * -1.25
    assert float(edited[4][1, 1, 0]) == pytest.approx(1.5 + fourth)
    # Once turned, beta1 again; the update is taken of the edited state.
    fifth = 0.05 * fourth + 0.95 * -0.125
    assert float(edited[5][1, 1, 0]) == pytest.approx(1.5 + fourth + fifth)


def test_passes_that_do_not_emit_are_left_alone():
    outputs = there_and_back()
    assert all(
        after.equal(before) for before, after in zip(outputs, run(Damo(start=3), outputs, emits=False), strict=True)
    )


def test_start():
    assert Damo().bind(INFO).start == 3
    for start in (1, 6):
        with pytest.raises(UsageError, match="two before it"):
            Damo(start=start).bind(INFO)
    with pytest.raises(UsageError, match="no cosine"):
        Damo(tau=-2.0)
