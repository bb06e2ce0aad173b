"""What plain transformers does with the same prompts: `model.generate` on left-padded batches, nothing shared."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter, ImageInputs
from sinkbench.bench.measure import Clock, Effort, Prepared, peak_memory, rates
from sinkbench.engine.prompt import Prompt
from sinkbench.errors import SinkbenchError

Attention = Literal["eager", "sdpa"]


def measure_plain(
    adapter: Adapter,
    prepared: Prepared,
    attention: Attention,
    clock: Clock,
    effort: Effort,
) -> dict[str, Any]:
    """Numbers of one workload under `model.generate`; the same entries as `measure`.

    The first batch runs once as the warm-up, with answers of a token.

    Raises:
        torch.OutOfMemoryError: A batch does not fit.
        SinkbenchError: The batches have answers of different lengths, or `generate` gives another number of tokens.
    """
    lengths = {prompt.request.generation.max_new_tokens for prompt in prepared.prompts}
    if len(lengths) > 1:
        raise SinkbenchError(f"plain generate is measured with answers of one length, not {sorted(lengths)}")
    new_tokens = lengths.pop()

    def run(most: int) -> None:
        for model_inputs in ready:
            generate(adapter, model_inputs, most)

    with _attention(adapter.model, attention), peak_memory(adapter.device) as peak:
        # Before the clock starts: nobody is to say that plain transformers lost time in our packing.
        ready = [packed(adapter, batch, prepared.inputs) for batch in prepared.batches]
        generate(adapter, ready[0], 1)
        first = effort.repeat(clock, lambda: run(1))
        whole = effort.repeat(clock, lambda: run(new_tokens)) if new_tokens > 1 else first
    return {**rates(prepared.batches, first, whole), "peak_bytes": peak.get("bytes")}


@torch.inference_mode()
def generate(adapter: Adapter, model_inputs: dict[str, Tensor], new_tokens: int) -> Tensor:
    """Tokens (B, new_tokens) of `model.generate`, which does not stop at the end of a sequence.

    Raises:
        SinkbenchError: It gave another number of tokens.
    """
    from transformers import GenerationConfig

    config = GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=False,
        # An id that no model gives: without one, `generate` takes the model's own and stops there.
        eos_token_id=adapter.model.config.get_text_config().vocab_size,
        pad_token_id=adapter.tokenizer.pad_token_id,
    )
    tokens: Tensor = adapter.model.generate(**model_inputs, generation_config=config)
    samples, length = model_inputs["input_ids"].shape
    tokens = tokens[:, length:]
    if tokens.shape != (samples, new_tokens):
        raise SinkbenchError(f"generate gave {tuple(tokens.shape)} tokens, not {(samples, new_tokens)}")
    return tokens


def packed(adapter: Adapter, batch: Sequence[Prompt], inputs: Mapping[str, ImageInputs]) -> dict[str, Tensor]:
    """What `generate` takes, on the device: left-padded ids with their mask, and every prompt's images one by one."""
    longest = max(len(prompt) for prompt in batch)
    ids = torch.full((len(batch), longest), adapter.tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(batch):
        ids[row, longest - len(prompt) :] = prompt.ids
        mask[row, longest - len(prompt) :] = 1
    tensors: dict[str, Tensor] = {"input_ids": ids, "attention_mask": mask}
    images = [inputs[image.key].tensors for prompt in batch for image in prompt.images]
    for name in images[0] if images else ():
        tensors[name] = _joined([image[name] for image in images])
    if "image_grid_thw" in tensors:
        # The Qwen-VL families tell images from text by it when they number positions.
        tensors["mm_token_type_ids"] = (ids == adapter.image_token).long()
    moved = {name: value.to(adapter.device) for name, value in tensors.items()}
    return {name: value.to(adapter.dtype) if value.is_floating_point() else value for name, value in moved.items()}


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Images one after the other; those with fewer tiles (1, T, …) than others are filled up with empty ones."""
    if parts[0].ndim < 5:
        return torch.cat(list(parts))
    most = max(part.shape[1] for part in parts)
    return torch.cat([torch.cat((p, p.new_zeros(1, most - p.shape[1], *p.shape[2:])), dim=1) for p in parts])


@contextmanager
def _attention(model: Any, name: Attention) -> Iterator[None]:
    """The model with one of transformers' own attention functions in all its parts."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
