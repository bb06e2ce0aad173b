"""FCCT on a model: clean, corrupted and patched passes over questions (Li et al., AAAI 2026, arXiv 2511.05923).

What is made here for one batch, clean values included, lives as long as the batch: these interventions are tools of a
measurement, no methods.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter, ImageFeatures
from sinkbench.calibration.base import Progress
from sinkbench.engine.batching import Budget
from sinkbench.engine.context import Context, Stage, State
from sinkbench.engine.feeder import Ready, feed_batches
from sinkbench.engine.prefix import Prefixes, add_edited, encode_images, prefill_prefixes
from sinkbench.engine.prompt import Prompt
from sinkbench.engine.stream import Stream
from sinkbench.errors import SinkbenchError
from sinkbench.methods.base import Intervention, Part

PARTS: tuple[Part, ...] = ("attn", "mlp", "block")
"""a, m and h of the paper."""

_NAME = "fcct"
_MARK = "fcct.category"
_CLEAN_BYTES = 4 << 30
"""Most that the clean values of a batch may take on the device."""


@dataclass(frozen=True, eq=False)
class Traced:
    """A question to trace.

    Attributes:
        prompt: Its prompt, about one image or more.
        codes: (L,) uint8 from `categories.token_codes`.
        answers: Token ids whose probabilities at the first generated position make P.
    """

    prompt: Prompt
    codes: Tensor
    answers: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Traces:
    """Probabilities of the right answer; float32 on the CPU.

    Attributes:
        clean: (N,).
        corrupted: (N,), under noise.
        patched: (parts, L, categories, N), with the clean value of one part, layer and category put back.
        present: (categories, N) bool, whether a question has tokens of the category.
    """

    clean: Tensor
    corrupted: Tensor
    patched: Tensor
    present: Tensor


class Labelled(Intervention):
    """Knows the category of every token, and how an image is corrupted.

    Args:
        codes: By request id.
        noise: Standard deviation of the noise, in units of the preprocessed image.
    """

    def __init__(self, codes: Mapping[str, Tensor], noise: float = 0.0) -> None:
        self.codes, self.noise = codes, noise

    def token_marks(self, prompt: Prompt) -> dict[str, Tensor]:
        """The codes."""
        return {_MARK: self.codes[prompt.request.id]}

    def edit_image(self, tensors: Mapping[str, Tensor], edit: str, key: str) -> dict[str, Tensor]:
        """Gaussian noise on the whole preprocessed image, always the same for one image and seed."""
        pixels = tensors["pixel_values"]
        digest = hashlib.sha256(f"{edit}/{key}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        drawn = torch.randn(pixels.shape, generator=generator).to(pixels)
        return {**tensors, "pixel_values": pixels + self.noise * drawn}


class Recorder(Labelled):
    """Keeps what every part of every layer computes in the stages named."""

    edited_parts = frozenset(PARTS)
    stages = Stage.SUFFIX

    def edit_hidden(self, layer: int, part: Part, hidden: Tensor, ctx: Context) -> Tensor:
        """Keep (B, Q, d)."""
        if ctx.stage in self.stages:
            # A family may go on writing into a layer's output.
            ctx.state[_key(ctx.stage, part, layer)] = hidden.clone()
        return hidden


class Patch(Labelled):
    """Puts the clean values of one part of one layer back at the tokens of one category.

    Args:
        codes: By request id.
        part: Which part.
        layer: Of which layer.
        category: Code of the category.
        clean: What a `Recorder` kept of the same batch.
    """

    def __init__(
        self, codes: Mapping[str, Tensor], part: Part, layer: int, category: int, clean: Mapping[str, Tensor]
    ) -> None:
        super().__init__(codes)
        self.edited_parts = (part,)
        self.layer, self.category, self.clean = layer, category, clean

    def edit_hidden(self, layer: int, part: Part, hidden: Tensor, ctx: Context) -> Tensor:
        """Replace the chosen rows of (B, Q, d)."""
        clean = self.clean.get(_key(ctx.stage, part, layer))
        if layer != self.layer or clean is None:
            return hidden
        chosen = ctx.state[_MARK][:, ctx.start :] == self.category
        return torch.where(chosen[..., None], clean, hidden)


def _key(stage: Stage, part: Part, layer: int) -> str:
    return f"{stage.name}.{part}.{layer}"


@torch.inference_mode()
def trace(
    adapter: Adapter,
    questions: Sequence[Traced],
    categories: int,
    noise: float,
    seed: int = 0,
    *,
    wanted: Sequence[int] | None = None,
    batch_size: int | Literal["auto"] = "auto",
    progress: Progress = lambda _done, _total: None,
) -> Traces:
    """Trace questions through every part, layer and category.

    Args:
        adapter: The model.
        questions: N questions with different request ids.
        categories: How many categories the codes tell apart.
        noise: Standard deviation of the noise, in units of the preprocessed image.
        seed: Of the noise.
        wanted: Codes of the categories to patch; all by default. The others count as absent.
        batch_size: Most questions in a batch.
        progress: Told how many passes over a question are done, of how many.

    Raises:
        SinkbenchError: An image cannot be read.
    """
    n_layers, n = adapter.info.n_layers, len(questions)
    codes = list(range(1, categories + 1)) if wanted is None else list(wanted)
    traces = Traces(
        torch.zeros(n), torch.zeros(n), torch.zeros(len(PARTS), n_layers, categories, n), torch.zeros(categories, n) > 0
    )
    place = {id(question.prompt): index for index, question in enumerate(questions)}
    total, done = n * (2 + len(PARTS) * n_layers * len(codes)), 0
    for ready in feed_batches(adapter, _batches(adapter, [question.prompt for question in questions], batch_size)):
        for request, response in ready.failures:
            raise SinkbenchError(f"{request.id}: {response.error}", "Mend the data.")
        chosen = [place[id(prompt)] for prompt in ready.prompts]
        batch = _Batch(adapter, [questions[index] for index in chosen], ready, noise, seed, codes)
        traces.clean[chosen], traces.corrupted[chosen] = batch.clean, batch.corrupted
        done += 2 * len(chosen)
        for code in codes:
            traces.present[code - 1, chosen] = batch.present(code)
            for row, part in enumerate(PARTS):
                for layer in range(n_layers):
                    traces.patched[row, layer, code - 1, chosen] = batch.patched(part, layer, code)
                    done += len(chosen)
                    progress(done, total)
    return traces


def _batches(adapter: Adapter, prompts: Sequence[Prompt], batch_size: int | Literal["auto"]) -> Iterator[list[Prompt]]:
    """Prompts in batches whose prefixes fit into one pass each, and whose clean values fit into memory."""
    info, budget = adapter.info, Budget.of(adapter, batch_size)
    kept = len(PARTS) * info.n_layers * info.hidden_size * adapter.dtype.itemsize
    room = min(budget.pass_tokens, _CLEAN_BYTES // kept)
    waiting = sorted(prompts, key=lambda prompt: -len(prompt))
    while waiting:
        size = max(1, min(budget.samples, room // len(waiting[0])))
        yield waiting[:size]
        waiting = waiting[size:]


class _Batch:
    """A batch that has been run clean and corrupted.

    Attributes:
        clean: (B,) P_clean.
        corrupted: (B,) P_corrupted.
    """

    def __init__(
        self,
        adapter: Adapter,
        questions: Sequence[Traced],
        ready: Ready,
        noise: float,
        seed: int,
        wanted: Sequence[int],
    ) -> None:
        self.adapter, self.questions = adapter, questions
        self.codes = {question.prompt.request.id: question.codes for question in questions}
        prompts = ready.prompts
        self.noisy = [prompt.with_edited_images(f"fcct/{noise}/{seed}") for prompt in prompts]
        inputs = add_edited(Labelled(self.codes, noise), self.noisy, ready.inputs)
        pass_tokens = Budget.of(adapter, "auto").pass_tokens
        features = encode_images(adapter, [*prompts, *self.noisy], inputs, pass_tokens)
        recorder = Recorder(self.codes)
        in_prefix = [code for code in wanted if self._in_prefix(code)]
        recorder.stages = Stage.SUFFIX | Stage.PREFIX if in_prefix else Stage.SUFFIX
        prefixes = self._prefill(recorder, prompts, features)
        kept = dict(prefixes.states[_NAME])
        marks = State({_MARK: kept.pop(_MARK)})
        stream = Stream(adapter, recorder, _NAME, prompts, replace(prefixes, states={_NAME: marks}), 0)
        self.clean = self._probability(stream)
        self.kept = {**kept, **stream.state}
        self.features = features
        self.prefixes = self._prefill(Labelled(self.codes), self.noisy, features)
        self.corrupted = self._run(Labelled(self.codes), self.prefixes)

    def present(self, code: int) -> Tensor:
        """(B,) bool: whether a question has tokens of a category."""
        return torch.tensor([bool((question.codes == code).any()) for question in self.questions])

    def patched(self, part: Part, layer: int, code: int) -> Tensor:
        """(B,) P_patched."""
        ends = any(question.codes[-1] == code for question in self.questions)
        if layer == self.adapter.info.n_layers - 1 and not ends:
            # What the last layer does at other tokens nothing reads.
            return self.corrupted
        patch = Patch(self.codes, part, layer, code, self.kept)
        # Where no token before the suffix is patched, the corrupted prefix stands as it is.
        prefixes = self._prefill(patch, self.noisy, self.features) if self._in_prefix(code) else self.prefixes
        return self._run(patch, prefixes)

    def _in_prefix(self, code: int) -> bool:
        return any((each.codes[: each.prompt.prefix_length] == code).any() for each in self.questions)

    def _prefill(
        self, method: Intervention, prompts: Sequence[Prompt], features: Mapping[str, ImageFeatures]
    ) -> Prefixes:
        return prefill_prefixes(self.adapter, {_NAME: method}, prompts, features, edits=True)

    def _run(self, method: Intervention, prefixes: Prefixes) -> Tensor:
        return self._probability(Stream(self.adapter, method, _NAME, self.noisy, prefixes, 0))

    def _probability(self, stream: Stream) -> Tensor:
        probabilities = stream.prefill().softmax(-1)
        return torch.stack(
            [probabilities[row, list(each.answers)].sum() for row, each in enumerate(self.questions)]
        ).cpu()
