"""What a prefill costs in the decoder's layers, by the formulas that papers on pruning use.

They count a multiplication and the addition that follows as one; twice as many are floating-point operations. Norms,
embeddings, the head and the vision encoder are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Formula = Literal["f2", "f3"]
"""f2: a feed-forward part of two matrices, as FastV (arXiv 2403.06764) and DivPrune (2503.02175) count. f3: the gated
one of three that the models have, as PyramidDrop (2410.17247) counts."""


@dataclass(frozen=True)
class LayerShape:
    """The sizes of a decoder layer.

    Attributes:
        n_layers: L.
        hidden: d, width of the residual stream.
        intermediate: m, width of the feed-forward part.
        kv_width: Width of the keys; that of the residual stream without grouped heads.
        bytes_per_number: Of the cache.
    """

    n_layers: int
    hidden: int
    intermediate: int
    kv_width: int
    bytes_per_number: int = 2

    @classmethod
    def of(cls, config: Any, bytes_per_number: int) -> "LayerShape":
        """From a language model's configuration."""
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.intermediate_size,
            config.num_key_value_heads * head,
            bytes_per_number,
        )

    def macs(self, tokens: Sequence[float], formula: Formula = "f3", grouped: bool = False) -> float:
        """Multiply-adds of a prefill.

        Args:
            tokens: n of each layer.
            formula: 4nd² + 2n²d and 2ndm (f2) or 3ndm (f3).
            grouped: Count the narrower keys and values of grouped heads [ours]: 2nd² + 2nd·d_kv in place of 4nd².
        """
        d, matrices = self.hidden, 2 if formula == "f2" else 3
        projections = 2 * d * d + 2 * d * self.kv_width if grouped else 4 * d * d
        return sum(n * projections + 2 * n * n * d + matrices * n * d * self.intermediate for n in tokens)

    def kv_bytes(self, tokens: Sequence[float]) -> float:
        """Bytes of keys and values of n tokens in each layer."""
        return sum(2 * n * self.kv_width * self.bytes_per_number for n in tokens)
