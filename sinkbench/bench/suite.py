"""A whole benchmark: one model, several methods and workloads, plain transformers beside them, one record."""

import gc
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from sinkbench.adapters.base import Adapter
from sinkbench.bench import workloads as w
from sinkbench.bench.baselines import measure_plain
from sinkbench.bench.end_to_end import measure_end_to_end
from sinkbench.bench.flips import flip_rates, scenes_requests
from sinkbench.bench.inspection import measure_inspection
from sinkbench.bench.measure import Effort, Prepared, Timer, describe, measure, prepare
from sinkbench.bench.models import describe as describe_model
from sinkbench.bench.models import random_adapter, real_adapter
from sinkbench.bench.record import Record
from sinkbench.bench.settings import Settings
from sinkbench.bench.shapes import resolve_shape
from sinkbench.bench.targets import BASELINE, HEADLINE
from sinkbench.bench.variants import made_up_parameters, variant
from sinkbench.engine.context import Stage
from sinkbench.engine.generate import Engine
from sinkbench.environment import environment
from sinkbench.errors import UsageError
from sinkbench.methods.base import Method
from sinkbench.request import ImageRef

_GROWTH_GROUPS = 32
_PROBED = 4
"""Images that parameters are fitted to where the model has no sink dimensions of its own."""

_HELD = (
    *("visual_tokens_in", "visual_tokens_kept", "visual_tokens_mean", "visual_tokens_by_layer"),
    *("prefill_macs", "prefill_macs_image", "macs_formula", "prompt_kv_bytes"),
)
"""What a row about pruning has beside times."""

Say = Callable[[str], None]
"""Tells the user about progress."""


def run(settings: Settings, path: Path | None, say: Say) -> dict[str, Any]:
    """Measure everything that the settings ask for.

    Args:
        settings: What to measure.
        path: Where the record is kept (see `Record`), or None.
        say: Is told about each entry.

    Returns:
        The record's content. An entry without numbers says why under "error"; where that is not a lack of memory, the
        traceback has been said and the entry is "broken".

    Raises:
        UsageError: The settings do not fit together, or the model cannot be had.
    """
    settings.check()
    adapter = _adapter(settings)
    with TemporaryDirectory(prefix="sinkbench-bench-") as folder:
        looked = settings.prompts if "inspect" in settings.workloads else 0
        sizes = [settings.image_size] * max(settings.images, *settings.caption_batches, looked, 5)
        images = w.write_images(Path(folder) / "images", sizes, settings.seed)
        made_up = {} if adapter.info.sink_dims else made_up_parameters(adapter, images[:_PROBED])
        names = dict.fromkeys((BASELINE, *settings.methods))
        methods = {name: variant(name, adapter.info, made_up, settings.params) for name in names}
        record = Record(path, _header(settings, adapter))
        _Suite(settings, adapter, methods, record, say).all(images, Path(folder))
    record.finish()
    return record.content


