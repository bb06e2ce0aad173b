"""D6, BOS cosine and decorrelation loss (Anand et al., Mitigating Attention Sinks …, arXiv 2510.22603; released code).

c_t[i] is the cosine of token t's hidden state to the first token's. Intermediate sinks show by a high one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sinkbench.diagnostics.cosine import cosines
from sinkbench.diagnostics.masking import masked_sum, without
from sinkbench.diagnostics.sink_dims import first_tokens
from sinkbench.diagnostics.sink_metric import first_token


def bos_cosines(hidden: Tensor, valid: Tensor) -> Tensor:
    """c_t (B, K) float32 of hidden states (B, K, d), 1 at the first real token; valid (B, K) bool."""
    return cosines(hidden, first_tokens(hidden, valid))


def mean_square(cosine: Tensor, valid: Tensor) -> Tensor:
    """Mean (B, …) of c² over the real tokens behind the first; NaN where there are none.

    Args:
        cosine: (B, …, K).
        valid: (B, K) bool.
    """
    behind = without(valid, first_token(valid))
    total = masked_sum(cosine.square(), behind)
    return total / behind.sum(1).view(-1, *(1,) * (total.dim() - 1))


def decorrelation_loss(hidden: Sequence[Tensor], counted: Tensor) -> Tensor:
    """L_dec: mean over layers of the mean c² over all counted tokens of the batch but each sample's first.

    The released code gives the states X[1] to X[L−1] and counts the tokens of the prompt; it neither masks padding nor
    finds the first token behind it, which this does. The first token's state is not detached.

    Args:
        hidden: (B, K, d) of each layer.
        counted: (B, K) bool, real tokens that are no output.

    Returns:
        Scalar in [0, 1]; the code adds it to the language model's loss 10 000-fold.
    """
    behind = without(counted, first_token(counted))
    layers = [masked_sum(bos_cosines(states, counted).square(), behind).sum() for states in hidden]
    return torch.stack(layers).mean() / behind.sum()
