"""sinkbench as a model of lm-eval; the only file that knows lm-eval's request objects.

lm-eval 0.4.13 has no entry points for models of other packages, so one of two things must register this one: the
command `python -m sinkbench.lm` in place of `lm_eval`, with the same arguments, or `import sinkbench.lm` in a program
that calls `lm_eval.simple_evaluate(model="sinkbench", ...)`. For example, on one line:

    python -m sinkbench.lm --model sinkbench --model_args model=tiny-llava,method=var,var.tau=5
        --include_path tasks --tasks scenes_pope --batch_size auto

lm-eval's own `hf-multimodal` gives the same greedy answers where it is told to `--apply_chat_template`; it takes no
notice of `max_gen_toks` where the model's generation_config sets a bound of its own.
"""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from lm_eval.api.model import LM
from lm_eval.api.registry import model_registry

from sinkbench.errors import IncompleteError, UsageError
from sinkbench.request import Generation, ImageRef, Message, Request

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from PIL.Image import Image

    from sinkbench.backend import Engine

NAME = "sinkbench"
MAX_NEW_TOKENS = 256
"""lm-eval's bound for tasks that set none."""

_SETTINGS = {"until", "max_gen_toks", "do_sample", "temperature", "top_p"}


class SinkbenchLM(LM):
    """A vision-language model with an intervention, for lm-eval's `generate_until` tasks.

    Args:
        model: Preset name, local folder or hub id.
        method: Method, or "a+b" to compose.
        device: "auto", "cpu", "cuda", ...; None is auto, and so is a GPU that is not there: lm-eval's command line
            asks for "cuda:0" when its user does not say.
        dtype: "auto", "float32", "bfloat16" or "float16".
        batch_size: Samples a batch, or "auto".
        max_batch_size: Not used; lm-eval passes it to every model.
        seed: Seeds sampling.
        share_prefix: Prefill what questions about one image have in common once; False is slower, for checking.
        engine: Answers the requests; by default the engine of `model` and `method`.
        params: The method's parameters as "method.param".

    Raises:
        UsageError: A name, parameter or device is wrong, or the weights cannot be had.
    """

    MULTIMODAL = True

    def __init__(
        self,
        model: str = "tiny-llava",
        method: str = "greedy",
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int | str = "auto",
        max_batch_size: int | None = None,
        seed: int = 0,
        share_prefix: bool = True,
        engine: "Engine | None" = None,
        **params: Any,
    ) -> None:
        super().__init__()
        self._info = {"model": model, "method": method, "method_params": params}
        self._images = TemporaryDirectory(prefix="sinkbench-")
        self._engine = engine or _load(model, method, params, device or "auto", dtype, batch_size, seed, share_prefix)

    def generate_until(self, requests: "Sequence[Instance]", disable_tqdm: bool = False) -> list[str]:
        """Answer lm-eval's instances.

        Args:
            requests: Each with args (context with `<image>` placeholders, generation settings, {"visual": images}).
            disable_tqdm: Show no progress bar.

        Returns:
            Texts in the order of the requests.

        Raises:
            IncompleteError: Some samples have no answer; an empty one would be scored as wrong. The others are in
                lm-eval's cache when it has one (`--use_cache`).
        """
        from tqdm import tqdm  # type: ignore[import-untyped]

        files = _ImageFiles(Path(self._images.name))
        ours = [_request(index, instance, files) for index, instance in enumerate(requests)]
        texts: list[str] = [""] * len(ours)
        failures: list[str] = []
        with tqdm(total=len(ours), disable=disable_tqdm, desc="Answering") as bar:
            for responses in self._engine.answer(ours):
                for response in responses:
                    index = int(response.id)
                    if response.error:
                        failures.append(f"{requests[index].task_name}/{requests[index].doc_id}: {response.error}")
                        continue
                    texts[index] = response.text
                    self.cache_hook.add_partial("generate_until", requests[index].args, response.text)
                bar.update(len(responses))
        if failures:
            raise IncompleteError(
                f"{len(failures)} of {len(ours)} samples failed; for example {failures[0]}",
                "Mend the cause, or use `sinkbench eval`, which scores the rest.",
            )
        return texts

    def loglikelihood(self, requests: "Sequence[Instance]", disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Not offered: interventions are defined for generation."""
        raise _no_likelihood()

    def loglikelihood_rolling(self, requests: "Sequence[Instance]", disable_tqdm: bool = False) -> list[float]:
        """Not offered: interventions are defined for generation."""
        raise _no_likelihood()

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Not offered: the adapter applies the model's own template to every prompt."""
        raise UsageError(
            "sinkbench applies the model's chat template itself", "Leave --apply_chat_template out of the command."
        )

    @property
    def tokenizer_name(self) -> str:
        """Names lm-eval's caches of built requests."""
        return f"sinkbench--{self._info['model']}".replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval adds to the `config` of its results."""
        return dict(self._info)


def _load(
    model: str,
    method: str,
    params: Mapping[str, Any],
    device: str,
    dtype: str,
    batch_size: int | str,
    seed: int,
    share_prefix: bool,
) -> "Engine":
    import torch

    from sinkbench.adapters import check_available, load_adapter, resolve_model
    from sinkbench.calibration.lookup import calibrations_for
    from sinkbench.engine import Engine as LocalEngine
    from sinkbench.methods import get_method
    from sinkbench.record import model_identity

    if device.startswith("cuda") and not torch.cuda.is_available():
        device = "auto"
    preset = resolve_model(model)
    check_available(preset)
    calibrations = calibrations_for(method.split("+"), params, preset.name, model_identity(preset))
    bound = get_method(method, params, preset.name, calibrations)
    size: int | Literal["auto"] = "auto" if str(batch_size).startswith("auto") else int(batch_size)
    return LocalEngine(load_adapter(preset, device, dtype), bound, size, seed, share_prefix)


def _no_likelihood() -> UsageError:
    return UsageError(
        "sinkbench answers generate_until tasks only; this one asks for log-likelihoods",
        "Choose a task with output_type: generate_until.",
    )


def _request(index: int, instance: "Instance", files: "_ImageFiles") -> Request:
    context, settings, *rest = instance.args
    if instance.doc.get("follows"):
        raise UsageError(
            f"{instance.task_name} asks in dialogues, and lm-eval asks every question by itself",
            f"Run it with `sinkbench eval -t {instance.task_name}`.",
        )
    visuals = rest[0]["visual"] if rest else []
    paths = instance.doc.get("image_paths") or [instance.doc.get("image_path")]
    # The files themselves spare decoding and encoding, and have the bytes that `sinkbench eval` sees.
    on_disk = len(paths) == len(visuals) and all(path and Path(path).is_file() for path in paths)
    images = paths if on_disk else visuals
    return Request(
        id=str(index),
        messages=(Message("user", context),),
        images=tuple(files.reference(image) for image in images),
        generation=_generation(settings),
    )


def _generation(settings: Mapping[str, Any]) -> Generation:
    unknown = sorted(set(settings) - _SETTINGS)
    if unknown:
        raise UsageError(
            f"generation setting {unknown[0]!r} is not offered", f"Offered: {', '.join(sorted(_SETTINGS))}."
        )
    until = settings.get("until") or []
    temperature = float(settings.get("temperature", 1.0))
    return Generation(
        max_new_tokens=int(settings.get("max_gen_toks", MAX_NEW_TOKENS)),
        stop=(until,) if isinstance(until, str) else tuple(until),
        # lm-eval's tasks write temperature 0 for arg-max.
        do_sample=bool(settings.get("do_sample", False)) and temperature > 0,
        temperature=temperature if temperature > 0 else 1.0,
        top_p=float(settings.get("top_p", 1.0)),
    )


class _ImageFiles:
    """Files for images that lm-eval holds in memory, named by content.

    Args:
        folder: Where they are written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # An image stays referred to while its id is a key, so that no other object can take the id over.
        self._known: dict[int, tuple[Any, ImageRef]] = {}

    def reference(self, image: "Image | str") -> ImageRef:
        """Refer to an image on disk or in memory; one that cannot be decoded fails when its sample is answered."""
        if isinstance(image, str):
            return ImageRef.from_file(image)
        if id(image) not in self._known:
            self._known[id(image)] = (image, self._write(image))
        return self._known[id(image)][1]

    def _write(self, image: "Image") -> ImageRef:
        from PIL.Image import DecompressionBombError

        try:
            pixels = image.convert("RGB")
        except (OSError, SyntaxError, ValueError, DecompressionBombError):
            return ImageRef(str(self._folder / f"undecodable-{len(self._known)}"))
        digest = hashlib.sha256(f"{pixels.size}".encode() + pixels.tobytes()).hexdigest()
        path = self._folder / f"{digest}.png"
        if not path.exists():
            pixels.save(path)
        return ImageRef(str(path), digest)


def register() -> None:
    """Tell lm-eval's registry about this model; calling it again changes nothing."""
    # Only an empty registry fills itself with lm-eval's own models: without them `hf-multimodal` would be unknown.
    import lm_eval.models  # noqa: F401

    if NAME not in model_registry:
        model_registry.register(NAME, target="sinkbench.lm:SinkbenchLM")


def main() -> int:
    """`lm_eval`, with this model among its own; the exit code."""
    from lm_eval.__main__ import cli_evaluate

    from sinkbench.cli.failure import guarded

    return guarded(cli_evaluate)


register()

if __name__ == "__main__":
    sys.exit(main())
