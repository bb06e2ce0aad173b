"""Beam search that tries each next token before it chooses, and goes back where one earlier token governs what follows.

This is the search of OPERA (arXiv 2311.17911, methods/baselines.md); what a token costs is the method's to say
(`Intervention.rate_tokens`). Released code: shikiw/OPERA, read for what the paper leaves open.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter
from sinkbench.engine.beams import Candidate, Hypotheses, best_continuations
from sinkbench.engine.endings import Endings
from sinkbench.engine.prompt import Prompt
from sinkbench.engine.stream import Stream
from sinkbench.request import Generation, Response

_FIRST = 10
"""The search never goes back to tokens before this one (released code)."""


@dataclass
class Retrospection:
    """What the search remembers in order to go back: when to, and what must not be chosen again.

    Attributes:
        patience: It goes back where one token was trusted most at more than so many steps, in every beam.
        returns: Most times that it goes back to one step.
        trusted: For each step and beam, the number of the generated token that was trusted most.
        chosen: For each step, parents and tokens of what was chosen.
        rejected: By step, parents and tokens that are not chosen again.
        returned: How often it went back to each step.
    """

    patience: int
    returns: int
    trusted: list[list[int]] = field(default_factory=list)
    chosen: list[list[tuple[int, int]]] = field(default_factory=list)
    rejected: dict[int, set[tuple[int, int]]] = field(default_factory=dict)
    returned: Counter[int] = field(default_factory=Counter)

    def where_to(self, trusted: Tensor) -> int | None:
        """Note a step, and say whether to go back.

        Args:
            trusted: (m, C) int64, for each beam and candidate the number of the generated token that it trusts most.

        Returns:
            The step to choose anew, the one after the trusted token (released code: the one before that, once all
            returns are used up); None to go on.
        """
        by_beam = trusted.mode(-1).values
        token = int(by_beam.mode().values)
        self.trusted.append(by_beam.tolist())
        # The first step has one beam, of which all others come.
        beams = zip(*(row * len(by_beam) if len(row) == 1 else row for row in self.trusted), strict=True)
        if token < _FIRST or any(beam.count(token) <= self.patience for beam in beams):
            return None
        open_steps = (step for step in (token + 1, token) if self.returned[step] < self.returns)
        step = next(open_steps, None)
        return step if step is not None and step < len(self.chosen) else None

    def go_back(self, step: int) -> None:
        """Forget what came after `step`, and reject what was chosen there."""
        self.returned[step] += 1
        self.rejected = {known: pairs for known, pairs in self.rejected.items() if known <= step}
        self.rejected.setdefault(step, set()).update(self.chosen[step])
        del self.chosen[step:], self.trusted[step + 1 :]


class RetrospectiveSearch:
    """The search for one answer.

    At each step the most probable next tokens of every beam, the candidates, go through the model, and the method
    rates them; others are not considered. A beam's candidates have the log-softmax of their scores less their ratings.
    The search goes back by running the hypotheses of that step through the model once more. There all tokens but the
    rejected ones are considered, and not rated (released code).

    The rules of hypotheses that end are those of `BeamSearch` [ours: the released code has an older beam search's].

    Args:
        adapter: The model.
        open_stream: Makes the stream of the prompt, anew at each call.
        prompt: The prompt.
        settings: How the answer is generated.

    Attributes:
        stream: The stream in use.
        steps: Decode passes.
    """

    def __init__(
        self, adapter: Adapter, open_stream: Callable[[], Stream], prompt: Prompt, settings: Generation
    ) -> None:
        self.open_stream = open_stream
        self.prompt = prompt
        self.settings = settings
        self.endings = Endings(adapter, settings)
        self.n_wanted = max(2, 1 + len(self.endings.eos)) * settings.num_beams
        self.stream = open_stream()
        self.steps = 0

    def run(self) -> Response:
        """Search until the search is over."""
        memory = Retrospection(self.settings.patience, self.settings.candidates)
        search, scores = Hypotheses(self.endings), self.stream.prefill()
        totals = scores.new_zeros(1)
        past = [(replace(search), totals)]
        while True:
            tried = self._try(scores)
            if (step := memory.where_to(tried.trusted)) is None:
                chosen = search.advance(tried.best(totals, self.n_wanted))
                rows = [tried.row(candidate) for candidate in chosen]
                after = tried.after
            else:
                memory.go_back(step)
                del past[step + 1 :]
                search, totals = replace(past[step][0]), past[step][1]
                scores = self._replay(search.live)
                for parent, token in memory.rejected[step]:
                    scores[parent, token] = -inf
                chosen = search.advance(best_continuations(scores, totals[None], self.n_wanted)[0])
                rows, after = [candidate.parent for candidate in chosen], None
            if not chosen:
                answer = search.answer
                return self.endings.response(self.prompt, answer.tokens, answer.finish)
            memory.chosen.append([(candidate.parent, candidate.token) for candidate in chosen])
            totals = scores.new_tensor([candidate.score for candidate in chosen])
            past.append((replace(search), totals))
            index = torch.tensor(rows, device=scores.device)
            self.stream.keep(index)
            scores = after[index] if after is not None else self._step([c.token for c in chosen])

    def _try(self, scores: Tensor) -> "Tried":
        """Run the candidates of each row (m, V) through the model."""
        values, tokens = scores.topk(min(self.settings.candidates, scores.shape[1]))
        m, c = tokens.shape
        self.stream.keep(torch.arange(m, device=scores.device).repeat_interleave(c))
        after = self._step(tokens.flatten().tolist())
        ratings, trusted = self.stream.rate()
        return Tried(values - ratings.view(m, c), tokens.tolist(), after, trusted.view(m, c))

    def _step(self, tokens: list[int]) -> Tensor:
        self.steps += 1
        return self.stream.step(torch.tensor(tokens, device=self.stream.adapter.device))

    def _replay(self, live: list[list[int]]) -> Tensor:
        """A stream whose rows are these hypotheses; returns the scores (m, V) of what comes next."""
        self.stream = self.open_stream()
        scores = self.stream.prefill()
        self.stream.keep(torch.zeros(len(live), dtype=torch.int64, device=scores.device))
        for tokens in zip(*live, strict=True):
            scores = self._step(list(tokens))
        return scores


@dataclass(frozen=True, eq=False)
class Tried:
    """The candidates of a step.

    Attributes:
        values: (m, C) scores less ratings.
        tokens: (m, C).
        after: (m·C, V) scores of what comes after each.
        trusted: (m, C) number of the generated token that each trusts most.
    """

    values: Tensor
    tokens: list[list[int]]
    after: Tensor
    trusted: Tensor

    def best(self, totals: Tensor, n: int) -> list[Candidate]:
        """The n best continuations of hypotheses with sums (m,)."""
        ranked = best_continuations(self.values, totals[None], n)[0]
        return [replace(entry, token=self.tokens[entry.parent][entry.token]) for entry in ranked]

    def row(self, candidate: Candidate) -> int:
        """The row of a candidate in the pass that tried it."""
        c = self.values.shape[1]
        return candidate.parent * c + self.tokens[candidate.parent].index(candidate.token)
