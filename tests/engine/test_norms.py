"""Fused norms: found by what they compute, equal to it, and gone after the pass."""

import pytest
import torch
from harness import FAMILIES, adapter
from torch import nn

from sinkbench.engine import norms
from sinkbench.engine.norms import fused_norms, rms_norms


class OneMoreRMSNorm(nn.Module):
    """As some families have it: the weight's offset is one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(8))
        self.variance_epsilon = 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (1 + self.weight) * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_norm_of_every_family_is_found_and_equal(family):
    model = adapter(family).language_model
    found = rms_norms(model)
    assert len(found) >= 2 * len(adapter(family).layers) + 1
    generator = torch.Generator().manual_seed(1)
    for norm in found:
        x = 3 * torch.randn(2, 5, norm.weight.shape[0], generator=generator)
        torch.testing.assert_close(norms._fused(norm, x), norm(x), rtol=1e-5, atol=1e-5)
        half = x.bfloat16()
        torch.testing.assert_close(norms._fused(norm, half), norm(half).bfloat16(), rtol=2**-7, atol=1e-3)


def test_a_norm_that_computes_something_else_is_left_alone():
    holder = nn.ModuleList([OneMoreRMSNorm(), nn.RMSNorm(8), nn.LayerNorm(8)])
    assert rms_norms(holder) == []


def test_float32_and_the_cpu_keep_transformers_own_arithmetic():
    model = adapter("llava").language_model
    with fused_norms(model):
        assert not any("forward" in vars(norm) for norm in rms_norms(model))


def test_norms_are_restored_after_an_exception(monkeypatch):
    model = adapter("llava").language_model
    monkeypatch.setattr(norms, "_wanted", lambda _: True)

    def explode() -> None:
        with fused_norms(model):
            assert all("forward" in vars(norm) for norm in rms_norms(model))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        explode()
    assert not any("forward" in vars(norm) for norm in rms_norms(model))
