"""Dynamic RoPE: what the engine knows beforehand is not read back, and what it cannot know is left to transformers."""

import torch
from torch import nn
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from sinkbench.engine.rope import is_steady, steady

LENGTH = 32


def model(kind: str) -> nn.Module:
    parameters = {"rope_type": kind, "rope_theta": 10_000.0, **({"factor": 2.0} if kind == "dynamic" else {})}
    config = Qwen2Config(
        hidden_size=32, num_attention_heads=2, max_position_embeddings=LENGTH, rope_parameters=parameters
    )
    holder = nn.Module()
    holder.rotary_emb = Qwen2RotaryEmbedding(config)
    return holder


def angles(holder: nn.Module, length: int) -> torch.Tensor:
    return holder.rotary_emb(torch.zeros(1, length, 32), torch.arange(length)[None])[0]


def test_short_prompts_have_the_frequencies_of_plain_rope_either_way():
    plain, dynamic = model("default"), model("dynamic")
    assert is_steady(plain, 10**6)
    assert is_steady(dynamic, LENGTH)
    with steady(dynamic, LENGTH):
        assert dynamic.rotary_emb.rope_type == "default"
        inside = angles(dynamic, LENGTH)
    assert dynamic.rotary_emb.rope_type == "dynamic"
    assert torch.equal(inside, angles(dynamic, LENGTH))
    assert torch.equal(inside, angles(plain, LENGTH))


def test_long_prompts_still_change_them_and_short_ones_after_them_change_them_back():
    dynamic, reference = model("dynamic"), model("dynamic")
    short = angles(model("default"), LENGTH // 2)
    assert not is_steady(dynamic, 2 * LENGTH)
    with steady(dynamic, 2 * LENGTH):
        long = angles(dynamic, 2 * LENGTH)
    assert torch.equal(long, angles(reference, 2 * LENGTH))
    assert not torch.equal(long[:, : LENGTH // 2], short)
    with steady(dynamic, LENGTH // 2):
        assert torch.equal(angles(dynamic, LENGTH // 2), short)


def test_an_exception_leaves_the_model_as_it_was():
    dynamic = model("dynamic")
    try:
        with steady(dynamic, 4):
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert dynamic.rotary_emb.rope_type == "dynamic"
