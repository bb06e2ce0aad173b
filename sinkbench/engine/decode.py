"""The decode loop: choose tokens, end answers, drop finished samples, replay the pass where that is safe."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter
from sinkbench.engine.endings import Endings
from sinkbench.engine.graph import CapturedPass
from sinkbench.engine.prompt import Prompt
from sinkbench.engine.stream import Stream
from sinkbench.request import Generation, Response

_COMPACT_BELOW = 0.5
"""Finished samples are dropped from the cache once fewer than this share of its rows is alive."""

_CAPTURE_AFTER = 1
"""Passes of a batch that run uncaptured first: short answers never pay for a capture."""

_CAPTURE_FOR = 12
"""Passes that must be left at most for a capture, which costs about two, to pay."""


class Decoder:
    """The decode loop of one batch.

    Args:
        adapter: The model.
        stream: The batch.
        prompts: Its B prompts.
        settings: How their answers are generated.
        seed: Added to each request's own seed when sampling.
        capture: Whether decode passes may be captured as CUDA graphs.
    """

    def __init__(
        self,
        adapter: Adapter,
        stream: Stream,
        prompts: Sequence[Prompt],
        settings: Generation,
        seed: int = 0,
        capture: bool = False,
    ) -> None:
        self.stream = stream
        self.prompts = prompts
        self.settings = settings
        self.steps = 0
        self.draws = _draws(prompts, settings, seed).to(adapter.device) if settings.do_sample else None
        self.endings = Endings(adapter, settings)
        self.capture = capture
        self._captured: CapturedPass | None = None
        self._since_change = 0

    def run(self, scores: Tensor) -> list[Response]:
        """Generate until every sample has finished.

        Args:
            scores: (B, V) scores of the first token, from `Stream.prefill`.
        """
        alive = set(range(len(self.prompts)))
        rows = list(range(len(self.prompts)))  # Which sample each row of the cache belongs to.
        answers: list[list[int]] = [[] for _ in self.prompts]
        finish: list[Literal["stop", "length"]] = ["length" for _ in self.prompts]
        while True:
            chosen = self._choose(scores)
            tokens, ahead = self._read_while_running(chosen)
            for row, token in enumerate(tokens):
                sample = rows[row]
                if sample not in alive:
                    continue
                answers[sample].append(token)
                if self.endings.ends(answers[sample]):
                    finish[sample] = "stop"
                    alive.remove(sample)
                elif len(answers[sample]) == self.settings.max_new_tokens:
                    alive.remove(sample)
            if not alive:
                break
            if len(alive) <= _COMPACT_BELOW * len(rows):
                kept = torch.tensor([row for row, sample in enumerate(rows) if sample in alive], device=chosen.device)
                rows = [sample for sample in rows if sample in alive]
                chosen, ahead = chosen[kept], None if ahead is None else ahead[kept]
                self.draws = None if self.draws is None else self.draws[kept]
                self.stream.keep(kept)
                self._captured, self._since_change = None, 0
            scores = self._step(chosen) if ahead is None else ahead
        return [self.endings.response(*of) for of in zip(self.prompts, answers, finish, strict=True)]

    def _read_while_running(self, chosen: Tensor) -> tuple[list[int], Tensor | None]:
        """The chosen tokens on the host; a captured pass over them is under way by then, if one more may be needed.

        Returns:
            Tokens (R,), and the scores of the pass or None.
        """
        if self._captured is None or self.steps + 1 >= self.settings.max_new_tokens:
            return chosen.tolist(), None
        read = _reader(chosen)
        scores = self._step(chosen)
        return read(), scores

    def _step(self, tokens: Tensor) -> Tensor:
        """One decode pass; replayed once it has been captured."""
        stream = self.stream
        stream.begin_step(tokens)
        left = self.settings.max_new_tokens - self.steps
        # After a change of rows one pass warms up: it builds what may not be built under capture.
        warm = self.steps >= _CAPTURE_AFTER and self._since_change > 0
        if self.capture and self._captured is None and warm and left >= _CAPTURE_FOR:
            self._captured = CapturedPass(stream.run_step, type(stream.method).__name__)
        logits = stream.run_step() if self._captured is None else self._captured.replay()
        self.steps += 1
        self._since_change += 1
        return stream.end_step(logits)

    def _choose(self, scores: Tensor) -> Tensor:
        """The next token (R,) of each row, from scores (R, V)."""
        if self.draws is None:
            return scores.argmax(-1)
        from transformers import TemperatureLogitsWarper, TopPLogitsWarper

        ids = torch.empty(len(scores), 0, dtype=torch.int64, device=scores.device)
        scores = TemperatureLogitsWarper(self.settings.temperature)(ids, scores)
        if self.settings.top_p < 1:
            scores = TopPLogitsWarper(self.settings.top_p)(ids, scores)
        # The token at which the cumulated probability passes a number drawn from [0, 1).
        cumulated = scores.double().softmax(-1).cumsum(-1)
        drawn = self.draws[:, self.steps, None] * cumulated[:, -1:]
        return torch.searchsorted(cumulated, drawn, right=True).squeeze(1)


def _reader(tokens: Tensor) -> Callable[[], list[int]]:
    """Start to copy tokens (R,) to the host; the function waits for them, and not for what the device does next."""
    if not tokens.is_cuda:
        return tokens.tolist
    host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
    host.copy_(tokens, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record()

    def read() -> list[int]:
        copied.synchronize()
        return host.tolist()

    return read


def _draws(prompts: Sequence[Prompt], settings: Generation, seed: int) -> Tensor:
    """(B, max_new_tokens) float64 in [0, 1): a sample's own random numbers, whatever batch and device it is on."""
    draws = torch.empty(len(prompts), settings.max_new_tokens, dtype=torch.float64)
    for row, prompt in zip(draws, prompts, strict=True):
        digest = hashlib.sha256(f"{seed}/{settings.seed}/{prompt.request.id}".encode()).digest()
        row.uniform_(generator=torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")))
    return draws
