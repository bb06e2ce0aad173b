"""smol-llava: the projector and low-rank changes, trained around the real SmolLM2-135M-Instruct.

Stage "align" trains the projector on short captions, stage "instruct" everything on conversations in natural wording,
as LLaVA-1.5 does (Liu et al., arXiv 2310.03744). The base lies where `sinkbench assets fetch smollm2` puts it.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from smol.captions import short_captions
from smol.wording import natural_turns
from torch import Tensor, nn

from sinkbench.errors import UsageError
from sinkbench.scenes.scene import Scene
from sinkbench.smol_llava import IMAGE, SYSTEM, add_lora, bare_model
from sinkbench.smol_llava import build_processor as processor_of
from tiny.llava import LlavaForward
from tiny.packing import IGNORED, TextTurn, Turns
from tiny.recipe import Optimisation, Recipe
from tiny.text import Chat

PLAIN = Path(__file__).resolve().parents[1] / "smol" / "plain_answers.jsonl"
"""Text-only turns that the base itself answered (tools/smol/self_distil.py)."""

_MARK = "\ue000"

_SYSTEM_TURN = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"

CHAT = Chat(
    special=(),
    markup=(),
    pad="<|im_end|>",
    bos=None,
    eos="<|im_end|>",
    media={"image_token": IMAGE},
    image=IMAGE,
    prefix=f"{_SYSTEM_TURN}<|im_start|>user\n{IMAGE}\n",
    ask="<|im_end|>\n<|im_start|>assistant\n",
    template="",
    text_prefix=f"{_SYSTEM_TURN}<|im_start|>user\n",
)


def base_folder() -> Path:
    """The folder of SmolLM2-135M-Instruct.

    Raises:
        UsageError: It was not fetched.
    """
    from sinkbench.downloads import asset_folder

    return asset_folder("smollm2")


def build_tokenizer(recipe: Recipe) -> Any:
    """The base's `tokenizers.Tokenizer`."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(base_folder() / "tokenizer.json"))


def build_processor(tokenizer: Any, recipe: Recipe) -> Any:
    """The processor that `sinkbench.smol_llava` ships."""
    return processor_of(base_folder(), recipe.lora.image_first)


def build_model(recipe: Recipe, tokenizer: Any) -> Any:
    """The bare model with fresh low-rank changes; only these and the projector ask for gradients."""
    torch.manual_seed(recipe.seed)
    model = bare_model(base_folder())
    model.requires_grad_(False)
    lora, core = recipe.lora, model.model
    if lora.rank:
        first, end = lora.layers
        add_lora(core.language_model.layers[first:end], lora.rank, lora.alpha / lora.rank)
    if lora.vision_rank:
        add_lora(core.vision_tower, lora.vision_rank, lora.vision_alpha / lora.vision_rank)
    core.multi_modal_projector.requires_grad_(True)
    return model


def start_from(model: Any, folder: Path) -> None:
    """Take over what an earlier stage trained, as far as this one trains it too.

    Raises:
        UsageError: The folder holds no trained changes.
    """
    from safetensors.torch import load_file

    path = folder / "deltas.safetensors"
    if not path.is_file():
        raise UsageError(f"{folder} holds no deltas.safetensors", "Give the --out folder of a finished stage.")
    missing = model.model.load_state_dict(load_file(path), strict=False)
    if missing.unexpected_keys:
        raise UsageError(f"{path} changes what this recipe leaves alone: {missing.unexpected_keys[:3]}", "See lora.")


def trained(model: Any) -> dict[str, Tensor]:
    """The trained tensors by their names below `model.model`."""
    return {name: p.detach() for name, p in model.model.named_parameters() if p.requires_grad}


def save(model: Any, processor: Any, folder: Path, recipe: Recipe) -> None:
    """Write the trained changes, and the folder that they make together with the base."""
    from safetensors.torch import save_file

    from sinkbench.smol_llava import assemble

    lora = recipe.lora
    scale = {
        "language_model": lora.alpha / max(lora.rank, 1),
        "vision_tower": lora.vision_alpha / max(lora.vision_rank, 1),
    }
    tensors = {name: p.to("cpu", torch.bfloat16).contiguous() for name, p in trained(model).items()}
    save_file(tensors, folder / "deltas.safetensors", metadata={"format": "pt"})
    (folder / "deltas.json").write_text(json.dumps({"scale": scale, "image_first": lora.image_first}))
    assemble(folder, base_folder(), folder)


def dialogue(recipe: Recipe) -> Any:
    """What makes the turns of a scene in the recipe's stage."""
    return _Dialogue(recipe.data.stage, recipe.data.text_share)


class _Dialogue:
    """Turns of a scene, now and then with a text-only one among them."""

    def __init__(self, stage: str, text_share: float) -> None:
        if stage not in ("align", "instruct"):
            raise UsageError(f"data.stage is {stage!r}", "It is align or instruct.")
        self._turns = short_captions if stage == "align" else natural_turns
        self._text_share = text_share
        rows = map(json.loads, PLAIN.read_text("utf-8").splitlines()) if text_share else ()
        self._plain = [TextTurn(row["question"], row["answer"]) for row in rows]

    def __call__(self, scene: Scene, rng: random.Random) -> Sequence[tuple[str, str]]:
        turns = list(self._turns(scene, rng))
        if rng.random() < self._text_share:
            turns.insert(rng.randint(0, len(turns)), rng.choice(self._plain))
        return turns


class SmolForward(LlavaForward):
    """`LlavaForward` whose logits, of 49 152 words, are taken at the answers' tokens only."""

    def __init__(self, model: Any, processor: Any, chat: Chat) -> None:
        content = [{"type": "image"}, {"type": "text", "text": _MARK}]
        prefix = processor.apply_chat_template([{"role": "user", "content": content}]).partition(_MARK)[0]
        super().__init__(model, processor, replace(chat, prefix=prefix))

    def to(self, device: Any) -> "SmolForward":  # type: ignore[override]
        """Move; on a GPU what is not trained becomes bf16, as it is shipped and run."""
        moved = super().to(device)
        if torch.device(device).type == "cuda":
            for name, p in self.model.model.language_model.named_parameters():
                if not p.requires_grad and "lora" not in name:
                    p.data = p.data.to(torch.bfloat16)
        return moved

    def parameter_groups(self, settings: Optimisation) -> list[dict[str, Any]]:
        """Low-rank changes at the peak rate, the projector at its multiple of it; nothing decays."""
        projector = list(self.projector.parameters())
        known = {id(p) for p in projector}
        rest = [p for p in self.model.parameters() if p.requires_grad and id(p) not in known]
        groups: list[dict[str, Any]] = [{"params": projector, "factor": settings.projector_factor}, {"params": rest}]
        return [{**group, "weight_decay": settings.weight_decay} for group in groups if group["params"]]

    def loss(self, images: Tensor, turns: Turns) -> Tensor:
        """Mean cross-entropy of the answers' tokens."""
        wanted = turns.targets != IGNORED
        logits = self.model.lm_head(self.hidden(images, turns)[wanted])
        return nn.functional.cross_entropy(logits.float(), turns.targets[wanted])
