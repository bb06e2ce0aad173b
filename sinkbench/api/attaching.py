"""`sinkbench.attach`: a method on a model that the caller has loaded, for as long as a `with` block lasts."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakSet

from torch import nn

from sinkbench.adapters import ModelPreset, resolve_model
from sinkbench.adapters.families import ADAPTERS, TEXT, adapter_class, family_of
from sinkbench.api.loop import Loop
from sinkbench.calibration.lookup import calibrations_for
from sinkbench.engine.context import Stage
from sinkbench.engine.generate import Engine
from sinkbench.errors import IncompleteError, UsageError
from sinkbench.methods import get_method, method_class
from sinkbench.methods.base import Intervention, Method
from sinkbench.record import model_identity
from sinkbench.request import IMAGE_PLACEHOLDER, Generation, ImageRef, MadeImage, Message, Request

if TYPE_CHECKING:
    from PIL.Image import Image

    Picture = Image | str | Path
    """An image in memory, or the name of its file."""

_attached: "WeakSet[nn.Module]" = WeakSet()


class Attached:
    """A model under a method.

    Args:
        engine: Answers with the model, under its one method.
        method: The method.

    Attributes:
        method: The method with all its parameters.
    """

    def __init__(self, engine: Engine, method: Method) -> None:
        self.method = method
        self._engine: Engine | None = engine

    def generate(
        self,
        prompts: str | Sequence[str],
        images: "Picture | Sequence[Picture | Sequence[Picture] | None] | None" = None,
        *,
        max_new_tokens: int = 128,
        stop: Sequence[str] = (),
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> list[str]:
        """Answer questions in sinkbench's own loop: batched by free memory, every method, the plain model's speed.

        Args:
            prompts: What the user says, without chat markup. `<image>` marks where an image goes; without it, images
                come first.
            images: Of each prompt one image, several or None; None where no prompt has any. An image that several
                prompts have is encoded once.
            max_new_tokens: Upper bound on generated tokens.
            stop: Strings that end an answer; they are cut off.
            do_sample: Sample instead of taking the arg-max.
            temperature: Divides the logits when sampling.
            top_p: Nucleus mass when sampling.

        Returns:
            The answers, in the order of the prompts.

        Raises:
            IncompleteError: A prompt has no answer; the message says which and why.
            UsageError: There are not as many images as prompts, or the `with` block has ended.
        """
        if self._engine is None:
            raise UsageError("the model is no longer attached", "Call generate inside the `with` block.")
        asked, shown = _listed(prompts, images)
        settings = Generation(max_new_tokens, tuple(stop), do_sample, temperature, top_p)
        requests = [_request(index, *of, settings) for index, of in enumerate(zip(asked, shown, strict=True))]
        texts: dict[str, str] = {}
        for responses in self._engine.answer(requests):
            for response in responses:
                if response.error:
                    raise IncompleteError(
                        f"prompt {response.id} has no answer: {response.error}", "Mend it, or leave it out."
                    )
                texts[response.id] = response.text
        return [texts[request.id] for request in requests]

    def _close(self) -> None:
        self._engine = None


@contextmanager
def attach(
    model: Any,
    processor: Any,
    method: str | Method = "greedy",
    *,
    params: Mapping[str, Any] | None = None,
    preset: str | None = None,
    own_loop: bool = True,
    batch_size: int | Literal["auto"] = "auto",
    seed: int = 0,
) -> Iterator[Attached]:
    """Let a method act on a model of transformers that is in memory already.

    Inside the `with` block `model(**inputs)` and `model.generate(**inputs)` run with the method, and so does
    `Attached.generate`, which knows methods that transformers' loop cannot run. There the model is in evaluation mode
    and needs no gradients. Afterwards, also after an exception, it is as it was found.

    The last row of logits is what the method makes of the next token; the others are what the model says where the
    method acts, before the method edits logits. Logits are float32.

    Args:
        model: A loaded `…ForConditionalGeneration` or `…ForCausalLM` of a supported family, all on one device.
        processor: Its processor (its tokenizer, where it reads text only). Images are preprocessed as it says.
        method: A method's name, "a+b" to compose, or a `Method`.
        params: Values by "method.param", or by the parameter's name for a single method.
        preset: Name of the preset whose per-model values (sink dimensions, layers, calibrations) are the model's, for
            example "tiny-llava". By default they are those of the name or folder that the model was loaded from.
        own_loop: Whether the model's own `forward` and `generate` are to run with the method. Methods that need
            sinkbench's loop take False; the model then refuses to be called directly.
        batch_size: Most samples that `Attached.generate` answers at a time, or "auto".
        seed: Seeds what `Attached.generate` samples.

    Raises:
        UsageError: The model is of no supported family or attached already, a name or parameter is wrong, the model
            lacks what the method needs, or the method cannot run in transformers' loop. Nothing is touched then.
    """
    found, own = _preset(model, processor, preset)
    chosen = _method(method, params, found)
    if own_loop:
        _refuse(chosen, _reason_of(chosen))
    with _state_kept(model):
        adapter = adapter_class(model.config.model_type)(replace(found, options={}), model, own)
        engine = Engine(adapter, chosen, batch_size, seed)
        bound = engine.lanes[chosen.name].method
        if own_loop:
            _refuse(chosen, _reason_in(bound))
        scope: AbstractContextManager[None]
        scope = Loop(adapter, chosen, bound).installed() if own_loop else _closed(model, chosen)
        attached = Attached(engine, chosen)
        _attached.add(model)
        try:
            with scope:
                yield attached
        finally:
            attached._close()
            _attached.discard(model)


def _preset(model: Any, processor: Any, name: str | None) -> tuple[ModelPreset, Any]:
    """What is known of the model, and the processor as its adapter takes it.

    Raises:
        UsageError: The model cannot be attached.
    """
    kind = type(model).__name__
    model_type = str(getattr(getattr(model, "config", None), "model_type", ""))
    if model_type not in ADAPTERS:
        raise UsageError(
            f"{kind} is a model of no supported family",
            f"Supported are transformers' models with the model_type {', '.join(sorted(ADAPTERS))}.",
        )
    if not isinstance(getattr(model, "lm_head", None), nn.Module):
        raise UsageError(f"{kind} has no head that names tokens", "Load the …ForConditionalGeneration or …ForCausalLM.")
    if model in _attached:
        raise UsageError("the model is attached already", 'Compose the methods instead: attach(..., "var+pai").')
    if len(devices := {parameter.device for parameter in model.parameters()}) > 1:
        raise UsageError(
            f"the model is spread over {', '.join(sorted(map(str, devices)))}",
            "Load it on one device, without offload.",
        )
    family = family_of(model_type, kind)
    if family == TEXT:
        processor = getattr(processor, "tokenizer", processor)
    tokenizer = processor if family == TEXT else getattr(processor, "tokenizer", None)
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(
            f"{type(processor).__name__} is no processor of {kind} with a fast tokenizer",
            "Pass what AutoProcessor.from_pretrained gives; for a model that reads text only, AutoTokenizer.",
        )
    return _resolved(model, family, name), processor


def _resolved(model: Any, family: str, name: str | None) -> ModelPreset:
    """The preset that is named, or else that of where the model comes from; a bare one if nothing is known."""
    origin = str(getattr(model, "name_or_path", ""))
    if name is not None:
        preset = resolve_model(name)
        if preset.family != family:
            raise UsageError(
                f"preset {name} is of family {preset.family}, the model of {family}", "Name the preset of this model."
            )
        return preset
    try:
        preset = resolve_model(origin)
    except UsageError:
        return ModelPreset(Path(origin).name or type(model).__name__, family, origin or type(model).__name__)
    return preset if preset.family == family else ModelPreset(preset.name, family, origin)


def _method(method: str | Method, params: Mapping[str, Any] | None, preset: ModelPreset) -> Method:
    """The method with its parameters.

    Raises:
        UsageError: A name, parameter or calibration is wrong.
    """
    if isinstance(method, Method):
        if params:
            raise UsageError(f"parameters are given beside a {type(method).__name__}", "Set them with its replace().")
        return method
    names = method.split("+")
    # Reading the weights to tell them apart takes a while.
    identity = model_identity(preset) if any(method_class(name).calibration for name in names) else {}
    calibrations = calibrations_for(names, params or {}, preset.name, identity)
    own = {key: value for key, value in (params or {}).items() if key.rpartition(".")[2] != "calibration"}
    return get_method(method, own, preset.name, calibrations)


def _refuse(method: Method, reason: str) -> None:
    if reason:
        raise UsageError(
            f"{method.name} {reason}, which transformers' own loop cannot do",
            f'attach(model, processor, "{method.name}", own_loop=False) and attached.generate(prompts, images) run it; '
            "so does sinkbench.evaluate.",
        )


def _reason_of(method: Method) -> str:
    """Why a method cannot run in transformers' loop, as far as its class tells; empty if nothing is known."""
    if method.refocuses:
        return "asks preliminary questions and then answers another request"
    if method.selects or method.prunes:
        return "drops image tokens on the way"
    if method.contrasts_images:
        return "contrasts with a second branch that has images or words of its own"
    if method.edits & Stage.VISION:
        return "edits how images are encoded"
    if method.generation(Generation()) != Generation():
        return "chooses the tokens itself (sampling or beams)"
    return ""


