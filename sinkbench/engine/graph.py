"""A decode pass as a CUDA graph: small batches wait for launches otherwise, not for memory."""

from collections.abc import Callable

import torch
from torch import Tensor

from sinkbench.errors import SinkbenchError


class CapturedPass:
    """A pass that was captured once and is replayed.

    `torch.cuda.graph` would collect garbage and empty the allocator's cache first, which costs more than the capture.

    Args:
        run: The pass. It must have run before, so that nothing is built or compiled under capture.
        name: Whose pass it is, for the error.

    Raises:
        SinkbenchError: The pass does what a graph cannot hold.
        torch.OutOfMemoryError: There is no room for it.
    """

    def __init__(self, run: Callable[[], Tensor], name: str) -> None:
        self._graph = torch.cuda.CUDAGraph()
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            self._graph.capture_begin()
            try:
                self._logits = run()
            except BaseException as error:
                self._abandon()  # Whatever went wrong, an open capture would fail everything after it.
                if isinstance(error, torch.OutOfMemoryError) or not isinstance(error, RuntimeError):
                    raise
                raise SinkbenchError(
                    f"{name} declares its decode pass capturable, and it is not: {error}",
                    "Set `capturable = False` in its intervention, or remove what reads back from the device.",
                ) from error
            self._graph.capture_end()
        current.wait_stream(side)

    def replay(self) -> Tensor:
        """Run the pass again; returns its logits, in the same memory each time."""
        self._graph.replay()
        return self._logits

    def _abandon(self) -> None:
        try:
            self._graph.capture_end()
        except RuntimeError:
            # The capture is invalid already; ending it is what matters.
            return
