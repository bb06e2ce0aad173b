"""D7.7, MDI and AEI (Wu et al., When Language Overrules, arXiv 2508.10552; formulas from a public re-implementation).

Attention of the answer's rows to text tokens T against that to image tokens O, per token. Whether T has the first
token, where the sink is, decides the figures and is not known of the paper: print them by `text_sets`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sinkbench.diagnostics.masking import masked_sum, without


class Dominance(NamedTuple):
    """Per sample, (B, …) float32; NaN where a sample lacks text or image. AEI = MDI / (1 + Q_T (MDI − 1)) for each.

    Attributes:
        mdi: (A_T / |T|) / (A_O / |O|): above 1 if text dominates.
        aei: P_T / Q_T, of the text.
        attention: P_T = A_T / (A_T + A_O).
        tokens: Q_T = |T| / (|T| + |O|).
    """

    mdi: Tensor
    aei: Tensor
    attention: Tensor
    tokens: Tensor


def dominance(mass: Tensor, text: Tensor, image: Tensor) -> Dominance:
    """MDI and AEI of each sample.

    Args:
        mass: (B, …, K) attention of the answer's rows, mean over heads, summed over rows; of a layer, or mean of a
            group of them.
        text: (B, K) bool, the text tokens of the prompt.
        image: (B, K) bool.
    """
    on_text, on_image = masked_sum(mass, text), masked_sum(mass, image)
    shape = (-1, *(1,) * (on_text.dim() - 1))
    n_text, n_image = (_positive(mask.sum(1).view(shape)) for mask in (text, image))
    attention = on_text / (on_text + on_image)
    tokens = (n_text / (n_text + n_image)).expand_as(attention)
    return Dominance((on_text / n_text) / (on_image / n_image), attention / tokens, attention, tokens)


def _positive(count: Tensor) -> Tensor:
    return torch.where(count > 0, count, torch.nan)


def text_sets(text: Tensor, first: Tensor, template: Tensor) -> dict[str, Tensor]:
    """The readings of T: all text, all but the first token, and the user's words alone; (B, K) bool each.

    Args:
        text: (B, K) bool, every text token of the prompt.
        first: (B,) slot of the first token.
        template: (B, K) bool, system prompt and chat markup.
    """
    later = without(text, first)
    return {"all": text, "no_first": later, "no_template": later & ~template}


def layer_groups(n_layers: int) -> dict[str, slice]:
    """The paper's layers: the first two, the central two, the last two."""
    middle = max(0, n_layers // 2 - 1)
    return {"early": slice(0, 2), "middle": slice(middle, middle + 2), "late": slice(max(0, n_layers - 2), n_layers)}
