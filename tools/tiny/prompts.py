"""Questions on rendered images as model inputs, through the processor that ships with the model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def encode_prompts(model: Any, processor: Any, images: Tensor, questions: Sequence[str]) -> dict[str, Tensor]:
    """Left-padded inputs of one question an image, in the chat form.

    Args:
        model: Decides device and dtype.
        processor: Its processor.
        images: (B, 3, H, W) uint8.
        questions: B questions.
    """
    content = [[{"type": "image"}, {"type": "text", "text": question}] for question in questions]
    prompts = [
        processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
        for parts in content
    ]
    inputs = processor(images=list(images.cpu()), text=prompts, padding=True, return_tensors="pt").to(model.device)
    return {key: value.to(model.dtype) if key == "pixel_values" else value for key, value in inputs.items()}


@torch.no_grad()
def answer(
    model: Any, processor: Any, images: Tensor, asked: Sequence[tuple[int, str]], batch_size: int, max_new_tokens: int
) -> list[str]:
    """Greedy answers.

    Args:
        model: The model.
        processor: Its processor.
        images: (N, 3, H, W) uint8.
        asked: (index of the image, question) pairs.
        batch_size: Prompts generated together.
        max_new_tokens: Longest answer.

    Returns:
        One answer a pair, in order.
    """
    answers: list[str] = []
    for start in range(0, len(asked), batch_size):
        part = asked[start : start + batch_size]
        inputs = encode_prompts(model, processor, images[[index for index, _ in part]], [text for _, text in part])
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        answers += processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers
