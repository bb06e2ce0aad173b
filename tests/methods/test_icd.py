"""ICD: the second branch is the same request under another system prompt."""

import pytest
import torch
from harness import adapter, answers, image, method, request, requests, stream

from sinkbench.engine.generate import Engine
from sinkbench.engine.stream import contrast_prompts
from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.methods.base import Intervention
from sinkbench.methods.icd import Icd, IcdIntervention
from sinkbench.request import Message, Request

MISLEADS = "how many red cat do you see ?"


def test_the_system_prompt_is_replaced_and_the_rest_stays():
    bound = IcdIntervention(Icd(instruction="x"))
    asked = Request("r", (Message("system", "be brief"), Message("user", "<image>a"), Message("assistant", "b")))
    branch = bound.contrast_request(asked)
    assert branch.messages == (Message("system", "x"), *asked.messages[1:])
    assert bound.contrast_request(branch) == branch
    assert bound.contrast_request(Request("r", asked.messages[1:])) == Request("r", branch.messages)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_the_branch_is_the_model_under_that_system_prompt(family):
    """Its logits are those of a plain run of the other request."""
    a, asked = adapter(family), request("r", "<image>\nwhat do you see ?", image(0, 60, 30))
    prompt, seen = a.encode(asked), []

    class Spy(IcdIntervention):
        def edit_logits(self, logits, ctx):
            seen.append(ctx.contrast_logits)
            return logits

    class Look(Intervention):
        def edit_logits(self, logits, ctx):
            seen.append(logits)
            return logits

    bound = Spy(Icd(instruction=MISLEADS))
    (branch,) = contrast_prompts(a, bound, [prompt])
    assert not branch.ids.equal(prompt.ids)
    for intervention, shown in ((bound, prompt), (Look(), branch)):
        engine = Engine(a, get_method("greedy"))
        engine.lanes["greedy"].method = intervention
        engine.generate([shown], {ref.key: a.preprocess(ref) for ref in prompt.images})
        seen[1:] = seen[1:] if intervention is not bound else []
    torch.testing.assert_close(seen[0], seen[1], atol=1e-4, rtol=1e-4)


def test_neutral_parameters_answer_greedily():
    a, asked = adapter("llava"), requests()
    plain = answers(a, method("greedy"), asked)
    assert answers(a, Icd(instruction=MISLEADS, alpha=0.0), asked) == plain
    assert answers(a, Icd(instruction=MISLEADS, beta=1.0), asked) == plain


def test_bad_values_and_compositions():
    with pytest.raises(UsageError, match="empty"):
        Icd(instruction=" ")
    with pytest.raises(UsageError, match="no share"):
        Icd(beta=2.0)
    with pytest.raises(UsageError, match="sees images"):
        get_method("icd+topk_heads")
    assert stream(adapter("llava"), get_method("icd+var", {"icd.instruction": MISLEADS}), requests(), 1).branch_prefix