class _Suite:
    """Parts of a benchmark, each adding entries to the record."""

    def __init__(
        self, settings: Settings, adapter: Adapter, methods: Mapping[str, Method], record: Record, say: Say
    ) -> None:
        self.settings = settings
        self.adapter = adapter
        self.methods = methods
        self.record = record
        self.say = say
        self.timer = Timer(adapter.device)
        self.effort = Effort(settings.repeats, settings.row_seconds)

    def all(self, images: Sequence[ImageRef], folder: Path) -> None:
        """Everything; images of other sizes are written to the folder."""
        s = self.settings
        if "pope" in s.workloads:
            self.pope(w.pope(images[: s.images], s.questions, s.batch_size))
        if "caption" in s.workloads:
            for size in s.caption_batches:
                self.caption(images[:size])
        if "mixed" in s.workloads:
            sizes = [w.MIXED_SIZES[i % len(w.MIXED_SIZES)] for i in range(s.images)]
            ragged = w.write_images(folder / "mixed", sizes, s.seed)
            self.rows(self.prepared(w.mixed(ragged, s.batch_size, s.seed)))
        if "inspect" in s.workloads:
            self.inspection(w.inspect(images[: s.prompts], s.batch_size))
        if s.prune:
            self.pruning(w.prune(images[: s.images], s.new_tokens, s.batch_size))
        if s.growth:
            groups, lengths = max(5, min(s.images, _GROWTH_GROUPS)), sorted({min(64, s.new_tokens), s.new_tokens})
            for workload in w.growth(images[:groups], lengths, s.batch_size):
                self.rows(self.prepared(workload))
        if s.end_to_end:
            self.end_to_end(folder / "files")
        if s.flips:
            self.flips()

    def pope(self, workload: w.Workload) -> None:
        """Questions that share images, and plain transformers on some of them at several batch sizes."""
        prepared = self.prepared(workload)
        self.rows(prepared)
        if self.settings.baseline:
            self.baseline(prepared, "eager", 1)
            for size in (1, *self.settings.baseline_batches):
                self.baseline(prepared, "sdpa", size)

    def caption(self, images: Sequence[ImageRef]) -> None:
        """One batch of long answers, and plain transformers on shorter ones."""
        s, size = self.settings, len(images)
        self.rows(self.prepared(w.caption(images, s.new_tokens, size)))
        if s.baseline:
            shorter = self.prepared(w.caption(images, min(s.new_tokens, s.baseline_tokens), size))
            if size == 1:
                self.baseline(shorter, "eager", 1)
            self.baseline(shorter, "sdpa", size)

    def inspection(self, workload: w.Workload) -> None:
        """What the diagnostics cost."""
        prepared = self.prepared(workload)
        work = partial(measure_inspection, self.adapter, prepared, self.timer, self.settings.repeats)
        self.add("inspection", {**_subject(prepared), "method": "diagnostics"}, work)

    def prepared(self, workload: w.Workload) -> Prepared:
        """A workload in the batches that every method gets."""
        engine = Engine(self.adapter, next(iter(self.methods.values())), workload.batch_size)
        return prepare(self.adapter, workload, engine.plan)

    def rows(self, prepared: Prepared) -> None:
        """One row a method."""
        for name, method in self.methods.items():
            entry = {
                **_subject(prepared),
                "method": name,
                "params": method.params(),
                "leaves_prefix": not method.edits & (Stage.VISION | Stage.PREFIX),
            }
            self.add("rows", entry, partial(self.measured, prepared, method))

    def measured(self, prepared: Prepared, method: Method) -> dict[str, Any]:
        """Numbers of one row."""
        engine = Engine(self.adapter, method, prepared.workload.batch_size)
        return measure(engine, prepared, self.timer, self.effort)

    def pruning(self, workload: w.Workload) -> None:
        """Greedy, each method that drops image tokens at each budget, and plain transformers."""
        prepared = self.prepared(workload)
        subject = _subject(prepared)
        for name, method in self.methods.items():
            drops = method.selects or method.prunes
            if not drops and name != BASELINE:
                continue
            for keep in self.settings.prune if drops else (1.0,):
                entry = {**subject, "method": name, "keep": keep, "leaves_prefix": False}
                self.add("rows", entry, partial(self.pruned, prepared, method, keep))
        if self.settings.baseline:
            for size in dict.fromkeys((1, subject["batch"])):
                self.baseline(prepared, "sdpa", size)

    def pruned(self, prepared: Prepared, method: Method, keep: float) -> dict[str, Any]:
        """Numbers of one row, and what the layers held."""
        at_budget = method.replace(keep=keep) if "keep" in method.params() else method
        engine = Engine(self.adapter, at_budget, prepared.workload.batch_size)
        numbers = measure(engine, prepared, self.timer, self.effort)
        stats = engine.stats()
        return {"params": at_budget.params(), **numbers, **{name: stats[name] for name in _HELD}}

    def baseline(self, prepared: Prepared, attention: Literal["eager", "sdpa"], size: int) -> None:
        """Plain transformers on at least 16 of a workload's prompts, in batches of one size."""
        prompts = prepared.prompts
        prompts = prompts[: max(size, 16 // size * size)]
        batches = [prompts[start : start + size] for start in range(0, len(prompts), size)]
        part = replace(prepared, batches=batches)
        entry = {**_subject(part), "method": f"transformers {attention}", "attention": attention}
        self.add("baselines", entry, partial(measure_plain, self.adapter, part, attention, self.timer, self.effort))

    def add(
        self,
        section: Literal["rows", "baselines", "inspection"],
        entry: dict[str, Any],
        work: Callable[[], dict[str, Any]],
    ) -> None:
        """An entry with its numbers, or with the reason why there are none: the other entries are worth having."""
        try:
            numbers = {**work(), "error": ""}
        except torch.OutOfMemoryError as error:
            numbers = {"error": f"out of memory: {_first_line(error)}"}
        except UsageError as error:
            numbers = {"error": _first_line(error)}
        except Exception as error:
            self.say(traceback.format_exc())
            numbers = {"error": f"{type(error).__name__}: {_first_line(error)}", "broken": True}
        if self.adapter.device.type == "cuda":
            # What a row leaves in reference cycles would count as the next one's memory.
            gc.collect()
            torch.cuda.empty_cache()
        self.record.add(section, entry | numbers)
        self.say(_line(entry | numbers))

    def end_to_end(self, folder: Path) -> None:
        """From files to answers under the first method."""
        s = self.settings
        name, method = next(iter(self.methods.items()))
        entry = measure_end_to_end(self.adapter, method, folder, s.end_to_end, s.questions, s.batch_size)
        self.record.add("end_to_end", {"method": name, **entry})
        self.say(f"end to end, {name}: {entry['end_to_end_per_s']:.1f} answers/s, {entry['ratio']:.2f} of the device's")

    def flips(self) -> None:
        """Answers in batches and alone, under each method."""
        requests = scenes_requests(self.settings.flips)
        for name, method in self.methods.items():
            entry = flip_rates(self.adapter, method, requests)
            self.record.add("flips", {"method": name, **entry})
            self.say(f"flips, {name}: {entry['flipped']} of {entry['questions']} answers")


def _adapter(settings: Settings) -> Adapter:
    if settings.weights == "real":
        return real_adapter(settings.model, settings.device, settings.dtype)
    shape = resolve_shape(settings.model)
    return random_adapter(shape, w.TEXTS, settings.device, settings.dtype, settings.seed)


def _header(settings: Settings, adapter: Adapter) -> dict[str, Any]:
    return {
        "command": f"sinkbench {shlex.join(sys.argv[1:])}",
        "model": {**describe_model(adapter), "weights": settings.weights},
        "device": torch.cuda.get_device_name(adapter.device) if adapter.device.type == "cuda" else "cpu",
        "settings": asdict(settings),
        "env": environment(),
    }


def _subject(prepared: Prepared) -> dict[str, Any]:
    workload = prepared.workload
    return {
        "workload": workload.name,
        "batch_size": workload.batch_size,
        "batch": max(map(len, prepared.batches)),
        "parameters": workload.parameters,
        **describe(prepared),
    }


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def _line(entry: Mapping[str, Any]) -> str:
    """An entry in a line."""
    title = f"{entry['workload']}, batch {entry['batch']}, {entry['method']}"
    if entry["error"]:
        return f"{title}: {entry['error']}"
    if "arms" in entry:
        return f"{title}: {entry['arms']['findings']['time_ratio']:.2f} times the plain prefill"
    metric = HEADLINE[entry["workload"]]
    return f"{title}: {entry[metric] or 0:.1f} {metric.replace('_per_', '/')}"
