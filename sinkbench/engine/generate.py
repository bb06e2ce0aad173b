"""From requests to answers: batches made ready on the CPU, then vision, prefix, suffix and decode on the device."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, Literal

import torch

from sinkbench.adapters.base import Adapter, ImageFeatures, ImageInputs
from sinkbench.engine.batching import Budget, plan_batches
from sinkbench.engine.beams import BeamSearch
from sinkbench.engine.decode import Decoder
from sinkbench.engine.feeder import Ready, failed, feed, feed_batches
from sinkbench.engine.lanes import Cost, Lane, Timings
from sinkbench.engine.marks import ImageMarks, mark_images
from sinkbench.engine.prefix import Prefixes, add_edited, encode_images, prefill_prefixes
from sinkbench.engine.prompt import Prompt
from sinkbench.engine.refocus import Looks
from sinkbench.engine.retrospection import RetrospectiveSearch
from sinkbench.engine.selection import Alone
from sinkbench.engine.stream import Stream, contrast_prompts
from sinkbench.methods.base import Intervention, Method
from sinkbench.request import Generation, Request, Response

_WARM_UP = 16
"""Samples answered once before anything is timed on a GPU: kernels are compiled and libraries opened the first time."""


class Engine:
    """Answers requests with a model under one method or several.

    Several methods share one vision pass a batch, and one prefix prefill as far as they leave the prefix alone; those
    who look at it share another.

    Args:
        adapter: The model.
        methods: The method, or several by name; bound to the model here.
        batch_size: Most samples in a batch, or "auto" for what the free memory holds.
        seed: Added to each request's own seed when sampling.
        share_prefix: Prefill the part that questions about one image have in common once.
        graphs: Capture decode passes as CUDA graphs where the method allows it.
        window: Requests that are batched together; 0 for windows that grow. See `feed`.
    """

    def __init__(
        self,
        adapter: Adapter,
        methods: Method | Mapping[str, Method],
        batch_size: int | Literal["auto"] = "auto",
        seed: int = 0,
        share_prefix: bool = True,
        graphs: bool = True,
        window: int = 0,
    ) -> None:
        self.adapter = adapter
        named = {methods.name: methods} if isinstance(methods, Method) else methods
        plain = Budget.of(adapter, batch_size)
        self.lanes = {name: Lane.of(method, adapter.info, plain) for name, method in named.items()}
        # Batches are made for the methods that can take most; the others answer them in parts.
        self.budget = max((lane.budget for lane in self.lanes.values()), key=lambda own: (own.samples, -own.branches))
        self.seed, self.share_prefix, self.window = seed, share_prefix, window
        self.static = self.cold = adapter.device.type == "cuda"
        self.graphs = graphs and self.static

    def answer(self, requests: Iterable[Request]) -> Iterator[list[Response]]:
        """Answer requests under the engine's one method; batches come back as they finish, in any order.

        A sample that cannot be answered comes back with its error; nothing else is lost.
        """
        for _, responses in self.sweep(requests, lambda _name, _request: True):
            yield responses

    def sweep(
        self, requests: Iterable[Request], wanted: Callable[[str, Request], bool]
    ) -> Iterator[tuple[str, list[Response]]]:
        """Answer requests under every method; batches come back with the method's name as they finish.

        Args:
            requests: What to answer under one method or more; read as needed, in another thread.
            wanted: Whether a method is to answer a request.
        """
        for ready in feed(self.adapter, requests, self.plan, self.window):
            if self.cold and ready.prompts:
                self._warm_up(ready, wanted)
            for name in self.lanes:
                if lost := [response for request, response in ready.failures if wanted(name, request)]:
                    yield name, lost
            if ready.prompts:
                yield from self._answer_batch(ready.prompts, ready.inputs, wanted)

    def _warm_up(self, ready: Ready, wanted: Callable[[str, Request], bool]) -> None:
        """Answer some samples of the first batch under each method and forget it, so that no method pays for others."""
        self.cold = False
        list(self._answer_batch(ready.prompts[:_WARM_UP], ready.inputs, wanted))
        for lane in self.lanes.values():
            lane.timings = Timings()

    def plan(self, prompts: Sequence[Prompt]) -> list[list[Prompt]]:
        """Group prompts into batches that fit the budget."""
        return plan_batches(prompts, self.budget)

    def generate(self, prompts: Sequence[Prompt], inputs: Mapping[str, ImageInputs]) -> list[Response]:
        """Answer one batch under the engine's one method; images are preprocessed (by `ImageRef.key`)."""
        return [r for _, responses in self._answer_batch(prompts, inputs, lambda *_: True) for r in responses]

    def stats(self, name: str | None = None) -> dict[str, Any]:
        """Efficiency of everything answered so far under a method; times in seconds or milliseconds as named.

        The seconds of a vision pass or a prefix that methods share count for each of them, as if it ran alone.
        """
        return Cost.of(self.adapter, self.lanes[name or next(iter(self.lanes))].timings).figures()

    def _answer_batch(
        self,
        prompts: Sequence[Prompt],
        inputs: Mapping[str, ImageInputs],
        wanted: Callable[[str, Request], bool],
        looked: bool = False,
    ) -> Iterator[tuple[str, list[Response]]]:
        """Answer a batch under each method that wants it; where memory runs out, in two halves.

        `looked` says that the prompts are what came of looks, so that no method looks before it answers.
        """
        left = {name: mine for name in self.lanes if (mine := [p for p in prompts if wanted(name, p.request)])}
        try:
            for name, responses in self._answer_whole(left, inputs, looked):
                del left[name]
                yield name, responses
            return
        except torch.OutOfMemoryError as error:
            if len(prompts) == 1:
                for name in left:
                    yield name, [failed(prompts[0].request, error)]
                return
        torch.cuda.empty_cache()
        half = -(-len(prompts) // 2)
        self.budget = self.budget.capped(half)
        for part in (prompts[:half], prompts[half:]):
            yield from self._answer_batch(part, inputs, lambda name, r: name in left and wanted(name, r), looked)

    @torch.inference_mode()
    def _answer_whole(
        self, asked: Mapping[str, Sequence[Prompt]], inputs: Mapping[str, ImageInputs], looked: bool
    ) -> Iterator[tuple[str, list[Response]]]:
        """Answer the prompts of each method in one batch; they share what the methods leave alone."""
        looks = {
            name: Looks(self.adapter, self.lanes[name].method, mine, inputs)
            for name, mine in asked.items()
            if self.lanes[name].refocuses and not looked
        }
        direct = {name: mine for name, mine in asked.items() if name not in looks}
        yield from self._answer_direct(direct, looks, inputs)
        # By now the memory of what was shared is free.
        for name, mine in looks.items():
            yield name, self._answer_refocused(name, mine)

    def _answer_direct(
        self, asked: Mapping[str, Sequence[Prompt]], looks: Mapping[str, Looks], inputs: Mapping[str, ImageInputs]
    ) -> Iterator[tuple[str, list[Response]]]:
        """Answer under the methods that answer what was asked, and let the others look."""
        for own_looks in looks.values():
            inputs = {**inputs, **own_looks.inputs}
        branches = {name: contrast_prompts(self.adapter, self.lanes[name].method, mine) for name, mine in asked.items()}
        seeing = {name: [other for other in others if other.images] for name, others in branches.items()}
        start = time.perf_counter()
        plain = [mine for name, mine in asked.items() if not self.lanes[name].encodes]
        plain += [own_looks.prompts for own_looks in looks.values()]
        features = encode_images(self.adapter, list(chain(*plain)), inputs, self.budget.pass_tokens)
        vision_s = self._since(start)
        marks = {name: self._mark(name, mine, inputs) for name, mine in asked.items()}
        image_marks = {name: images for name, (images, _) in marks.items()}
        lanes = {name: self.lanes[name] for name in asked}
        alike = [name for name, lane in lanes.items() if not lane.alone and not seeing[name]]
        lone = len(asked) == 1 and not looks
        sharing = [
            name for name in alike if not (lone and lanes[name].in_one_pass(asked[name], branches[name], self.budget))
        ]
        # Who reads the prefix has a pass of its own, and so have looks: what they cost is not the others' time.
        for reads in (False, True):
            group = {name: lanes[name].method for name in sharing if lanes[name].reads_prefix is reads}
            if not group:
                continue
            own_prompts = {id(prompt): prompt for name in group for prompt in asked[name]}
            prefixes, prefix_s = self._prefill(group, list(own_prompts.values()), features, image_marks)
            for name in group:
                responses = self._run(name, asked[name], branches[name], prefixes)
                lanes[name].timings.vision_s += vision_s + marks[name][1]
                lanes[name].timings.prefix_s += prefix_s
                yield name, responses
            del prefixes
        for name in (name for name in asked if name not in sharing):
            batch = Alone(asked[name], branches[name], features, image_marks[name])
            yield name, self._answer_alone(name, batch, inputs)
            lanes[name].timings.vision_s += marks[name][1] + (0.0 if lanes[name].encodes else vision_s)
        if looking := {name: mine for name, mine in looks.items() if mine.prompts}:
            self._run_looks(looking, features, vision_s)

    def _answer_alone(self, name: str, batch: Alone, inputs: Mapping[str, ImageInputs]) -> list[Response]:
        """Answer under a method that shares no more than the vision pass."""
        start, lane = time.perf_counter(), self.lanes[name]
        # What only one method's second branch needs is made for it alone.
        seeing = [other for other in batch.branches if other.images]
        edited = add_edited(lane.method, seeing, inputs)
        features = encode_images(self.adapter, seeing, edited, self.budget.pass_tokens, batch.features)
        batch = replace(batch, features=features)
        if lane.method.selects:
            batch = batch.shortened(self.adapter, lane.method, edited)
        lane.timings.vision_s += self._since(start)
        if lane.in_one_pass(batch.prompts, batch.branches, self.budget):
            return self._run_whole(name, batch.prompts, batch.branches, batch.features, batch.marks)
        alone = [*batch.prompts, *(other for other in batch.branches if other.images)]
        marks = {name: batch.marks}
        prefixes, prefix_s = self._prefill({name: lane.method}, alone, batch.features, marks, lane.edits_prefix)
        lane.timings.prefix_s += prefix_s
        return self._run(name, batch.prompts, batch.branches, prefixes)

    def _run_looks(self, looking: Mapping[str, Looks], features: Mapping[str, ImageFeatures], vision_s: float) -> None:
        """Run what methods ask before they answer, on the unedited model; it shares the vision pass."""
        prompts = {id(prompt): prompt for mine in looking.values() for prompt in mine.prompts}
        unedited = {name: Intervention() for name in looking}
        prefixes, prefix_s = self._prefill(unedited, list(prompts.values()), features, {})
        for name, mine in looking.items():
            self.lanes[name].timings.vision_s += vision_s
            self.lanes[name].timings.prefix_s += prefix_s
            self._look(name, mine, prefixes)

    def _run_whole(
        self,
        name: str,
        prompts: Sequence[Prompt],
        branches: Sequence[Prompt],
        features: Mapping[str, ImageFeatures],
        marks: ImageMarks,
    ) -> list[Response]:
        """Answer prompts under a method that wants them whole, as many at a time as a pass over prompts may take."""
        nothing = Prefixes.none([name], self.adapter.device, {name: marks})
        step = self.lanes[name].whole_at_once(max(map(len, prompts)), self.budget, self.adapter.info.n_heads)
        responses = []
        for start in range(0, len(prompts), step):
            part = slice(start, start + step)
            responses += self._run(name, prompts[part], branches[part], nothing, features)
        return responses

    def _mark(
        self, name: str, prompts: Sequence[Prompt], inputs: Mapping[str, ImageInputs]
    ) -> tuple[ImageMarks, float]:
        """What a method marks in the images of its prompts, and the seconds that it took."""
        if self.lanes[name].method.selects:  # It marks where it selects.
            return {}, 0.0
        start = time.perf_counter()
        marks = mark_images(self.adapter, self.lanes[name].method, prompts, inputs)
        return marks, self._since(start)

    def _prefill(
        self,
        methods: Mapping[str, Intervention],
        prompts: Sequence[Prompt],
        features: Mapping[str, ImageFeatures],
        marks: Mapping[str, ImageMarks],
        edits: bool = False,
    ) -> tuple[Prefixes, float]:
        start = time.perf_counter()
        prefixes = prefill_prefixes(
            self.adapter,
            methods,
            prompts,
            features,
            edits=edits,
            share=self.share_prefix,
            pass_tokens=self.budget.pass_tokens,
            image_marks=marks,
        )
        return prefixes, self._since(start)

    def _look(self, name: str, looks: Looks, prefixes: Prefixes) -> None:
        """Run the looks of a method."""
        timings = self.lanes[name].timings
        for batch in looks.batches(self.budget):
            start = time.perf_counter()
            prompts, looking = batch.prompts, batch.looking()
            settings = prompts[0].request.generation
            tokens = settings.max_new_tokens
            stream = Stream(self.adapter, looking, name, prompts, prefixes, tokens, self.static, ())
            scores = stream.prefill()
            timings.suffix_s += self._since(start)
            start = time.perf_counter()
            lengths = [1] * len(prompts)
            if tokens > 1:
                decoder = Decoder(self.adapter, stream, prompts, settings, self.seed)
                lengths = [response.new_tokens for response in decoder.run(scores)]
                timings.decode_steps += decoder.steps
            batch.record(looking.maps(lengths))
            timings.decode_s += self._since(start)

    def _answer_refocused(self, name: str, looks: Looks) -> list[Response]:
        """Answer, under a method that has looked, the requests that it puts in the place of those asked."""
        responses = list(looks.failures)
        start = time.perf_counter()
        for part in looks.refocused():
            self.lanes[name].timings.vision_s += self._since(start)
            responses += part.failures
            for ready in feed_batches(self.adapter, self.plan(part.prompts), looks.inputs):
                answers = [response for _, response in ready.failures]
                for _, more in self._answer_batch(
                    ready.prompts, ready.inputs, lambda lane, _: lane == name, looked=True
                ):
                    answers += more
                responses += [replace(answer, details=part.details[answer.id]) for answer in answers]
            start = time.perf_counter()
        return responses

    def _run(
        self,
        name: str,
        prompts: Sequence[Prompt],
        branches: Sequence[Prompt],
        prefixes: Prefixes,
        features: Mapping[str, ImageFeatures] | None = None,
    ) -> list[Response]:
        """Suffix and decode of a batch under a method, in parts where the batch was made for methods that take less.

        `branches` are those of its second branch, or none; `features` are given where the prompts are run whole.
        """
        lane = self.lanes[name]
        if lane.budget == self.budget:
            return self._run_part(name, prompts, branches, prefixes, features)
        branch = {id(prompt): other for prompt, other in zip(prompts, branches, strict=False)}
        responses = []
        for part in plan_batches(prompts, lane.budget):
            own = [branch[id(prompt)] for prompt in part] if branches else []
            responses += self._run_part(name, part, own, prefixes, features)
        return responses

    def _run_part(
        self,
        name: str,
        prompts: Sequence[Prompt],
        branches: Sequence[Prompt],
        prefixes: Prefixes,
        features: Mapping[str, ImageFeatures] | None,
    ) -> list[Response]:
        start = time.perf_counter()
        lane = self.lanes[name]
        settings = lane.generation(prompts[0].request.generation)
        if settings.candidates:
            return self._search_apart(name, settings, prompts, branches, prefixes, features)
        room = settings.max_new_tokens
        stream = Stream(self.adapter, lane.method, name, prompts, prefixes, room, self.static, branches, features)
        scores = stream.prefill()
        lane.timings.suffix_s += self._since(start)
        start = time.perf_counter()
        decoder: Decoder | BeamSearch
        if settings.searches:
            decoder = BeamSearch(self.adapter, stream, prompts, settings)
        else:
            capture = self.graphs and stream.capturable
            decoder = Decoder(self.adapter, stream, prompts, settings, self.seed, capture)
        responses = stream.counted(decoder.run(scores))
        lane.timings.decode_s += self._since(start)
        lane.timings.count(responses, decoder.steps, stream.cache.bytes_per_token())
        return responses

    def _search_apart(
        self,
        name: str,
        settings: Generation,
        prompts: Sequence[Prompt],
        branches: Sequence[Prompt],
        prefixes: Prefixes,
        features: Mapping[str, ImageFeatures] | None,
    ) -> list[Response]:
        """The same where each sample has a search of its own, which may go back by itself; all is decoding time."""
        start = time.perf_counter()
        lane = self.lanes[name]
        responses: list[Response] = []
        steps = 0
        for number, prompt in enumerate(prompts):
            branch, room = branches[number : number + 1], settings.max_new_tokens
            opened = partial(
                Stream, self.adapter, lane.method, name, [prompt], prefixes, room, branches=branch, features=features
            )
            search = RetrospectiveSearch(self.adapter, opened, prompt, settings)
            responses.append(search.run())
            steps += search.steps
        lane.timings.decode_s += self._since(start)
        lane.timings.count(responses, steps, search.stream.cache.bytes_per_token())
        return responses

    def _since(self, start: float) -> float:
        """Seconds since `start`, the device's work included."""
        if self.adapter.device.type == "cuda":
            torch.cuda.synchronize(self.adapter.device)
        return time.perf_counter() - start
