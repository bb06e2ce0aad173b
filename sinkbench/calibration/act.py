"""Heads for `act`: those that raise a task's score when they alone are calibrated (spec §2 step 6)."""

from dataclasses import dataclass, replace

from sinkbench.calibration.base import Bench, Calibrator, Found
from sinkbench.calibration.variants import score_variants
from sinkbench.errors import SinkbenchError, UsageError
from sinkbench.methods.act import Act
from sinkbench.methods.greedy import Greedy

_PLAIN = "greedy"
_SHOWN = 12
_DECIDING = ("beta", "threshold", "tau", "alpha", "protect")
"""Parameters that say what a calibrated head does."""


@dataclass(frozen=True)
class FindHeads(Calibrator):
    """One run of the questions for every head; the rule from scores to a list is ours, for none is published.

    Attributes:
        samples: Most questions, the first ones.
        gain: A head is taken if it raises the task's headline metric by more than this.
    """

    samples: int = 900
    gain: float = 0.0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.gain < 0:
            raise UsageError(
                f"act.samples={self.samples}, act.gain={self.gain}", "Give a positive number, and a gain of 0 or more."
            )

    def measure(self, bench: Bench) -> Found:
        """Score every head of the layers that the method acts in."""
        assert bench.task is not None
        assert isinstance(bench.method, Act)
        info = bench.adapter.info
        every = replace(bench.method, heads=(), all_heads=True).bind(info)
        names = [f"{layer}.{head}" for layer in every.chosen for head in range(info.n_heads)]
        variants = {name: replace(bench.method, heads=(name,), all_heads=False) for name in names}
        requests = [question.request for question in bench.questions[: self.samples]]
        scores = score_variants(
            bench.adapter,
            {_PLAIN: Greedy(), **variants},
            bench.task,
            requests,
            batch_size=bench.batch_size,
            seed=bench.seed,
            progress=bench.progress,
        )
        metric = bench.task.describe()["headline"]
        plain = scores[_PLAIN][metric]
        sign = -1 if plain["direction"] == "lower" else 1
        gains = {name: sign * (scores[name][metric]["value"] - plain["value"]) for name in names}
        best = sorted(names, key=lambda name: -gains[name])
        chosen = [name for name in names if gains[name] > self.gain]
        if not chosen:
            raise SinkbenchError(
                f"no head of {info.name} raises {metric} by more than {self.gain:g} when it alone is calibrated "
                f"(best: {best[0]} with {gains[best[0]]:+.4f}; plain: {plain['value']:.4f}, {len(requests)} questions)",
                "Learn from another task or from more data, or take every head: --set act.all_heads=true.",
            )
        evidence = {
            "metric": metric,
            "questions": len(requests),
            "plain": round(plain["value"], 5),
            "gains": {name: round(gain, 5) for name, gain in gains.items()},
        }
        table: list[tuple[str, ...]] = [("head", f"gain in {metric}")]
        table += [(name, f"{gains[name]:+.4f}") for name in best[:_SHOWN]]
        # Heads are good for the sinks that they were tried with.
        tried = {name: value for name, value in bench.method.params().items() if name in _DECIDING}
        return Found({"heads": chosen, **tried}, evidence, table)
