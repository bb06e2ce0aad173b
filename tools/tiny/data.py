"""The training stream: scenes and their questions from worker processes, drawn on the training device.

Every scene is a function of (seed, step, place in the batch), so the stream does not depend on the number of workers,
and a resumed run sees what an uninterrupted one would have seen.
"""

import signal
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sinkbench.scenes.pack import PackedScenes, pack
from sinkbench.scenes.render import Renderer
from sinkbench.scenes.scene import SceneConfig, sample_scene, scene_rng
from tiny.families import family_of
from tiny.packing import TurnEncoder, Turns
from tiny.recipe import Recipe, build_section


@dataclass(frozen=True)
class Batch:
    """What a training step reads: (B, 3, 224, 224) uint8 images and their packed turns, on the training device."""

    images: Tensor
    turns: Turns


@dataclass(frozen=True)
class HostBatch:
    """A batch before its images are drawn, in host memory."""

    scenes: PackedScenes
    turns: Turns

    def pin_memory(self) -> "HostBatch":
        """The same in pinned memory (the DataLoader's protocol)."""
        pinned = (getattr(self.scenes, entry.name).pin_memory() for entry in fields(self.scenes))
        return HostBatch(PackedScenes(*pinned), self.turns.pin_memory())


def scene_config(recipe: Recipe) -> SceneConfig:
    """The difficulty that the recipe asks for."""
    return build_section(SceneConfig, recipe.data.scene, "data.scene")


class TrainingSteps(Dataset[HostBatch]):
    """Item s is the batch of training step s.

    Args:
        recipe: Family, batch size, seed, difficulty and tokens an image.
        tokenizer: The family's `tokenizers.Tokenizer`.
        prefix: Tokens of the prefix, image included.
    """

    def __init__(self, recipe: Recipe, tokenizer: Any, prefix: int) -> None:
        self._data = recipe.data
        self._batch_size = recipe.optimisation.batch_size
        self._config = scene_config(recipe)
        family = family_of(recipe)
        self._dialogue = family.dialogue(recipe)
        self._encoder = TurnEncoder(tokenizer, family.chat, prefix)

    def __getitem__(self, step: int) -> HostBatch:
        scenes, dialogues = [], []
        for index in range(step * self._batch_size, (step + 1) * self._batch_size):
            scene = sample_scene("train", self._data.seed, index, self._config)
            scenes.append(scene)
            dialogues.append(self._dialogue(scene, scene_rng("train", self._data.seed, index, "dialogue")))
        return HostBatch(pack(scenes), self._encoder.pack(dialogues, self._data.turn_tokens))


class _From:
    """The step numbers from `first` on, without end (a sampler)."""

    def __init__(self, first: int) -> None:
        self._first = first

    def __iter__(self) -> Iterator[int]:
        step = self._first
        while True:
            yield step
            step += 1


def _start_worker(worker: int) -> None:
    # An interrupt is the trainer's to handle: it finishes its step and then ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)


def batches(
    recipe: Recipe, tokenizer: Any, first: int, workers: int, device: torch.device, prefix: int = 0
) -> Iterator[Batch]:
    """The training stream from step `first` on, without end.

    Args:
        recipe: What decides the stream.
        tokenizer: The word-level `tokenizers.Tokenizer`.
        first: Number of the first step.
        workers: Processes that make scenes and text; 0 makes them in this one.
        device: Where images are drawn.
        prefix: Tokens of the prefix, image included.
    """
    loader: DataLoader[HostBatch] = DataLoader(
        TrainingSteps(recipe, tokenizer, prefix),
        batch_size=None,
        sampler=_From(first),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=_start_worker,
    )
    renderer = Renderer(device)
    for batch in loader:
        yield Batch(renderer.render_packed(batch.scenes), batch.turns.to(device))
