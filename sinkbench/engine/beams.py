"""Beam search: several hypotheses of each answer go on side by side, and the best one that ends is the answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Literal

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter
from sinkbench.engine.endings import Endings
from sinkbench.engine.prompt import Prompt
from sinkbench.engine.stream import Stream
from sinkbench.request import Generation, Response


@dataclass(frozen=True)
class Candidate:
    """A hypothesis with one more token.

    Attributes:
        parent: Number of the hypothesis among the sample's live ones.
        token: The token.
        score: Sum of the log-probabilities up to it.
    """

    parent: int
    token: int
    score: float


@dataclass(frozen=True)
class Ended:
    """A hypothesis that has ended.

    Attributes:
        worth: Log-probability / length^length_penalty.
        tokens: Its tokens, the one that ended it included.
        finish: Why it ended.
    """

    worth: float
    tokens: list[int]
    finish: Literal["stop", "length"]


@dataclass
class Hypotheses:
    """The search for one answer, by the rules of transformers' beam search with `early_stopping=False`.

    Attributes:
        endings: Tells where a hypothesis ends. One that ends leaves the search, at a stop string as at an
            end-of-sequence token.
        live: Tokens of the hypotheses that go on.
        ended: The best that have ended, the best first; as many as there are beams at most.
    """

    endings: Endings
    live: list[list[int]] = field(default_factory=lambda: [[]])
    ended: list[Ended] = field(default_factory=list)

    def advance(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Take one step.

        Args:
            candidates: The best continuations, the best first, at least twice as many as there are beams.

        Returns:
            The candidates that become the live hypotheses, one for each beam; none where the search is over.
        """
        settings = self.endings.settings
        length = len(self.live[0]) + 1
        scale = length**settings.length_penalty
        going: list[Candidate] = []
        ended = [*self.ended]
        for rank, candidate in enumerate(candidates):
            tokens = [*self.live[candidate.parent], candidate.token]
            stops = self.endings.ends(tokens)
            if not stops and length < settings.max_new_tokens:
                going.append(candidate)
            # What ranks lower was only asked for so that enough hypotheses go on where others end.
            elif rank < settings.num_beams and candidate.score > -inf:
                ended.append(Ended(candidate.score / scale, tokens, "stop" if stops else "length"))
        self.ended = sorted(ended, key=lambda hypothesis: -hypothesis.worth)[: settings.num_beams]
        full = len(self.ended) == settings.num_beams
        # A live hypothesis is judged at its present length, though a longer one could be worth more.
        if not going or going[0].score == -inf or (full and going[0].score / scale <= self.ended[-1].worth):
            return []
        # Where stop strings end more than was foreseen, beams are filled up with hypotheses that cannot win.
        dead = Candidate(going[0].parent, going[0].token, -inf)
        chosen = [*going, *[dead] * settings.num_beams][: settings.num_beams]
        self.live = [[*self.live[candidate.parent], candidate.token] for candidate in chosen]
        return chosen

    @property
    def answer(self) -> Ended:
        """The best hypothesis."""
        return self.ended[0]


class BeamSearch:
    """The decode loop of one batch under beam search. Every step re-orders rows, so no pass is captured.

    Each row's scores are made log-probabilities after the method's last edit. Tokens that it rules out (−inf) are never
    part of an answer.

    Args:
        adapter: The model.
        stream: The batch; its rows become the beams of its samples.
        prompts: Its B prompts.
        settings: How their answers are generated.
    """

    def __init__(self, adapter: Adapter, stream: Stream, prompts: Sequence[Prompt], settings: Generation) -> None:
        self.stream = stream
        self.prompts = prompts
        self.steps = 0
        self.n_beams = settings.num_beams
        self.endings = Endings(adapter, settings)
        # As many continuations that end as there could be, and still one for each beam.
        self.n_candidates = max(2, 1 + len(self.endings.eos)) * self.n_beams

    def run(self, scores: Tensor) -> list[Response]:
        """Search until every sample's search is over.

        Args:
            scores: (B, V) scores of the first token, from `Stream.prefill`.
        """
        searches = [Hypotheses(self.endings) for _ in self.prompts]
        samples = list(range(len(searches)))
        totals = scores.new_zeros(len(samples), 1)
        while True:
            advanced: dict[int, list[Candidate]] = {}
            first: dict[int, int] = {}
            best = best_continuations(scores, totals, self.n_candidates)
            for place, (sample, candidates) in enumerate(zip(samples, best, strict=True)):
                if chosen := searches[sample].advance(candidates):
                    advanced[sample], first[sample] = chosen, place * totals.shape[1]
            if not advanced:
                break
            rows = [first[s] + c.parent for s, chosen in advanced.items() for c in chosen]
            self._regroup(rows, len(advanced) == len(samples) and totals.shape[1] > 1, scores.device)
            tokens = [[candidate.token for candidate in chosen] for chosen in advanced.values()]
            sums = [[candidate.score for candidate in chosen] for chosen in advanced.values()]
            samples = list(advanced)
            totals = torch.tensor(sums, dtype=scores.dtype, device=scores.device)
            scores = self.stream.step(torch.tensor(tokens, device=scores.device).flatten())
            self.steps += 1
        return [
            self.endings.response(prompt, search.answer.tokens, search.answer.finish)
            for prompt, search in zip(self.prompts, searches, strict=True)
        ]

    def _regroup(self, rows: list[int], in_place: bool, device: torch.device) -> None:
        """Let the stream go on with these rows; `in_place` where each comes from a row of the same sample."""
        index = torch.tensor(rows, device=device)
        if not in_place:
            self.stream.keep(index)
        elif rows != list(range(len(rows))):
            self.stream.reorder(index)


def best_continuations(scores: Tensor, totals: Tensor, n: int) -> list[list[Candidate]]:
    """The best continuations of samples.

    Args:
        scores: (B·m, V) of the next token of every hypothesis, before the softmax.
        totals: (B, m) sums of the hypotheses' log-probabilities.
        n: How many continuations, if there are so many.

    Returns:
        (B, n), each sample's best first.
    """
    samples, m = totals.shape
    vocabulary = scores.shape[1]
    sums = scores.log_softmax(-1).view(samples, m, vocabulary) + totals[:, :, None]
    values, places = sums.flatten(1).topk(min(n, m * vocabulary))
    return [
        [Candidate(place // vocabulary, place % vocabulary, value) for place, value in zip(at, row, strict=True)]
        for row, at in zip(values.tolist(), places.tolist(), strict=True)
    ]
