"""When an answer ends, and what it then says."""

from collections.abc import Sequence
from typing import Literal

from sinkbench.adapters.base import Adapter
from sinkbench.engine.prompt import Prompt
from sinkbench.request import Generation, Response

_STOP_TAIL = 32
"""Tokens at an answer's end in which a stop string is looked for after each step."""


class Endings:
    """How answers end under some generation settings.

    Args:
        adapter: Decodes tokens.
        settings: Of the answers.
    """

    def __init__(self, adapter: Adapter, settings: Generation) -> None:
        self.adapter = adapter
        self.settings = settings
        self.eos = frozenset() if settings.ignore_eos else frozenset(adapter.eos)

    def ends(self, tokens: Sequence[int]) -> bool:
        """Whether the last token ends the answer: an end-of-sequence token, or one that completes a stop string."""
        if tokens[-1] in self.eos:
            return True
        if not self.settings.stop:
            return False
        tail = self.adapter.decode(list(tokens[-_STOP_TAIL:]))
        return any(stop in tail for stop in self.settings.stop)

    def response(self, prompt: Prompt, tokens: Sequence[int], finish: Literal["stop", "length"]) -> Response:
        """The response of an answer; stop strings are cut from its text, with what stands behind them."""
        text = self.adapter.decode(list(tokens))
        for stop in self.settings.stop:
            text = text.partition(stop)[0]
        visual_tokens = prompt.visual_tokens
        return Response(
            id=prompt.request.id,
            text=text.strip(),
            prompt_tokens=len(prompt),
            new_tokens=len(tokens),
            visual_tokens=visual_tokens + prompt.dropped,
            visual_tokens_kept=visual_tokens,
            finish=finish,
        )
