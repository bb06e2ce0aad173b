"""The training loop: optimiser, schedule, checkpoints, log."""

import json
import math
import os
import signal
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from sinkbench.errors import SinkbenchError, UsageError
from tiny.data import Batch, batches
from tiny.packed import PackedForward
from tiny.progress import Progress
from tiny.recipe import Optimisation, Recipe

LOG_EVERY = 50
CHECKPOINT_SECONDS = 60.0


@dataclass
class State:
    """How far training has come.

    Attributes:
        step: Steps done.
        seconds: Wall-clock seconds spent, over all resumed parts.
    """

    step: int = 0
    seconds: float = 0.0


def learning_rate(settings: Optimisation, step: int, fraction: float) -> float:
    """The rate of the step after `step` steps.

    A cosine over the spent fraction of the budget times a linear warm-up over steps, because compilation, which counts
    in a budget of minutes, would swallow a warm-up by time.
    """
    cosine = 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
    floor = settings.final_fraction
    return settings.learning_rate * (floor + (1 - floor) * cosine) * min(1.0, (step + 1) / settings.warmup_steps)


def build_optimiser(forward: PackedForward, settings: Optimisation, fused: bool) -> torch.optim.AdamW:
    """AdamW over the forward's parameter groups."""
    groups = forward.parameter_groups(settings)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=fused)


class Trainer:
    """One training run in one folder.

    Args:
        recipe: What to train.
        forward: The model in its packed form, on its device.
        tokenizer: The word-level `tokenizers.Tokenizer`.
        folder: Holds checkpoint.pt and train_log.jsonl.
        workers: Processes that make scenes and text; 0 makes them in this one.
    """

    def __init__(self, recipe: Recipe, forward: PackedForward, tokenizer: Any, folder: Path, workers: int) -> None:
        self.recipe = recipe
        self.forward = forward
        self.tokenizer = tokenizer
        self.folder = folder
        self.workers = workers
        self.device = forward.prefix_ids.device
        self.optimiser = build_optimiser(forward, recipe.optimisation, fused=self.device.type == "cuda")
        self._trained = [p for group in self.optimiser.param_groups for p in group["params"]]
        self.state = State()
        self._interrupted = False

    @property
    def checkpoint(self) -> Path:
        """Where the state lies between two runs of the command."""
        return self.folder / "checkpoint.pt"

    @property
    def log(self) -> Path:
        """The training log, a JSON line every `LOG_EVERY` steps and at the end."""
        return self.folder / "train_log.jsonl"

    def resume(self) -> None:
        """Go on from the folder's checkpoint.

        Raises:
            UsageError: The checkpoint belongs to another recipe.
        """
        saved = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if saved["recipe"] != json.dumps(self.recipe.identity()):
            raise UsageError(
                f"{self.checkpoint} was written by another recipe", "Resume with that recipe, or give another --out."
            )
        self.forward.model.load_state_dict(saved["model"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.state = State(**saved["state"])
        if self.log.exists():
            # Steps that a killed run did after its last checkpoint are done and logged again.
            lines = [line for line in self.log.read_text("utf-8").splitlines(True) if self._done(json.loads(line))]
            self.log.write_text("".join(lines), "utf-8")

    def _done(self, line: dict[str, float]) -> bool:
        return line["step"] <= self.state.step

    def save(self) -> None:
        """Write the checkpoint, atomically."""
        part = self.checkpoint.with_suffix(".part")
        content = {
            "recipe": json.dumps(self.recipe.identity()),
            "model": self.forward.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "state": asdict(self.state),
        }
        torch.save(content, part)
        os.replace(part, self.checkpoint)

    def run(self, progress: Progress) -> None:
        """Train until the budget is spent, with a checkpoint every minute and at the end.

        Raises:
            KeyboardInterrupt: SIGINT or SIGTERM came; the step in flight was finished and the checkpoint written.
            SinkbenchError: The loss is not finite.
        """
        previous = {number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._loop(progress)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        self.save()
        if self._interrupted:
            raise KeyboardInterrupt

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True

    def _spent(self) -> float:
        return self.recipe.budget.fraction(self.state.step, self.state.seconds)

    def _loop(self, progress: Progress) -> None:
        state, started = self.state, time.monotonic() - self.state.seconds
        saved_at = state.seconds
        mark, total = State(state.step, state.seconds), torch.zeros((), device=self.device)
        stream = batches(
            self.recipe, self.tokenizer, state.step, self.workers, self.device, len(self.forward.prefix_ids)
        )
        while not self._interrupted and (fraction := self._spent()) < 1.0:
            rate = learning_rate(self.recipe.optimisation, state.step, fraction)
            total += self._step(next(stream), rate)
            state.step += 1
            state.seconds = time.monotonic() - started
            if state.step % LOG_EVERY == 0 or self._interrupted or self._spent() >= 1.0:
                # Reading the loss waits for the device, so the clock is read again.
                loss = total.item() / (state.step - mark.step)
                state.seconds = time.monotonic() - started
                progress.update(self._spent(), self._record(loss, rate, mark))
                mark, total = State(state.step, state.seconds), torch.zeros_like(total)
            if state.seconds - saved_at > CHECKPOINT_SECONDS:
                self.save()
                saved_at = state.seconds

    def _record(self, loss: float, rate: float, mark: State) -> dict[str, float]:
        """Append to the log what happened since `mark`."""
        if not math.isfinite(loss):
            raise SinkbenchError(
                f"the loss is {loss} at step {self.state.step}",
                "Lower optimisation.learning_rate in the recipe and train into another --out.",
            )
        images = self.recipe.optimisation.batch_size
        line = {
            "step": self.state.step,
            "images": self.state.step * images,
            "loss": round(loss, 5),
            "lr": rate,
            "seconds": round(self.state.seconds, 2),
            "images_per_s": round((self.state.step - mark.step) * images / (self.state.seconds - mark.seconds), 1),
        }
        with self.log.open("a", encoding="utf-8") as log:
            print(json.dumps(line), file=log)
        return line

    def _autocast(self) -> AbstractContextManager[Any]:
        """bf16 arithmetic over float32 master weights on the GPU; plain float32 elsewhere."""
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()

    def _step(self, batch: Batch, rate: float) -> Tensor:
        """One optimiser step; returns the loss without waiting for the device."""
        with self._autocast():
            loss = self.forward.loss(batch.images, batch.turns)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._trained, self.recipe.optimisation.clip_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        self.optimiser.step()
        return loss.detach()
