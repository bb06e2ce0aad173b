"""VCD: contrast with the model that sees the image through noise."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from sinkbench.engine.context import Stage
from sinkbench.errors import UsageError
from sinkbench.methods.contrastive import Contrastive, ContrastiveIntervention
from sinkbench.methods.facts import ModelInfo, Paper

if TYPE_CHECKING:
    from sinkbench.engine.prompt import Prompt

STEPS = 1000
"""Steps of the diffusion schedule."""


@cache
def coefficients() -> tuple[Tensor, Tensor]:
    """√ᾱ_t of the image and √(1 − ᾱ_t) of the noise, (1000,) float32: a sigmoid schedule from 1e-5 to 5e-3."""
    rates = torch.linspace(-6, 6, STEPS).sigmoid() * (5e-3 - 1e-5) + 1e-5
    kept = (1 - rates).cumprod(0)
    return kept.sqrt(), (1 - kept).sqrt()


def diffuse(pixels: Tensor, noise: Tensor, step: int) -> Tensor:
    """√ᾱ·x + √(1 − ᾱ)·ε of normalised pixels and noise of one shape, after `step` steps."""
    signal, noisy = (float(values[step]) for values in coefficients())
    return signal * pixels + noisy * noise


@dataclass(frozen=True)
class Vcd(Contrastive):
    """Visual Contrastive Decoding.

    The published numbers are of direct sampling (temperature 1, top-p 1): run `sample+vcd`, and compare with `sample`.

    Attributes:
        noise_step: Steps of diffusion that the image goes through, 0 to 999.
        seed: Of the noise, which is drawn once an image [ours: the released code draws it without a seed].
    """

    name: ClassVar[str] = "vcd"
    summary: ClassVar[str] = "contrasts with a branch that sees the image through noise"
    paper: ClassVar[Paper] = Paper(
        title="Mitigating Object Hallucinations in Large Vision-Language Models through Visual Contrastive Decoding",
        authors="Leng et al.",
        venue="CVPR 2024",
        arxiv="2311.16922",
        code="DAMO-NLP-SG/VCD@d6568ff",
    )
    edits: ClassVar[Stage] = Stage.SUFFIX | Stage.DECODE
    family: ClassVar[str] = "contrastive decoding"
    cost: ClassVar[str] = "branch"

    noise_step: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.noise_step < STEPS:
            raise UsageError(f"vcd.noise_step={self.noise_step}", f"Give a step from 0 to {STEPS - 1}.")

    def bind(self, model: ModelInfo) -> "VcdIntervention":
        """Nothing depends on the model."""
        return VcdIntervention(self)


class VcdIntervention(ContrastiveIntervention):
    """VCD on a model."""

    method: Vcd

    def contrast(self, prompt: "Prompt") -> "Prompt":
        """The same prompt about noisy images."""
        return prompt.with_edited_images(f"vcd/{self.method.noise_step}/{self.method.seed}")

    def edit_image(self, tensors: Mapping[str, Tensor], edit: str, key: str) -> dict[str, Tensor]:
        """Noise on what the processor made of the pixels; it depends on the image and the seed alone."""
        pixels = tensors["pixel_values"]
        digest = hashlib.sha256(f"{edit}/{key}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        noise = torch.randn(pixels.shape, generator=generator).to(pixels)
        return {**tensors, "pixel_values": diffuse(pixels, noise, self.method.noise_step)}
