"""Gates for `dyvte`: trained on whether the model, once the text has seen the image, needs it any longer (spec §4)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sinkbench.calibration.base import Bench, Calibrator, Found, Question
from sinkbench.calibration.exits import label
from sinkbench.errors import UsageError
from sinkbench.methods.pruning.dyvte import DyVteIntervention, fires, gate_logits

PAPER_WIDTH = 2048
"""Of the release's gates, for models of width 4096 and 5120."""


@dataclass(frozen=True)
class TrainGates(Calibrator):
    """Trains one gate for each layer but the last, whose gate nobody asks, on labels that are computed once.

    A question is one to exit on behind a layer if the model without image tokens from the next layer on, teacher-forced
    on the right answer and the token that ends it, has the same most probable tokens and hardly a greater loss. The
    answer is spelt as the plain model would begin it (capitalised or not, with a space or not) [ours].

    The release draws one layer for each step and labels its batch on the fly. The model is frozen and what a gate reads
    is detached, so labels and inputs of a question never change: here they are computed once, for all layers, and the
    gates are trained on them one by one, without the model. It hides the image from later rows; here its rows are
    dropped, which is the same for all that comes after. Image tokens alone are hidden, as `dyvte` drops them.

    Agreement, tolerance, learning rate, warm-up and width are the release's, and a batch is what one of its devices
    had. It has about 6650 questions and sees each once, behind one layer; the many epochs are ours, for fewer
    questions. Gates much narrower than that take a higher learning rate.

    A gate whose questions all have one label is not trained but set: it fires always, or never.

    Attributes:
        samples: Most questions, taken evenly.
        width: Hidden width of a gate; 0 is half the model's, at most 2048: the release's for its models.
        epochs: How often each question is seen.
        lr: Highest learning rate of Adam; it falls as a cosine.
        warmup: Share of the steps in which it rises.
        batch: Questions a step.
        exit_weight: Weight of the label "exit" in the loss; that of the other one is 1.
        agreement: Share of the answer's tokens above which the most probable ones must agree.
        tolerance: How many times as high as the plain model's the loss must not be.
        held_out: Share of the images whose questions the gates are not trained but tried on.
    """

    samples: int = 6650
    width: int = 0
    epochs: int = 20
    lr: float = 6e-5
    warmup: float = 0.03
    batch: int = 16
    exit_weight: float = 1.0
    agreement: float = 0.99
    tolerance: float = 1.03
    held_out: float = 0.2

    needs_task: ClassVar[bool] = True

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("samples", "epochs", "batch")}
        if min(counts.values()) < 1 or self.width < 0 or self.width == 1:
            shown = ", ".join(f"dyvte.{name}={value}" for name, value in {**counts, "width": self.width}.items())
            raise UsageError(shown, "Give counts of 1 or more, and a width of 2 or more, or 0.")
        if min(self.lr, self.exit_weight, self.tolerance) <= 0:
            raise UsageError(
                f"dyvte.lr={self.lr}, dyvte.exit_weight={self.exit_weight}, dyvte.tolerance={self.tolerance}",
                "Give numbers above 0.",
            )
        if not (0 <= self.warmup <= 1 and 0 <= self.agreement < 1 and 0 < self.held_out < 1):
            raise UsageError(
                f"dyvte.warmup={self.warmup}, dyvte.agreement={self.agreement}, dyvte.held_out={self.held_out}",
                "Give shares: agreement below 1, held_out between 0 and 1.",
            )

    def measure(self, bench: Bench) -> Found:
        """Label, train, and try the gates on the images held out."""
        questions = self._chosen(bench.questions)
        examples = label(bench, questions, self.agreement, self.tolerance)
        tried = held_out(questions, self.held_out, bench.seed)
        info = bench.adapter.info
        width = self.width or min(PAPER_WIDTH, info.hidden_size // 2)
        w1 = torch.zeros(info.n_layers, width, 2 * info.hidden_size, dtype=torch.float16)
        w2 = torch.zeros(info.n_layers, 2, width, dtype=torch.float16)
        device = bench.adapter.device
        for layer in range(info.n_layers - 1):
            inputs, labels = examples.inputs[~tried, layer], examples.labels[~tried, layer]
            w1[layer], w2[layer] = self.train(inputs.to(device), labels.to(device), width, bench.seed + layer)
        gates = DyVteIntervention((w1, w2))
        fired = [
            fires(gates.logits(layer, own.to(device))).cpu() for layer, own in enumerate(examples.inputs.unbind(1))
        ]
        evidence = _evidence(examples.labels, torch.stack(fired, dim=1), tried)
        return Found({}, {"width": width, **evidence}, _table(evidence), {"gates": {"w1": w1, "w2": w2}})

    def train(self, inputs: Tensor, labels: Tensor, width: int, seed: int) -> tuple[Tensor, Tensor]:
        """One gate (spec §4): Adam on the cross-entropy, from Xavier's initial weights.

        Args:
            inputs: (N, 2 d).
            labels: (N,) bool, whether to exit.
            width: Hidden width.
            seed: Of the initial weights and the order.

        Returns:
            float16 (width, 2 d) and (2, width).
        """
        if labels.all() or not labels.any():
            return constant_gate(bool(labels.all()), width, inputs.shape[1])
        generator = torch.Generator().manual_seed(seed)
        shapes = (width, inputs.shape[1]), (2, width)
        initial = [torch.nn.init.xavier_uniform_(torch.empty(shape), generator=generator) for shape in shapes]
        w1, w2 = (weights.to(inputs.device).requires_grad_() for weights in initial)
        inputs, targets = inputs.float(), labels.long()
        class_weights = torch.tensor([1.0, self.exit_weight], device=inputs.device)
        steps = self.epochs * -(-len(labels) // self.batch)
        adam = torch.optim.Adam([w1, w2], lr=self.lr)
        rate = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: _rate(step, steps, self.warmup))
        for _ in range(self.epochs):
            order = torch.randperm(len(labels), generator=generator).to(inputs.device)
            for rows in torch.split(order, self.batch):
                loss = F.cross_entropy(gate_logits(inputs[rows], w1, w2), targets[rows], class_weights)
                adam.zero_grad()
                torch.autograd.backward(loss)
                adam.step()
                rate.step()
        return w1.detach().half().cpu(), w2.detach().half().cpu()

    def _chosen(self, questions: Sequence[Question]) -> list[Question]:
        """Different questions about images that have an answer, taken evenly."""
        fitting = {
            (_images(each), each.request.messages): each
            for each in questions
            if each.request.images and each.answer.strip()
        }
        if not fitting:
            raise UsageError(
                "no question has both an image and a right answer, and gates are trained on what the image is good for",
                "Choose another task: --task scenes_pope.",
            )
        distinct, n = list(fitting.values()), min(self.samples, len(fitting))
        return [distinct[index * len(distinct) // n] for index in range(n)]


def held_out(questions: Sequence[Question], share: float, seed: int) -> Tensor:
    """(N,) bool: questions about some of the images, drawn at random; one image at least is left on either side.

    Raises:
        UsageError: There is one image only.
    """
    images = list(dict.fromkeys(map(_images, questions)))
    if len(images) < 2:
        raise UsageError("all questions are about one image, and gates are tried on others", "Give more: --n 40.")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).tolist()
    count = min(max(1, round(share * len(images))), len(images) - 1)
    chosen = {images[index] for index in order[:count]}
    return torch.tensor([_images(question) in chosen for question in questions])


def constant_gate(fire: bool, width: int, inputs: int) -> tuple[Tensor, Tensor]:
    """A gate, as `TrainGates.train` returns it, that fires for whatever is not 0, or never.

    Always: hidden units in pairs of opposite weights, since GELU(z) + GELU(−z) = z erf(z / √2) is above 0 for any z but
    0; as many pairs as there are, for a z near 0 may be lost in rounding. Never: both logits are 0.
    """
    w1, w2 = torch.zeros(width, inputs), torch.zeros(2, width)
    if fire:
        pairs = width // 2
        drawn = torch.empty(pairs, inputs)
        torch.nn.init.xavier_uniform_(drawn, generator=torch.Generator().manual_seed(0))
        w1[:pairs], w1[pairs : 2 * pairs] = drawn, -drawn
        w2[:, : 2 * pairs] = torch.tensor([-1.0, 1.0])[:, None]
    return w1.half(), w2.half()


def _images(question: Question) -> tuple[str, ...]:
    return tuple(image.key for image in question.request.images)


def _rate(step: int, steps: int, warmup: float) -> float:
    """Share of the learning rate at a step: up in a line, then down as a cosine."""
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _evidence(labels: Tensor, fired: Tensor, tried: Tensor) -> dict[str, Any]:
    """How good gates are on the questions held out.

    Args:
        labels: (N, L − 1) bool.
        fired: (N, L − 1) bool, what the gates say; until one fires a question is in the very state that it reads.
        tried: (N,) bool, the questions held out.
    """
    learned, own, said = labels[~tried].double(), labels[tried], fired[tried]
    majority = learned.mean(0) > 0.5
    leaves = said & (said.cumsum(1) == 1)
    return {
        "questions": len(labels),
        "held_out": int(tried.sum()),
        "exit_labels": _rounded(labels.double().mean(0)),
        "set": [layer for layer, share in enumerate(learned.mean(0).tolist()) if share in (0.0, 1.0)],
        "accuracy": _rounded((said == own).double().mean(0)),
        "majority": _rounded((majority == own).double().mean(0)),
        "exits": leaves.sum(0).tolist(),
        "never": int((~said.any(1)).sum()),
        "right_exits": int((leaves & own).sum()),
    }


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def _table(evidence: dict[str, Any]) -> list[tuple[str, ...]]:
    """By layer, of the questions held out but for the first share."""
    rows: list[tuple[str, ...]] = [("layer", "labels to exit", "gate right", "majority right", "leave here")]
    for layer, leave in enumerate(evidence["exits"]):
        shares = (evidence[name][layer] for name in ("exit_labels", "accuracy", "majority"))
        rows.append((str(layer), *(f"{share:.3f}" for share in shares), str(leave)))
    return [*rows, ("never", "", "", "", str(evidence["never"]))]
