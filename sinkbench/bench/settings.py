"""What a benchmark is asked to measure. No torch here: names are checked before anything heavy is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from sinkbench.adapters.presets import resolve_model
from sinkbench.bench.shapes import resolve_shape
from sinkbench.bench.workloads import SIZE, BatchSize
from sinkbench.errors import UsageError, unknown_name
from sinkbench.methods import get_method, method_names, runnable_names

ANSWERED = ("pope", "caption", "mixed")
WORKLOADS = (*ANSWERED, "inspect")

ATTENTION_ONLY = "pai-attention"
"""PAI without its image-free branch, which costs a second pass whatever the engine does."""

_TRAINED = ("dyvte",)
"""Methods whose trained weights no random model has; `visual_exit` makes the same passes but for the gates."""


_LEAST = 16
"""Pixels that an image has at least each way: the grain of `write_images`."""


def variant_names() -> list[str]:
    """What is measured unless --method says otherwise."""
    return sorted([*(name for name in runnable_names() if name not in _TRAINED), ATTENTION_ONLY])


@dataclass(frozen=True)
class Settings:
    """What to measure, and how thoroughly.

    Attributes:
        model: Shape, preset or folder.
        weights: "random", or "real" for the published ones.
        methods: Methods, `ATTENTION_ONLY`, or `a+b`; greedy comes before them, because all are compared with it.
        params: Values of methods' parameters by "METHOD.PARAM".
        workloads: Some of `WORKLOADS`; "inspect" measures what the diagnostics cost, not a method.
        batch_size: Most samples in a batch where questions share images, or "auto".
        caption_batches: Batch sizes of the caption workload, each with as many images.
        images: Images of "pope", "mixed" and "prune".
        image_size: Width and height in pixels of all images but those of "mixed".
        questions: Questions about each image.
        new_tokens: Length of captions.
        repeats: Most repeats of a measurement.
        row_seconds: See `Effort.seconds`.
        baseline: Measure plain transformers too.
        baseline_batches: Its batch sizes for "pope"; those for captions are ours.
        baseline_tokens: Length of its captions: its rate only falls as they grow.
        prune: Budgets at which methods that drop image tokens are measured, shares or counts; each prompt is about an
            image of its own then, and answered with `new_tokens` tokens.
        prompts: Prompts of "inspect", each about an image of its own.
        growth: Measure how time grows with questions, image tokens and new tokens.
        end_to_end: Images of the end-to-end measurement; 0 leaves it out.
        flips: Questions of each kind that are answered in two batch sizes; 0 leaves it out.
        device: "auto", "cpu", "cuda", ….
        dtype: "auto", "float32", "bfloat16" or "float16".
        seed: Of weights and images.
    """

    model: str
    weights: Literal["random", "real"] = "random"
    methods: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    workloads: tuple[str, ...] = ANSWERED
    batch_size: BatchSize = "auto"
    caption_batches: tuple[int, ...] = (128, 1)
    images: int = 64
    image_size: tuple[int, int] = SIZE
    questions: int = 18
    new_tokens: int = 512
    repeats: int = 3
    row_seconds: float = 10.0
    baseline: bool = True
    baseline_batches: tuple[int, ...] = (8, 32, 64)
    baseline_tokens: int = 64
    prune: tuple[float, ...] = ()
    prompts: int = 500
    growth: bool = False
    end_to_end: int = 0
    flips: int = 0
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0

    def quick(self) -> Self:
        """The same at sizes that a CPU manages: to see that everything works, not how fast it is."""
        return replace(
            self,
            caption_batches=(4, 1),
            images=4,
            questions=3,
            new_tokens=8,
            repeats=2,
            row_seconds=2.0,
            baseline_batches=(2,),
            baseline_tokens=8,
            prompts=6,
            end_to_end=min(self.end_to_end, 8),
            flips=min(self.flips, 4),
        )

    def check(self) -> None:
        """See that names and settings fit together, before anything heavy is loaded.

        Raises:
            UsageError: They do not.
        """
        if self.weights == "real":
            resolve_model(self.model)
        else:
            resolve_shape(self.model)
        for name in self.workloads:
            if name not in WORKLOADS:
                raise unknown_name("workload", name, WORKLOADS)
        known = [*method_names(), ATTENTION_ONLY]
        for method in self.methods:
            for part in method.split("+"):
                if part not in known:
                    raise unknown_name("method", part, known)
        parts = {part.replace(ATTENTION_ONLY, "pai") for method in self.methods for part in method.split("+")}
        for key, value in self.params.items():
            method = key.partition(".")[0]
            if method not in parts:
                raise UsageError(
                    f"parameter {key!r} belongs to no method of this run",
                    f"Write --set METHOD.PARAM=VALUE with METHOD one of: {', '.join(sorted(parts))}.",
                )
            get_method(method, {key: value}, self.model)
        if self.weights not in ("random", "real"):
            raise UsageError(f"--weights {self.weights}: no such weights", "Give random or real.")
        if min(self.image_size) < _LEAST:
            raise UsageError(
                f"--image-size {'x'.join(map(str, self.image_size))}: an image has {_LEAST} pixels or more each way",
                "Write for example --image-size 672x672.",
            )
        for keep in self.prune:
            if not (0 < keep <= 1 or (keep > 1 and keep == int(keep))):
                raise UsageError(
                    f"--prune {keep:g} is no budget", "Give shares up to 1 or whole numbers: --prune 0.5,64."
                )
        if self.flips and self.weights == "random":
            raise UsageError(
                "--flips compares answers, and those of random weights mean nothing",
                "Add --weights real, for example with --model tiny-llava.",
            )
