"""A tiny random Llama as a real GGUF file, written as llama.cpp's converter does."""

from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from random_models import TEXT_KINDS, TEXT_TEMPLATE, _text
from transformers import AutoModelForCausalLM

TOKENS = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz?:", "Ġ", "is", "Ġis"]
MERGES = ["i s", "Ġ is"]
LINEAR = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
KIND = gguf.GGMLQuantizationType.Q8_0


def write_gguf(path: Path, template: str | None = TEXT_TEMPLATE):
    """Write the file; returns the model whose weights it holds, rounded as the file rounds them."""
    config = _text(len(TOKENS), 2, TEXT_KINDS["llama"][0])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    writer = gguf.GGUFWriter(path, "llama")
    _write_header(writer, config, template)
    state = model.state_dict()
    for name, value in state.items():
        weight = value.numpy()
        target = _target(name)
        if weight.ndim == 1:
            writer.add_tensor(target, weight)
            continue
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        packed = quantize(weight, KIND)
        value.copy_(torch.from_numpy(dequantize(packed, KIND)))
        part = target.split(".")[-2]
        writer.add_tensor(target, _interleaved(packed, heads[part]) if part in heads else packed, raw_dtype=KIND)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _write_header(writer, config, template):
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([gguf.TokenType.CONTROL] * 4 + [gguf.TokenType.NORMAL] * (len(TOKENS) - 4))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    if template:
        writer.add_chat_template(template)


def _target(name: str) -> str:
    """The tensor's name in the file."""
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    path = name.removesuffix(".weight")
    if path in whole:
        return f"{whole[path]}.weight"
    _, _, layer, part = path.split(".", 3)
    parts = {**LINEAR, "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    return f"blk.{layer}.{parts[part]}.weight"


def _interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection in llama.cpp's order: the two halves that RoPE pairs lie side by side."""
    return rows.reshape(heads, 2, -1, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)
