"""What goes into the engine and what comes out: plain values, no model and no lm-eval."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sinkbench.errors import SampleError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_PLACEHOLDER = "<image>"
"""Stands in a message's text once for each image, in order (lm-eval's convention)."""


@dataclass(frozen=True)
class ImageRef:
    """An image on disk, opened only when its batch is near.

    Attributes:
        path: File name, absolute or relative to the working directory.
        sha256: Hash of the file's bytes; images with equal hashes share one vision pass. Empty: the path decides.
    """

    path: str
    sha256: str = ""

    @property
    def key(self) -> str:
        """Equal for two references to the same pixels."""
        return self.sha256 or self.path

    @property
    def on_disk(self) -> bool:
        """Whether the pixels are in a file; otherwise the reference itself holds them."""
        return True

    @classmethod
    def from_file(cls, path: str | Path) -> "ImageRef":
        """Refer to a file, with the hash of its bytes."""
        return cls(str(path), hashlib.sha256(Path(path).read_bytes()).hexdigest())

    def size(self) -> tuple[int, int]:
        """Width and height in pixels; reads the file's header only.

        Raises:
            SampleError: The file is missing or no image.
        """
        from PIL import Image

        try:
            with Image.open(self.path) as image:
                return image.size
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise SampleError(f"image {self.path} cannot be read: {error}") from error

    def load(self) -> "Image":
        """Decode the file as RGB.

        Raises:
            SampleError: The file is missing, truncated or no image.
        """
        from PIL import Image

        try:
            with Image.open(self.path) as image:
                return image.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise SampleError(f"image {self.path} cannot be read: {error}") from error


@dataclass(frozen=True)
class MadeImage(ImageRef):
    """An image that a method made of others; it is in memory and never on disk.

    Attributes:
        image: RGB; not to be changed.
    """

    image: "Image" = field(kw_only=True, compare=False, repr=False)

    @classmethod
    def of(cls, image: "Image") -> "MadeImage":
        """Refer to an image by its pixels: equal ones of equal size have one key."""
        digest = hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()
        return cls(f"made-{digest[:12]}", digest, image=image)

    @property
    def on_disk(self) -> bool:
        """It is not."""
        return False

    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.size

    def load(self) -> "Image":
        """The image itself."""
        return self.image


@dataclass(frozen=True)
class Message:
    """One turn of the conversation; `text` holds `<image>` where each image goes."""

    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True)
class Generation:
    """How an answer is generated.

    Attributes:
        max_new_tokens: Upper bound on generated tokens.
        stop: Strings that end the answer; they are cut from its text.
        do_sample: Sample from the distribution instead of taking the arg-max.
        temperature: Divides the logits when sampling.
        top_p: Nucleus mass when sampling.
        seed: With the request id, seeds the sample's own generator, so that batches do not change answers.
        ignore_eos: Generate exactly `max_new_tokens` (speed measurements).
        num_beams: Hypotheses that a beam search keeps for each answer; 1 searches nothing.
        length_penalty: A hypothesis of n tokens is worth its log-probability / n^length_penalty.
        candidates: Next tokens of each hypothesis that a search tries before it chooses; 0 tries none.
        patience: Where it tries: steps after which it goes back to a token that governs all others.

    Raises:
        UsageError: A search is asked for and sampling too, or there are no beams.
    """

    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    ignore_eos: bool = False
    num_beams: int = 1
    length_penalty: float = 1.0
    candidates: int = 0
    patience: int = 0

    def __post_init__(self) -> None:
        if self.num_beams < 1:
            raise UsageError(f"a search with {self.num_beams} beams keeps no answer", "Give 1 or more.")
        if self.searches and self.do_sample:
            raise UsageError(
                "an answer is either sampled or searched for, and both are asked for",
                "Leave out what samples (the method sample, or do_sample) or what searches (the method beam or opera).",
            )

    @property
    def searches(self) -> bool:
        """Whether several hypotheses or candidates of an answer are compared."""
        return self.num_beams > 1 or self.candidates > 0

    @property
    def rows(self) -> int:
        """Rows of one answer in a decode pass."""
        return self.num_beams * max(1, self.candidates)


@dataclass(frozen=True)
class Request:
    """One question to the model.

    Attributes:
        id: Unique within a run, for example "scenes_pope/17".
        messages: The conversation so far; the last message is the user's.
        images: As many as there are `<image>` placeholders, in order.
        generation: Settings of the answer.
        fault: Why it cannot be asked, if its row in the data is broken: it is counted as a failed sample.
        history: In a later turn of a dialogue, the requests whose answers stand in its assistant messages, by id in
            order. As many rounds of answers come before its own.
    """

    id: str
    messages: tuple[Message, ...]
    images: tuple[ImageRef, ...] = ()
    generation: Generation = field(default_factory=Generation)
    fault: str = ""
    history: tuple[str, ...] = ()

    def with_answers(self, texts: Mapping[str, str]) -> "Request":
        """The request with the answers of earlier turns in its assistant messages.

        Without one of them it cannot be asked, and has that for its fault.

        Args:
            texts: Answers by the requests' ids.
        """
        for id in self.history:
            if id not in texts:
                return replace(self, fault=self.fault or f"{id}, an earlier turn, has no answer")
            if IMAGE_PLACEHOLDER in texts[id]:
                return replace(self, fault=self.fault or f"the answer to {id}, an earlier turn, has an image in it")
        said = iter(self.history)
        messages = (
            replace(message, text=texts[next(said)]) if message.role == "assistant" else message
            for message in self.messages
        )
        return replace(self, messages=tuple(messages)) if self.history else self

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_json` reads it back."""
        # As dataclasses.asdict has it, which copies so deeply that hundreds of thousands take half a minute.
        return {
            "id": self.id,
            "messages": [dict(vars(message)) for message in self.messages],
            "images": [{"path": image.path, "sha256": image.sha256} for image in self.images],
            "generation": dict(vars(self.generation)),
            **({"fault": self.fault} if self.fault else {}),
            **({"history": list(self.history)} if self.history else {}),
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "Request":
        """Read what `to_json` wrote."""
        return cls(
            fault=row.get("fault", ""),
            history=tuple(row.get("history", ())),
            id=row["id"],
            messages=tuple(Message(**m) for m in row["messages"]),
            images=tuple(ImageRef(**i) for i in row["images"]),
            generation=Generation(**{**row["generation"], "stop": tuple(row["generation"]["stop"])}),
        )


@dataclass(frozen=True)
class Response:
    """The answer to one request, or the reason why there is none.

    Attributes:
        id: The request's id.
        text: Decoded answer without special tokens and stop strings.
        prompt_tokens: Length of the prompt, image tokens included.
        new_tokens: Generated tokens, the end-of-sequence token included.
        visual_tokens: Image tokens in the prompt.
        visual_tokens_kept: Image tokens left in the last layer (fewer than `visual_tokens` after pruning).
        tokens_by_layer: Image tokens in each layer of the prefill; empty where all have `visual_tokens_kept`.
        finish: "stop" (end of sequence or stop string), "length", or "error".
        error: Why there is no answer; empty when there is one.
        details: What the method did to this sample, JSON-ready (the boxes of crops); mostly empty.
    """

    id: str
    text: str = ""
    prompt_tokens: int = 0
    new_tokens: int = 0
    visual_tokens: int = 0
    visual_tokens_kept: int = 0
    tokens_by_layer: tuple[int, ...] = ()
    finish: Literal["stop", "length", "error"] = "stop"
    error: str = ""
    details: dict[str, Any] = field(default_factory=dict, hash=False)
