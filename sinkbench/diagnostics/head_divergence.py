"""D7.1, vision-aware head divergence (He et al., Cracking the Code of Hallucination in LVLMs, arXiv 2412.13949, Eq. 4).

The released code could not be read; that a head's output is the one before W_O is a third party's reading.
"""

import torch
from torch import Tensor


def head_divergence(with_image: Tensor, without_image: Tensor) -> Tensor:
    """VHD (B, …, H) float32: Euclidean distance of heads' outputs (B, …, H, d) with the image and with it removed.

    Both are of the last row, behind the same text and the same generated tokens.
    """
    distance: Tensor = torch.linalg.vector_norm(with_image.float() - without_image.float(), dim=-1)
    return distance


def token_divergence(divergence: Tensor, top: int = 8) -> Tensor:
    """T-VHD (B,) of a generated token: the sum over layers of the largest VHDs (B, L, H) (Eq. 5).

    Args:
        divergence: (B, L, H).
        top: Heads of each layer that count; 8 is a third party's number. No more than H do.
    """
    return divergence.topk(min(top, divergence.shape[-1]), dim=-1).values.sum((1, 2))
