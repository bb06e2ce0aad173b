"""Rates and map for `vflowopt`: a search for those that change the last prompt token's state least (spec §2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter
from sinkbench.calibration.base import Bench, Calibrator, Found, Question
from sinkbench.engine.batching import Budget, whole_batches
from sinkbench.engine.context import Context, Stage
from sinkbench.engine.feeder import feed_batches
from sinkbench.engine.marks import mark_images
from sinkbench.engine.prefix import Prefixes, encode_images
from sinkbench.engine.prompt import Prompt
from sinkbench.engine.selection import Alone
from sinkbench.engine.stream import Stream
from sinkbench.errors import SinkbenchError, UsageError
from sinkbench.methods.base import Intervention
from sinkbench.methods.composed import ComposedIntervention
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.pruning.vflowopt import VFlowOpt, last_rate, mean_rate, stage_layers
from sinkbench.request import Request

KEEP = 0.25
"""Mean rate that is searched for unless `vflowopt.keep` says another."""

_STATE = "calibration.last_state"
_NAME = "vflowopt"
_DIGITS = 4
_SHOWN = 5
_LEAST_SECOND = 0.533
"""Least R2 of the released search."""

_RANGES = {"t": (0.0, 50.0), "a": (3.0, 24.0), "alpha": (-1.0, 1.0)}
"""Of the released search for a mean rate of 25% (spec §4)."""


@dataclass(frozen=True)
class SearchRates(Calibrator):
    """Bayesian optimisation by a Gaussian process with log expected improvement (optuna's GPSampler).

    It maximises the sum over questions of cos(h, h'): h is the final hidden state, after the last norm, of the prompt's
    last token in the whole model, h' the same under pruning. No answer is generated or looked at. `vflowopt.keep` says
    for which mean rate, 0.25 by default; R3 follows from it. R1 is searched from that rate to one and a half times as
    much, as released; R2 from 0.533, as far as an R3 can follow. Each trial looks at every image in three passes of the
    encoder.

    Attributes:
        samples: Most questions, taken evenly; the paper has 30.
        trials: Settings tried; the paper has 50, the released code 300.
        startup: How many of these are drawn before there is a process to go by; the released code has 27.
    """

    samples: int = 30
    trials: int = 50
    startup: int = 15

    needs_task: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.samples < 1 or not 1 <= self.startup <= self.trials:
            raise UsageError(
                f"vflowopt.samples={self.samples}, vflowopt.trials={self.trials}, vflowopt.startup={self.startup}",
                "Give at least one sample, and as many trials as drawn ones or more.",
            )

    def check_task(self, task: str) -> None:
        """Any task will do; but the search needs its package."""
        _optuna()

    def measure(self, bench: Bench) -> Found:
        """Search, and take the best trial."""
        assert isinstance(bench.method, VFlowOpt)
        info = bench.adapter.info
        plain = bench.method.replace(keep=bench.method.keep or KEEP)
        layers = stage_layers(plain.layers, info)
        states = LastStates(bench.adapter, self._chosen(bench.questions), bench.batch_size)
        whole = states.under(None)
        optuna = _optuna()
        sampler = optuna.samplers.GPSampler(seed=bench.seed, n_startup_trials=self.startup)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        tried: list[dict[str, float]] = []
        for number in range(self.trials):
            trial = study.ask()
            params = _suggest(trial, plain.keep, layers, info)
            pruned = states.under(plain.replace(**params).bind(info))
            # What cannot be compared counts as 0, as in the released code.
            cosine = float(torch.cosine_similarity(whole, pruned, dim=1).nan_to_num(0.0).mean())
            study.tell(trial, cosine)
            tried.append({**params, "cosine": round(cosine, 6)})
            bench.progress(number + 1, self.trials)
        ranked = sorted(tried, key=lambda each: -each["cosine"])
        best = {name: value for name, value in ranked[0].items() if name != "cosine"}
        r3 = last_rate(plain.keep, best["r1"], best["r2"], layers, info.n_layers)
        evidence = {
            "questions": len(whole),
            "layers": list(layers),
            "r3": round(r3, _DIGITS),
            "mean_rate": round(mean_rate(best["r1"], best["r2"], r3, layers, info.n_layers), _DIGITS),
            "cosine": ranked[0]["cosine"],
            "trials": tried,
        }
        names = [*best, "cosine"]
        table = [tuple(names)] + [tuple(f"{each[name]:.4f}" for name in names) for each in ranked[:_SHOWN]]
        # Rates are good for the map that they were tried with.
        given = {
            name: value
            for name, value in plain.params().items()
            if name in ("layers", "exact", "base", "compat") and value != getattr(VFlowOpt, name)
        }
        return Found({"keep": plain.keep, **best, **given}, evidence, table)

    def _chosen(self, questions: Sequence[Question]) -> list[Request]:
        """Different questions about images, taken evenly."""
        fitting = {
            (tuple(image.key for image in each.request.images), each.request.messages): each.request
            for each in questions
            if each.request.images
        }
        if not fitting:
            raise UsageError("the questions show no image, and image tokens are pruned", "Choose a task about images.")
        distinct, n = list(fitting.values()), min(self.samples, len(fitting))
        return [distinct[index * len(distinct) // n] for index in range(n)]


class LastStates:
    """Questions whose images are encoded, ready to be asked under one setting after another.

    Args:
        adapter: The model.
        requests: N questions about images.
        batch_size: Most of them in a batch.

    Raises:
        SinkbenchError: An image cannot be read.
    """

    @torch.inference_mode()
    def __init__(self, adapter: Adapter, requests: Sequence[Request], batch_size: int | Literal["auto"]) -> None:
        self.adapter = adapter
        self.batches = []
        budget = Budget.of(adapter, batch_size)
        for ready in feed_batches(adapter, whole_batches([adapter.encode(each) for each in requests], budget)):
            for request, response in ready.failures:
                raise SinkbenchError(f"{request.id}: {response.error}", "Mend the data.")
            features = encode_images(adapter, ready.prompts, ready.inputs, budget.pass_tokens)
            self.batches.append((ready.prompts, ready.inputs, features))

    @torch.inference_mode()
    def under(self, method: Intervention | None) -> Tensor:
        """(N, d) float32 final states of the prompts' last tokens, longest prompt first; None: of the whole model."""
        reader = _Reader(self.adapter.info.n_layers)
        reading = reader if method is None else ComposedIntervention([method, reader])
        return torch.cat([self._run(reading, *batch) for batch in self.batches])

    def _run(self, method: Intervention, prompts: Sequence[Prompt], inputs: Any, features: Any) -> Tensor:
        batch = Alone(prompts, (), features, mark_images(self.adapter, method, prompts, inputs))
        if method.selects:
            batch = batch.shortened(self.adapter, method, inputs)
        nothing = Prefixes.none([_NAME], self.adapter.device, {_NAME: batch.marks})
        stream = Stream(self.adapter, method, _NAME, batch.prompts, nothing, 0, branches=(), features=batch.features)
        stream.prefill()
        return stream.read_out.norm(stream.context.scratch[_STATE]).float()


class _Reader(Intervention):
    """Keeps the last layer's output at the last row.

    Args:
        n_layers: Layers of the model.
    """

    def __init__(self, n_layers: int) -> None:
        self.hidden_layers = (n_layers,)

    def observe_hidden(self, layer: int, hidden: Tensor, ctx: Context) -> None:
        """Keep (B, d)."""
        if ctx.stage is Stage.SUFFIX:
            ctx.scratch[_STATE] = hidden[:, -1]


def _suggest(trial: Any, keep: float, layers: tuple[int, int], info: ModelInfo) -> dict[str, float]:
    """Parameters to try, of which `last_rate` can make something."""
    first, second = layers
    highest = keep * info.n_layers / (first + _LEAST_SECOND * (second - first))
    r1 = round(trial.suggest_float("r1", keep, max(keep, min(1.0, 1.5 * keep, 0.99 * highest))), _DIGITS)
    # With the lower one R3 is 1; with the higher one it would be 0.
    left = keep * info.n_layers / r1 - first
    lowest = max(_LEAST_SECOND, left / (info.n_layers - first))
    most = max(lowest, min(1.0, 0.99 * left / (second - first)))
    # As a share of what is possible: the bounds of a search must not move.
    r2 = lowest + trial.suggest_float("r2", 0.0, 1.0) * (most - lowest)
    params = {"r1": r1, "r2": round(min(1.0, r2), _DIGITS)}
    for name, (low, high) in _RANGES.items():
        if name != "alpha" or info.pixel_mean:
            params[name] = round(trial.suggest_float(name, low, high), _DIGITS)
    return {**params, "alpha": params.get("alpha", 0.0)}


def _optuna() -> Any:
    """The package that searches.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "the search for vflowopt's rates needs optuna", "pip install optuna scipy (sinkbench[calibrate])."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
