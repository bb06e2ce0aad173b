"""VHR: which heads are chosen, that the image-free branch runs beside the prompt, and that the choice stays."""

import pytest
import torch
from harness import adapter, forced_tokens, image, logits, method, request, requests

from sinkbench.engine.context import Context, Stage
from sinkbench.engine.generate import Engine
from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.vhr import Vhr, select_heads

INFO = ModelInfo("m", n_layers=32, n_heads=4, n_kv_heads=4, hidden_size=64)


def test_heads_above_the_median_are_chosen():
    seeing = torch.zeros(2, 4, 3)
    seeing[0, :, 0] = torch.tensor([1.0, 4.0, 2.0, 3.0])
    seeing[1, :, 0] = torch.tensor([0.0, 5.0, 5.0, 5.0])
    chosen = select_heads(seeing, torch.zeros_like(seeing), drop_outliers=True)
    assert chosen.tolist() == [[False, True, False, True], [False, False, False, False]]


def test_a_head_that_surges_without_the_image_is_left_out():
    seeing, blind = torch.zeros(1, 4, 1), torch.zeros(1, 4, 1)
    seeing[0, :, 0] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    blind[0, 0, 0] = 9.0
    assert select_heads(seeing, blind, drop_outliers=False).tolist() == [[True, False, False, True]]
    assert select_heads(seeing, blind, drop_outliers=True).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("reinforced", [True, False])
def test_the_last_row_is_scaled_and_later_rows_by_the_same_choice(reinforced):
    bound = Vhr(alpha=3.0, branch_reinforced=reinforced).bind(INFO)
    heads = torch.randn(4, 5, 4, 8, generator=torch.Generator().manual_seed(0))
    ctx = Context(Stage.SUFFIX, torch.ones(4, 5, dtype=torch.uint8), 5, paired=True)
    edited = bound.edit_heads(20, heads, ctx)
    chosen = select_heads(heads[:2, -1], heads[2:, -1], drop_outliers=True)
    assert edited[:, :-1].equal(heads[:, :-1])
    factor = torch.where(chosen, 3.0, 1.0)[..., None]
    torch.testing.assert_close(edited[:2, -1], heads[:2, -1] * factor)
    torch.testing.assert_close(edited[2:, -1], heads[2:, -1] * (factor if reinforced else 1))
    assert bound.edit_heads(17, heads, ctx) is heads
    step = Context(Stage.DECODE, torch.ones(2, 6, dtype=torch.uint8), 1, state=ctx.state)
    step.state["vhr.heads.20"] = step.state["vhr.heads.20"][:2]
    row = torch.randn(2, 1, 4, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(bound.edit_heads(20, row, step)[:, 0], row[:, 0] * factor)


def test_the_branch_is_the_prompt_without_its_image_layer_by_layer():
    """What a layer is judged by: both branches, run apart and plain up to the first reinforced layer."""
    a = adapter("llava")
    asked = request("r", "<image>\nwhat do you see ?", image(0, 60, 30))
    prompt = a.encode(asked)
    first = min(Vhr().bind(a.info).layers)
    rows = {}
    for name, m, shown in (
        ("vhr", Vhr(), prompt),
        ("seeing", get_method("greedy"), prompt),
        ("blind", get_method("greedy"), prompt.without_images()),
    ):
        rows[name] = last_rows(a, m.bind(a.info), shown)
    torch.testing.assert_close(rows["vhr"][first][0], rows["seeing"][first][0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(rows["vhr"][first][1], rows["blind"][first][0], atol=1e-5, rtol=1e-4)
    assert not rows["vhr"][first + 1][0].allclose(rows["seeing"][first + 1][0], atol=1e-5)


def last_rows(a, bound, prompt):
    """What `edit_heads` is shown of the prompt's last row, (B, H, d) by layer."""
    edit, seen = bound.edit_heads, {}

    def record(layer, heads, ctx):
        if ctx.emits and ctx.stage is Stage.SUFFIX:
            seen[layer] = heads[:, -1].clone()
        return edit(layer, heads, ctx)

    bound.edit_heads = record
    engine = Engine(a, get_method("greedy"))
    engine.lanes["greedy"].method = bound
    engine.generate([prompt], {ref.key: a.preprocess(ref) for ref in prompt.images})
    return seen


def test_without_an_image_nothing_is_reinforced():
    a, asked = adapter("qwen2_5_vl"), [r for r in requests() if not r.images]
    forced = forced_tokens(1)
    torch.testing.assert_close(logits(a, Vhr(alpha=9.0), asked, forced), logits(a, method("greedy"), asked, forced))


def test_layers_and_bad_values():
    assert Vhr().bind(INFO).layers == range(18, 32)
    assert Vhr(n_layers=3).bind(INFO).layers == range(29, 32)
    with pytest.raises(UsageError, match="n_layers=40"):
        Vhr(n_layers=40).bind(INFO)
    with pytest.raises(UsageError, match="alpha=-1"):
        Vhr(alpha=-1.0)
    with pytest.raises(UsageError, match="each contrast"):
        get_method("vhr+vcd")
