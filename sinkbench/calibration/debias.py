"""The trend along the image of a pruning method's scores, for `debias` (spec attention_debiasing §2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sinkbench.calibration.base import Bench, Calibrator, Found, Question
from sinkbench.diagnostics.recency import Curve, RecencyCurve, fit_trend
from sinkbench.engine.context import Context
from sinkbench.engine.observe import observe
from sinkbench.engine.prompt import Prompt
from sinkbench.errors import SinkbenchError, UsageError
from sinkbench.methods import get_method, method_class, method_names
from sinkbench.methods.base import Intervention
from sinkbench.methods.composed import ComposedIntervention
from sinkbench.methods.pruning.debias import Debias, Form, images_of, trend_weights

_SCORE = "debias.score"
_SHOWN = 9


class _Recorder(Intervention):
    """Keeps the scores that a method ranks image tokens by, (B, K) in `ctx.state`, and leaves them as they are."""

    def weigh_tokens(self, scores: Tensor, ctx: Context) -> Tensor:
        """Keep them."""
        ctx.state[_SCORE] = scores
        return scores


@dataclass(frozen=True)
class FindTrend(Calibrator):
    """Mean score of a host's first stage by place in the image, and a curve through it.

    The released weights come without the script that fitted them; how it is done here is ours: padding is left out of
    the means, and logarithms of the means (for a cubic the means) are fitted by least squares, weighted by how many
    tokens are behind each.

    Attributes:
        samples: Most questions to ask, taken evenly.
    """

    samples: int = 200

    needs_task: ClassVar[bool] = True
    scoring: ClassVar[str] = "fastv"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UsageError(f"debias.samples={self.samples}", "Give at least one question.")

    def measure(self, bench: Bench) -> Found:
        """Ask, average, and fit the form that the method has."""
        method, info = bench.method, bench.adapter.info
        assert isinstance(method, Debias)
        name = method.host or self.scoring
        if name not in method_names() or not method_class(name).scores:
            raise UsageError(
                f"debias.host={name} ranks no image tokens by attention", "For example: --set debias.host=fastv."
            )
        host = get_method(name, bench.scoring, info.name)
        prompts = [bench.adapter.encode(each.request) for each in _evenly(bench.questions, self.samples)]
        if not (prompts := [prompt for prompt in prompts if prompt.visual_tokens]):
            raise UsageError("the questions show no image, and the trend is along one", "Choose a task about images.")
        bound = ComposedIntervention([host.bind(info), _Recorder()])
        curve = mean_scores(bench, bound, prompts)
        used = (curve.density[0] > 0) & (curve.tokens > 0)
        if used.sum() < 4:
            raise SinkbenchError(
                f"{name} scored tokens at {int(used.sum())} places of an image; a trend takes 4 or more",
                "Ask about larger images.",
            )
        trend = [round(value, 6) for value in fitted(curve, method.form)]
        line = fit_trend(curve)
        evidence = {
            "host": name,
            "host_params": host.params(),
            "questions": len(prompts),
            "images": len({image.key for prompt in prompts for image in prompt.images}),
            # Of images of one size these are the mean scores by index; of several, as if each had as many tokens.
            "mean_score": [float(f"{value:.6g}") for value in (curve.density[0] / len(used)).nan_to_num().tolist()],
            "tokens": curve.tokens.tolist(),
            "kappa": round(float(line.kappa), 6),
            "r2": round(float(line.r2), 4),
        }
        params = {
            "host": name,
            "form": method.form,
            "trend": trend,
            "canvas": method.canvas,
            "padding": method.padding,
        }
        return Found(params, evidence, _table(curve, method.form, trend))


def mean_scores(bench: Bench, host: Intervention, prompts: Sequence[Prompt]) -> Curve:
    """The host's mean raw score by place in the image, without padding.

    Args:
        bench: The model, and how the method tells padding.
        host: Bound, together with what keeps its scores.
        prompts: About images.
    """
    method, curve, done = bench.method, RecencyCurve(), 0
    assert isinstance(method, Debias)
    for batch in observe(bench.adapter, host, prompts, batch_size=bench.batch_size):
        if _SCORE not in batch.state:
            raise SinkbenchError("the host ranks no image tokens at its own budget", "Choose another debias.host.")
        for number, prompt in enumerate(batch.prompts):
            scores = batch.cut(batch.state[_SCORE], number).cpu()
            image, counted = torch.zeros(2, len(prompt), dtype=torch.bool)
            images = images_of(prompt, method)
            for places, content in images:
                image[places] = True
                counted[places] = content
            curve.update(scores[None, None], image[None], counted[None], [[len(places) for places, _ in images]])
        done += len(batch.prompts)
        bench.progress(done, len(prompts))
    return curve.curve()


def fitted(curve: Curve, form: Form) -> list[float]:
    """The numbers of `Debias.trend` that fit a curve with some attention to 4 places or more."""
    if form == "exp":
        return [float(fit_trend(curve).kappa)]
    density, used = curve.density[0], (curve.density[0] > 0) & (curve.tokens > 0)
    if form == "cubic":
        root = curve.tokens[used].double().sqrt()
        powers = curve.position[used, None] ** torch.arange(4)
        constant, *rising = torch.linalg.lstsq(powers * root[:, None], (density[used] * root)[:, None]).solution[:, 0]
        return [float(power / constant) for power in rising]
    known = np.interp(curve.position.numpy(), curve.position[used].numpy(), density[used].numpy())
    return [float(known[0] / value) for value in known]


def _evenly(questions: Sequence[Question], n: int) -> list[Question]:
    n = min(n, len(questions))
    return [questions[index * len(questions) // n] for index in range(n)]


def _table(curve: Curve, form: Form, trend: Sequence[float]) -> list[tuple[str, ...]]:
    """Mean scores and the fit at some places, each as a multiple of the image's mean."""
    rows: list[tuple[str, ...]] = [("place in the image", "mean score / overall mean", "weight")]
    n = len(curve.position)
    for index in sorted({round(step * (n - 1) / (_SHOWN - 1)) for step in range(_SHOWN)}):
        place = curve.position[index : index + 1]
        weight = float(trend_weights(form, trend, place))
        rows.append(
            (
                f"{float(place):.2f}",
                f"{float(curve.density[0, index] / curve.density[0].nanmean()):.3f}",
                f"{weight:.3f}",
            )
        )
    return rows
