"""Methods that look before they answer: a batch's looks, and the requests that are answered instead of its own."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sinkbench.adapters.base import Adapter, ImageInputs
from sinkbench.adapters.views import View, whole_views
from sinkbench.engine.batching import Budget, plan_batches
from sinkbench.engine.feeder import WORKERS, failed, preprocess
from sinkbench.engine.looking import Looking, number_cells, split_maps
from sinkbench.engine.prompt import Prompt
from sinkbench.errors import SampleError
from sinkbench.methods.base import Intervention
from sinkbench.methods.looks import Focus, Look, Seen
from sinkbench.request import Response

_AT_ONCE = 128
"""Samples whose new images are in memory at a time."""


@dataclass(eq=False)
class _Question:
    """A look of a batch; samples may share it.

    Attributes:
        prompt: Its prompt.
        layers: Recorded layers.
        views: The grid of each image.
        seen: What was seen, once it has been run.
        error: Why it cannot be run; empty if it can.
    """

    prompt: Prompt
    layers: tuple[int, ...]
    views: list[View]
    seen: tuple[Seen, ...] = ()
    error: str = ""


@dataclass(frozen=True, eq=False)
class Refocused:
    """Samples after their looks.

    Attributes:
        prompts: What is answered; each has the id of the request that it stands for.
        details: What the method did to a sample, by id.
        failures: Responses to samples that are given up.
    """

    prompts: list[Prompt]
    details: dict[str, dict[str, Any]]
    failures: list[Response]


@dataclass(frozen=True, eq=False)
class _Sample:
    prompt: Prompt
    questions: list[_Question] = field(default_factory=list)


class Looks:
    """The looks of a batch: equal ones of several samples are one.

    Args:
        adapter: The model.
        method: Names the looks, and makes the new requests.
        prompts: The batch.
        inputs: Its preprocessed images by `ImageRef.key`.

    Attributes:
        failures: Responses to samples that cannot have their looks.
        inputs: Preprocessed images of the batch and of the looks.
    """

    def __init__(
        self, adapter: Adapter, method: Intervention, prompts: Sequence[Prompt], inputs: Mapping[str, ImageInputs]
    ) -> None:
        self.adapter = adapter
        self.method = method
        self._questions: dict[object, _Question] = {}
        self._samples: list[_Sample] = []
        self.failures: list[Response] = []
        for prompt in prompts:
            try:
                looks = method.looks(prompt.request) if prompt.images else ()
                self._samples.append(_Sample(prompt, [self._question(look) for look in looks]))
            except SampleError as error:
                self.failures.append(failed(prompt.request, error))
        self.inputs = self._preprocess(inputs)

    def _question(self, look: Look) -> _Question:
        prompt = self.adapter.encode(look.request)
        images = tuple(image.key for image in prompt.images)
        key = (prompt.ids.numpy().tobytes(), images, look.layers, look.request.generation)
        if key not in self._questions:
            self._questions[key] = _Question(prompt, look.layers, whole_views(self.adapter, prompt))
        return self._questions[key]

    def _preprocess(self, inputs: Mapping[str, ImageInputs]) -> Mapping[str, ImageInputs]:
        """The inputs with images added that only the looks are about."""
        if all(image.key in inputs for prompt in self.prompts for image in prompt.images):
            return inputs
        with ThreadPoolExecutor(WORKERS) as pool:
            ready = preprocess(self.adapter, self.prompts, pool, inputs)
        errors = {id(request): response.error for request, response in ready.failures}
        for question in self._questions.values():
            question.error = errors.get(id(question.prompt.request), "")
        return {**inputs, **ready.inputs}

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts of all looks that can be run."""
        return [question.prompt for question in self._questions.values() if not question.error]

    def batches(self, budget: Budget) -> Iterator["Batch"]:
        """The looks in batches that fit a budget."""
        by_layers: dict[tuple[int, ...], dict[int, _Question]] = {}
        for question in self._questions.values():
            if not question.error:
                by_layers.setdefault(question.layers, {})[id(question.prompt)] = question
        for layers, questions in by_layers.items():
            for prompts in plan_batches([question.prompt for question in questions.values()], budget):
                yield Batch(layers, [questions[id(prompt)] for prompt in prompts])

    def refocused(self) -> Iterator[Refocused]:
        """The requests that are answered, once all looks have been run; some samples at a time."""
        for start in range(0, len(self._samples), _AT_ONCE):
            yield self._refocus(self._samples[start : start + _AT_ONCE])

    def _refocus(self, samples: Sequence[_Sample]) -> Refocused:
        """Ask the method; questions about the same images load them once."""
        groups: dict[tuple[str, ...], list[_Sample]] = {}
        for sample in samples:
            groups.setdefault(tuple(image.key for image in sample.prompt.images), []).append(sample)
        with ThreadPoolExecutor(WORKERS) as pool:
            done = [pair for group in pool.map(self._focuses, groups.values()) for pair in group]
        result = Refocused([], {}, [])
        for sample, focus in done:
            request = sample.prompt.request
            try:
                if isinstance(focus, SampleError):
                    raise focus
                unchanged = focus.request is request
                prompt = sample.prompt if unchanged else self.adapter.encode(replace(focus.request, id=request.id))
            except SampleError as error:
                result.failures.append(failed(request, error))
                continue
            result.prompts.append(prompt)
            result.details[request.id] = dict(focus.details)
        return result

    def _focuses(self, samples: Sequence[_Sample]) -> list[tuple[_Sample, Focus | SampleError]]:
        """The new requests about the same images, in a thread."""
        try:
            images = [image.load() for image in samples[0].prompt.request.images]
        except SampleError as error:
            return [(sample, error) for sample in samples]
        return [(sample, self._focus(sample, images)) for sample in samples]

    def _focus(self, sample: _Sample, images: Sequence[Any]) -> Focus | SampleError:
        if not images:
            return Focus(sample.prompt.request)
        try:
            if error := next((question.error for question in sample.questions if question.error), ""):
                raise SampleError(error)
            return self.method.refocus(sample.prompt.request, [q.seen for q in sample.questions], images)
        except SampleError as error:
            return error


@dataclass(frozen=True, eq=False)
class Batch:
    """Looks that are run together.

    Attributes:
        layers: Recorded layers.
        questions: The looks.
    """

    layers: tuple[int, ...]
    questions: list[_Question]

    @property
    def prompts(self) -> list[Prompt]:
        """Of the looks."""
        return [question.prompt for question in self.questions]

    def looking(self) -> Looking:
        """What records them."""
        cells = [number_cells(question.views, question.prompt.visual_tokens) for question in self.questions]
        return Looking(self.layers, pad_sequence(cells, batch_first=True))

    def record(self, maps: Sequence[Tensor]) -> None:
        """Take in what was recorded of each."""
        for question, seen in zip(self.questions, maps, strict=True):
            question.seen = split_maps(seen, question.views)
