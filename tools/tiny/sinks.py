"""Does a model have massive activations and attention sinks? Measured on held-out images, layer by layer.

Quantities follow Sun et al., "Massive Activations in Large Language Models" (arXiv 2402.17762: largest against median
magnitude) and Kang et al., "See What You Are Told" (arXiv 2503.03321: phi = max_d |x_d| / RMS(x) marks sink tokens).
"""

from typing import Any

import torch
from torch import Tensor

from tiny.prompts import encode_prompts


@torch.no_grad()
def sink_report(model: Any, processor: Any, images: Tensor, question: str) -> list[dict[str, Any]]:
    """Activations and attention of every hidden state of the language model.

    Args:
        model: The model; its attention implementation is restored afterwards.
        processor: Its processor.
        images: (B, 3, H, W) uint8.
        question: Asked about every image; attention is that of the last prompt token.

    Returns:
        One entry a hidden state: `layer` 0 is the embeddings, n the output of block n (the last one after the final
        norm, as transformers returns it). Attention masses are those of block n, missing for the embeddings.
    """
    inputs = encode_prompts(model, processor, images, [question] * len(images))
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        output = model(**inputs, output_hidden_states=True, output_attentions=True)
    finally:
        model.set_attn_implementation(implementation)
    is_image = inputs["input_ids"][0] == model.config.image_token_id
    report = [
        {"layer": layer, **_activations(hidden.float(), is_image)} for layer, hidden in enumerate(output.hidden_states)
    ]
    for entry, weights in zip(report[1:], output.attentions, strict=True):
        entry |= _masses(weights[:, :, -1].float(), is_image)
    return report


def _activations(hidden: Tensor, is_image: Tensor) -> dict[str, Any]:
    """Magnitudes of (B, K, D) hidden states; `is_image` (K,) marks image tokens, position 0 is the first token."""
    magnitude = hidden.abs()
    image, text = magnitude[:, is_image], magnitude[:, ~is_image][:, 1:]
    phi = image.amax(-1) / image.square().mean(-1).sqrt()
    by_dimension = image.amax((0, 1))
    dimensions = by_dimension.topk(4).indices.tolist()
    return {
        "median": round(magnitude.median().item(), 4),
        "image_max": round(image.max().item(), 3),
        "text_max": round(text.max().item(), 3),
        "first_max": round(magnitude[:, 0].max().item(), 3),
        "image_phi_max": round(phi.max().item(), 3),
        "image_phi_median": round(phi.median().item(), 3),
        "image_dimensions": {str(d): round(by_dimension[d].item(), 3) for d in dimensions},
        "outlier_tokens_per_image": round((image.amax(-1) > 20 * image.median()).sum(-1).float().mean().item(), 2),
    }


def _masses(weights: Tensor, is_image: Tensor) -> dict[str, float]:
    """Attention of the last prompt token, mean over images and heads; `weights` is (B, H, K)."""
    image = weights[:, :, is_image].mean(1)
    return {
        "first_mass": round(weights[:, :, 0].mean().item(), 4),
        "image_mass": round(image.sum(-1).mean().item(), 4),
        "top_image_token_mass": round(image.amax(-1).mean().item(), 4),
    }


def sink_summary(report: list[dict[str, Any]]) -> dict[str, Any]:
    """The layer, apart from the normalised last one, where image tokens stand out most from the median."""
    top = max(report[:-1], key=lambda entry: entry["image_max"] / max(entry["median"], 1e-6))
    return {
        "layer": top["layer"],
        "image_max": top["image_max"],
        "median": top["median"],
        "ratio": round(top["image_max"] / max(top["median"], 1e-6), 1),
        "dimensions": [int(d) for d in top["image_dimensions"]],
    }
