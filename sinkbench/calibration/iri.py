"""Recovery rates for `iri`: how much of an answer that noise destroyed each layer's attention and MLP bring back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from sinkbench.adapters.base import Adapter
from sinkbench.calibration.base import Bench, Calibrator, Found, Question
from sinkbench.calibration.categories import COARSE, FINE, answer_tokens, token_codes
from sinkbench.calibration.tracing import PARTS, Traced, Traces, trace
from sinkbench.diagnostics.fcct import EPSILON, Aggregation, lost_enough, mean_recovery
from sinkbench.errors import SinkbenchError, UsageError
from sinkbench.tasks.catalog import task_info

SCHEMES = ("pope", "multiple_choice")
"""Families of tasks with answers of one word."""

_AGGREGATIONS: tuple[Aggregation, ...] = ("mean_of_ratios", "ratio_of_means")


@dataclass(frozen=True)
class TraceRates(Calibrator):
    """Causal tracing (FCCT) with noise on the image; the rates at the last token become the parameters.

    Attributes:
        noise: Standard deviation of the Gaussian noise, in units of the preprocessed image, whose own is about 1 [ours:
            the paper does not say how strong its noise is].
        epsilon: A question counts where noise costs more than this of the answer's probability [ours].
        answer: Only questions with this right answer are traced: the paper asks about objects that are there. Empty:
            all.
        samples: Most questions to trace, taken evenly; the paper has 500.
        categories: Token categories to patch; empty: all seven, or visual, text and last where the data do not say
            where objects are. The rates take "last" alone, which is many times faster.
        aggregation: How the samples' rates become one (`diagnostics.fcct.mean_recovery`).
    """

    noise: float = 3.0
    epsilon: float = EPSILON
    answer: str = "yes"
    samples: int = 500
    categories: tuple[str, ...] = ()
    aggregation: Aggregation = "mean_of_ratios"

    needs_task: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.noise <= 0 or not 0 <= self.epsilon < 1 or self.samples < 1:
            raise UsageError(
                f"iri.noise={self.noise}, iri.epsilon={self.epsilon}, iri.samples={self.samples}",
                "Give noise above 0, epsilon from 0 to below 1, and at least one sample.",
            )
        unknown = [name for name in self.categories if name not in (*FINE, *COARSE)]
        if unknown or (self.categories and "last" not in self.categories):
            raise UsageError(
                f"iri.categories={list(self.categories)}",
                f"Choose among {', '.join(FINE)}, or among {', '.join(COARSE)}; last is needed.",
            )

    def check_task(self, task: str) -> None:
        """Answers must be of one word, since one token's probability is looked at."""
        scheme = task_info(task).scheme
        if scheme not in SCHEMES:
            raise UsageError(
                f"iri traces answers of one word; those of {task} are longer", "Take a yes/no task: --task scenes_pope."
            )

    def measure(self, bench: Bench) -> Found:
        """Trace, and average at the last token."""
        questions = self._chosen(bench.questions)
        names, traced = self._label(bench.adapter, questions)
        wanted = [index for index, name in enumerate(names, 1) if not self.categories or name in self.categories]
        traces = trace(
            bench.adapter,
            traced,
            len(names),
            self.noise,
            bench.seed,
            wanted=wanted,
            batch_size=bench.batch_size,
            progress=bench.progress,
        )
        counts = lost_enough(traces.clean, traces.corrupted, self.epsilon)
        if not counts.any():
            raise SinkbenchError(
                f"none of {len(traced)} questions lost more than {self.epsilon:g} of its answer's probability under "
                f"noise of {self.noise:g} (mean {float(traces.clean.mean()):.3f} without it, "
                f"{float(traces.corrupted.mean()):.3f} with it)",
                "Try more noise or questions, or a smaller bound: --set iri.noise=5, --n 200, --set iri.epsilon=0.05.",
            )
        curves = {each: _curves(traces, counts, names, wanted, each) for each in _AGGREGATIONS}
        rates = {part: curves[self.aggregation][part]["last"] for part in PARTS}
        evidence = {
            "n_traced": len(traced),
            "n_counted": int(counts.sum()),
            "p_clean": _round(traces.clean[counts].mean()),
            "p_corrupted": _round(traces.corrupted[counts].mean()),
            "n_by_category": {names[code - 1]: int((traces.present[code - 1] & counts).sum()) for code in wanted},
            "recovery": curves,
        }
        table = [("layer", *PARTS)] + [
            (str(layer), *(f"{rates[part][layer]:.3f}" for part in PARTS))
            for layer in range(bench.adapter.info.n_layers)
        ]
        return Found({"rates_attn": rates["attn"], "rates_mlp": rates["mlp"]}, evidence, table)

    def draw(self, evidence: dict[str, Any], title: str, path: Path) -> bool:
        """The recovery rates by layer, a panel for each part."""
        from sinkbench.calibration.pictures import draw_recovery

        draw_recovery(evidence["recovery"][self.aggregation], title, path)
        return True

    def _chosen(self, questions: Sequence[Question]) -> list[Question]:
        """Different questions with the wanted answer, taken evenly."""
        fitting = {
            (tuple(image.key for image in each.request.images), each.request.messages): each
            for each in reversed(questions)
            if not self.answer or each.answer.strip().lower() == self.answer.lower()
        }
        distinct = list(reversed(fitting.values()))
        if not distinct:
            raise UsageError(
                f"none of {len(questions)} questions has the answer {self.answer!r}",
                "Choose which ones are traced: --set iri.answer=ANSWER, or --set 'iri.answer=\"\"' for all.",
            )
        n = min(self.samples, len(distinct))
        return [distinct[index * len(distinct) // n] for index in range(n)]

    def _label(self, adapter: Adapter, questions: Sequence[Question]) -> tuple[tuple[str, ...], list[Traced]]:
        """The categories to tell apart, and the questions in which they are found."""
        prompts = [adapter.encode(question.request) for question in questions]
        answers = {question.answer: answer_tokens(adapter, question.answer) for question in questions}
        if lost := [answer for answer, tokens in answers.items() if not tokens]:
            raise SinkbenchError(
                f"{adapter.info.name} has no token that begins {lost[0]!r}", "Choose another task, or --set iri.answer."
            )
        coarse = bool(self.categories) and not {*self.categories} <= {*FINE}
        for names in (COARSE,) if coarse else (FINE, COARSE):
            labelled = [
                Traced(prompt, codes, answers[question.answer])
                for prompt, question in zip(prompts, questions, strict=True)
                if (codes := token_codes(adapter, prompt, question, names)) is not None
            ]
            if labelled and (names == COARSE or 2 * len(labelled) >= len(questions)):
                return names, labelled
        raise UsageError("the questions show no image, and noise is put on images", "Choose a task about images.")


def _curves(
    traces: Traces, counts: Tensor, names: Sequence[str], wanted: Sequence[int], aggregation: Aggregation
) -> dict[str, dict[str, list[float]]]:
    """Mean recovery rate by part, category and layer; categories that no question has are left out."""
    curves: dict[str, dict[str, list[float]]] = {}
    for row, part in enumerate(PARTS):
        curves[part] = {}
        for code in wanted:
            present = counts & traces.present[code - 1]
            if present.any():
                patched = traces.patched[row, :, code - 1].double()
                means = mean_recovery(
                    traces.clean.double(),
                    traces.corrupted.double(),
                    patched,
                    present.expand(patched.shape),
                    aggregation,
                )
                curves[part][names[code - 1]] = [_round(value) for value in means]
    return curves


def _round(value: Tensor) -> float:
    return round(float(value), 4)
