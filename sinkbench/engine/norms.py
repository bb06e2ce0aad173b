"""RMS norms as one kernel: transformers' own run as six, each over the whole hidden state.

A norm is replaced only after it has been seen to compute what the kernel computes, and only for one pass at a time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_found: "WeakKeyDictionary[nn.Module, list[nn.Module]]" = WeakKeyDictionary()


@contextmanager
def fused_norms(language_model: Any) -> Iterator[None]:
    """Within it, a decoder stack's RMS norms run as one kernel each, if it is in a half type on a GPU.

    In float32, and on other devices, transformers' own arithmetic stays to the bit. In half types the kernel rounds
    once, after the weight, where transformers rounds before it as well.
    """
    if not _wanted(language_model):
        yield
        return
    norms = rms_norms(language_model)
    for norm in norms:
        norm.forward = partial(_fused, norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _wanted(language_model: nn.Module) -> bool:
    parameter = next(language_model.parameters())
    return parameter.is_cuda and parameter.dtype is not torch.float32


def rms_norms(language_model: nn.Module) -> list[nn.Module]:
    """The modules that are RMS norms with a plain weight, found by what they compute."""
    if language_model not in _found:
        named = [m for m in language_model.modules() if type(m).__name__.endswith("RMSNorm")]
        _found[language_model] = [norm for norm in named if _is_plain(norm)]
    return _found[language_model]


def _is_plain(norm: Any) -> bool:
    """Whether a module's output on random numbers is that of `F.rms_norm`; some families add 1 to the weight."""
    if not hasattr(norm, "variance_epsilon") or getattr(norm, "weight", None) is None:
        return False
    weight = norm.weight
    generator = torch.Generator(weight.device).manual_seed(0)
    x = torch.randn(4, weight.shape[-1], generator=generator, device=weight.device, dtype=torch.float32)
    with torch.no_grad():
        return torch.allclose(norm(x).float(), _fused(norm, x).float(), rtol=1e-4, atol=1e-4)


def _fused(norm: Any, hidden_states: Tensor) -> Tensor:
    weight = norm.weight if norm.weight.dtype is hidden_states.dtype else norm.weight.to(hidden_states.dtype)
    return F.rms_norm(hidden_states, weight.shape, weight, norm.variance_epsilon)
