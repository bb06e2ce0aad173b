"""Cosines of hidden states to one reference state, in float32: sums in bfloat16 over d flip tests at 0.9."""

import torch
from torch import Tensor


def cosines(hidden: Tensor, reference: Tensor) -> Tensor:
    """Cosine of each token's state to the sample's reference.

    On CUDA half-precision states are multiplied as they are, with float32 sums, unless a gradient is wanted.

    Args:
        hidden: (B, Q, d).
        reference: (B, d), of the same type.

    Returns:
        (B, Q) float32 in [−1, 1]; 0 where either is zero.
    """
    half = hidden.is_cuda and hidden.dtype in (torch.float16, torch.bfloat16)
    if half and not (torch.is_grad_enabled() and (hidden.requires_grad or reference.requires_grad)):
        dots = torch.bmm(hidden, reference[..., None], out_dtype=torch.float32)[..., 0]
    else:
        dots = torch.bmm(hidden.float(), reference.float()[..., None])[..., 0]
    lengths: Tensor = torch.linalg.vector_norm(hidden, dim=-1, dtype=torch.float32)
    length: Tensor = torch.linalg.vector_norm(reference, dim=-1, keepdim=True, dtype=torch.float32)
    return (dots / (lengths * length).clamp_min(torch.finfo(torch.float32).tiny)).clamp(-1, 1)
