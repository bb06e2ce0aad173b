"""A layer's attention as made-up maps, for methods that rank tokens by it."""

from torch import Tensor


class Maps:
    """Stands in for an `AttentionView` in a pass over a whole prompt.

    Args:
        weights: (B, H, Q, K) post-softmax.
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights
        self.query = weights[..., :1]

    def rows(self, rows: slice) -> Tensor:
        return self.weights[:, :, rows]

    def received(self, rows: Tensor) -> Tensor:
        return (self.weights * rows[:, None, :, None]).sum(2)