def _reason_in(bound: Intervention) -> str:
    """The same, as far as the bound method tells."""
    if bound.vision_layers:
        return "looks into the vision encoder"
    parts = getattr(bound, "parts", (bound,))
    if any(type(part).contrast_request is not Intervention.contrast_request for part in parts):
        return "contrasts with a second prompt in other words"
    return ""


@contextmanager
def _closed(model: nn.Module, method: Method) -> Iterator[None]:
    """Within it, the model refuses to be called: it would answer without the method."""

    def refuse(*_: Any) -> None:
        raise UsageError(
            f"the model is attached with own_loop=False: called directly, it would answer without {method.name}",
            "Call attached.generate(prompts, images), or leave the `with` block first.",
        )

    hook = model.register_forward_pre_hook(refuse)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _state_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards modules are in the mode that they were in, and the same parameters need gradients."""
    training = {module: module.training for module in model.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for parameter, needs in wanted.items():
            parameter.requires_grad_(needs)


def _listed(prompts: Any, images: Any) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Prompts, and the images of each.

    Raises:
        UsageError: There are not as many.
    """
    if isinstance(prompts, str):
        prompts, images = [prompts], None if images is None else [images]
    asked = list(prompts)
    given = [None] * len(asked) if images is None else images
    if not isinstance(given, (list, tuple)) or len(given) != len(asked):
        count = len(given) if isinstance(given, (list, tuple)) else 1
        raise UsageError(
            f"{len(asked)} prompts and images for {count}", "Give for each prompt an image, a list of images, or None."
        )
    return asked, [tuple(own) if isinstance(own, (list, tuple)) else () if own is None else (own,) for own in given]


def _request(index: int, text: str, images: Sequence[Any], settings: Generation) -> Request:
    if IMAGE_PLACEHOLDER not in text:
        text = f"{IMAGE_PLACEHOLDER}\n" * len(images) + text
    refs = tuple(_reference(image) for image in images)
    return Request(str(index), (Message("user", text),), refs, settings)


def _reference(image: Any) -> ImageRef:
    if isinstance(image, (str, Path)):
        if not Path(image).is_file():
            raise UsageError(f"{image} is no file", "Give the path of an image, or a PIL image.")
        return ImageRef.from_file(image)
    if not hasattr(image, "convert"):
        raise UsageError(f"{type(image).__name__} is no image", "Give PIL images or paths.")
    return MadeImage.of(image.convert("RGB"))
