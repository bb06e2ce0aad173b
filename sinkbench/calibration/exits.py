"""What gates of `dyvte` learn from: after which layers the model answers without the image as it does with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sinkbench.adapters.base import Adapter, ImageFeatures
from sinkbench.calibration.base import Bench, Question
from sinkbench.calibration.categories import spellings
from sinkbench.engine.batching import Budget, whole_batches
from sinkbench.engine.context import Context, Role
from sinkbench.engine.feeder import feed_batches
from sinkbench.engine.prefix import Prefixes, encode_images
from sinkbench.engine.prompt import Prompt
from sinkbench.engine.pruning import Entry
from sinkbench.engine.stream import Stream
from sinkbench.errors import SinkbenchError
from sinkbench.methods.pruning.budget import PruningIntervention
from sinkbench.methods.pruning.dyvte import mark_behind, read_entry
from sinkbench.methods.pruning.visual_exit import VisualExitIntervention

_NAME = "dyvte"
_INPUT = "calibration.gate_input"
_STATES = "calibration.last_states"


@dataclass(frozen=True, eq=False)
class Examples:
    """What the gates of L − 1 layers learn from N questions; on the CPU.

    Attributes:
        inputs: (N, L − 1, 2 d) in the model's type, what each gate reads.
        labels: (N, L − 1) bool, whether to exit behind the layer.
    """

    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Spoken:
    """What the model says to an answer of T tokens that it is given token by token.

    Attributes:
        top: (T,) int64, the tokens that it would have chosen.
        loss: Mean negative log-likelihood of the answer's own.
    """

    top: Tensor
    loss: float


@torch.inference_mode()
def label(bench: Bench, questions: Sequence[Question], agreement: float, tolerance: float) -> Examples:
    """Run questions through the engine: whole, and without image tokens from each layer but the first on.

    Args:
        bench: The model, the batch size, and who is told how far it is.
        questions: N questions about images, with answers.
        agreement: As in `may_exit`.
        tolerance: As in `may_exit`.

    Raises:
        SinkbenchError: An image cannot be read, or the model has no tokens for an answer.
    """
    adapter, info = bench.adapter, bench.adapter.info
    inputs = torch.empty(len(questions), info.n_layers - 1, 2 * info.hidden_size, dtype=adapter.dtype)
    labels = torch.zeros(len(questions), info.n_layers - 1, dtype=torch.bool)
    prompts = [adapter.encode(question.request) for question in questions]
    place = {id(prompt): number for number, prompt in enumerate(prompts)}
    budget = Budget.of(adapter, bench.batch_size)
    done, total = 0, len(questions) * (info.n_layers - 1)
    for ready in feed_batches(adapter, whole_batches(prompts, budget)):
        for request, response in ready.failures:
            raise SinkbenchError(f"{request.id}: {response.error}", "Mend the data.")
        features = encode_images(adapter, ready.prompts, ready.inputs, budget.pass_tokens)
        numbers = [place[id(prompt)] for prompt in ready.prompts]
        stream = _stream(adapter, _Inputs(info.n_layers), ready.prompts, features)
        scores = stream.prefill().cpu()
        inputs[numbers] = torch.stack([stream.context.scratch[key] for key in _keys(info.n_layers)], dim=1).cpu()
        answers = [
            answer_ids(adapter, questions[number].answer, own) for number, own in zip(numbers, scores, strict=True)
        ]
        answered = [_answered(prompt, answer) for prompt, answer in zip(ready.prompts, answers, strict=True)]
        plain = speak(adapter, answered, answers, features, info.n_layers)
        for layer in range(info.n_layers - 1):
            blind = speak(adapter, answered, answers, features, layer + 1)
            exits = [may_exit(*both, agreement, tolerance) for both in zip(plain, blind, strict=True)]
            labels[numbers, layer] = torch.tensor(exits)
            done += len(numbers)
            bench.progress(done, total)
    return Examples(inputs, labels)


def may_exit(plain: Spoken, blind: Spoken, agreement: float, tolerance: float) -> bool:
    """The label of a question (spec §4).

    Args:
        plain: The model with the image throughout.
        blind: The same without it from some layer on.
        agreement: Share of the tokens above which they must choose the same.
        tolerance: The second loss must be below so many times the first.
    """
    same = (plain.top == blind.top).double().mean()
    return bool(same > agreement) and blind.loss < tolerance * plain.loss


def answer_ids(adapter: Adapter, answer: str, scores: Tensor) -> Tensor:
    """(T,) int64: the answer as the model would rather begin it, and the token that ends it.

    Args:
        adapter: The model.
        answer: The right answer.
        scores: (V,) next-token scores after the prompt.

    Raises:
        SinkbenchError: The model has no token that begins it.
    """
    known = spellings(adapter, answer.strip())
    if not known:
        raise SinkbenchError(f"{adapter.info.name} has no token that begins {answer!r}", "Choose another task.")
    best = max(known, key=lambda ids: float(scores[ids[0]]))
    own = adapter.tokenizer.eos_token_id
    return torch.tensor([*best, own if own in adapter.eos else adapter.eos[0]])


def speak(
    adapter: Adapter,
    answered: Sequence[Prompt],
    answers: Sequence[Tensor],
    features: Mapping[str, ImageFeatures],
    first: int,
) -> list[Spoken]:
    """What the model says, token by token, to answers that it is given.

    Args:
        adapter: The model.
        answered: B prompts, each with its answer but for the last token.
        answers: (T,) ids of each.
        features: Encoded images by `ImageRef.key`.
        first: The first layer without image tokens; the number of layers for none.
    """
    stream = _stream(adapter, _States(first, adapter.info.n_layers), answered, features)
    stream.prefill()
    hidden, spoken = stream.context.scratch[_STATES], []
    for row, answer in enumerate(answers):
        # Float64: of a loss near 0 a difference of 3 % is lost in float32.
        logits = stream.read_out.logits(hidden[row, -len(answer) :]).double()
        loss = F.cross_entropy(logits, answer.to(logits.device))
        spoken.append(Spoken(logits.argmax(-1).cpu(), float(loss)))
    return spoken


class _Inputs(PruningIntervention):
    """Keeps what the gates of all layers but the last read, and drops nothing.

    Args:
        n_layers: L.
    """

    def __init__(self, n_layers: int) -> None:
        super().__init__(tuple(range(1, n_layers)))

    def token_marks(self, prompt: Prompt) -> dict[str, Tensor]:
        """As the method itself has them."""
        return mark_behind(prompt)

    def keep_tokens(self, entry: Entry, ctx: Context) -> None:
        """Keep (B, 2 d)."""
        ctx.scratch[f"{_INPUT}.{entry.layer - 1}"] = read_entry(entry, ctx)


class _States(VisualExitIntervention):
    """Keeps the last layer's output while image tokens leave at one layer.

    Args:
        first: The first layer without them; L for none.
        n_layers: L.
    """

    def __init__(self, first: int, n_layers: int) -> None:
        super().__init__((first,) if first < n_layers else ())
        self.hidden_layers = (n_layers,)

    def observe_hidden(self, layer: int, hidden: Tensor, ctx: Context) -> None:
        """Keep (B, Q, d)."""
        ctx.scratch[_STATES] = hidden


def _keys(n_layers: int) -> list[str]:
    """Names under which `_Inputs` keeps what it sees."""
    return [f"{_INPUT}.{layer}" for layer in range(n_layers - 1)]


def _stream(
    adapter: Adapter, method: PruningIntervention, prompts: Sequence[Prompt], features: Mapping[str, ImageFeatures]
) -> Stream:
    """Whole prompts before their one pass."""
    nothing = Prefixes.none([_NAME], adapter.device, {_NAME: {}})
    return Stream(adapter, method, _NAME, prompts, nothing, 0, branches=(), features=features)


def _answered(prompt: Prompt, answer: Tensor) -> Prompt:
    """The prompt with all but the last token of an answer (T,) behind it, as if they had been generated."""
    given = len(answer) - 1
    later = (prompt.next_position + torch.arange(given)).expand(len(prompt.positions), -1)
    return replace(
        prompt,
        ids=torch.cat((prompt.ids, answer[:given])),
        roles=torch.cat((prompt.roles, torch.full((given,), int(Role.GENERATED), dtype=torch.uint8))),
        positions=torch.cat((prompt.positions, later), dim=1),
    )
