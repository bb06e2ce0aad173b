"""Reads the files made with published code, and stands in for an adapter around their bare language models."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as tensors_of
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from sinkbench.adapters.base import ImageFeatures
from sinkbench.engine.context import Role
from sinkbench.engine.prompt import Prompt
from sinkbench.methods.facts import ModelInfo
from sinkbench.request import Generation, ImageRef, Request


@dataclass
class Vector:
    """One file: tensors by name, and what its metadata says."""

    path: Path
    tensors: dict[str, Tensor]
    params: dict[str, Any]
    tolerance: dict[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


def content(path: Path) -> bytes:
    """A safetensors file, or one that is packed with gzip, as our copies are."""
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def metadata(content: bytes) -> dict[str, str]:
    """What a safetensors file says of itself: its header is JSON, behind 8 bytes with its length."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return dict(header.get("__metadata__", {}))


def files(folder: Path, pattern: str) -> Iterator[Path]:
    """Safetensors files whose names begin as the pattern says, in order."""
    return iter(sorted([*folder.glob(f"{pattern}*.safetensors"), *folder.glob(f"{pattern}*.safetensors.gz")]))


def read(path: Path) -> Vector:
    raw = content(path)
    meta, tensors = metadata(raw), tensors_of(raw)
    if weights := meta.pop("weights", None):
        # Our copies with equal weights share them (tools/copy_vectors.py).
        tensors |= tensors_of(content(path.with_name(weights)))
    meta = {key: json.loads(value) for key, value in meta.items()}
    return Vector(path, tensors, meta["params"], meta["tolerance"])


def find(folder: Path, method: str, case: str) -> list[Path]:
    """Files of one method and case, whatever they are called after `<method>`."""
    found = []
    for path in files(folder, method):
        meta = metadata(content(path))
        if json.loads(meta["method"]) == method and json.loads(meta["case"]) == case:
            found.append(path)
    return found


def load(request: pytest.FixtureRequest, method: str, case: str) -> list[Vector]:
    """Every file of this method and case in `--vectors`; the test is skipped where there is none."""
    folder = request.config.getoption("--vectors")
    found = find(folder, method, case)
    if not found:
        pytest.skip(f"{folder} has no {method} vectors of case {case!r}")
    return [read(path) for path in found]


def same_as(actual: Tensor, expected: Tensor, atol: float) -> None:
    assert torch.equal(actual.isneginf(), expected.isneginf())
    torch.testing.assert_close(actual.nan_to_num(neginf=0), expected.nan_to_num(neginf=0), atol=atol, rtol=0)


def info(n_layers: int, config: dict[str, Any] | None = None, sink_dims: tuple[int, ...] = ()) -> ModelInfo:
    config = config or {}
    heads = config.get("num_attention_heads", 8)
    return ModelInfo(
        "vectors", n_layers, heads, config.get("num_key_value_heads", heads), config.get("hidden_size", 64), sink_dims
    )


def roles(attention_mask: Tensor, image_mask: Tensor, query_mask: Tensor | None = None) -> Tensor:
    """(B, K) roles of a padded batch; without a query mask all text is the user's."""
    result = torch.where(image_mask.bool(), int(Role.IMAGE), int(Role.QUERY))
    if query_mask is not None:
        result = torch.where(image_mask.bool() | query_mask.bool(), result, int(Role.TEMPLATE))
    return torch.where(attention_mask.bool(), result, int(Role.PAD)).to(torch.uint8)


class BareLlama:
    """What the engine needs of an adapter, around a Llama and ready-made embeddings.

    The files' embeddings hold planted values, so each prompt token gets an id of its own behind the vocabulary.
    """

    image_token = -1

    def __init__(self, vector: Vector) -> None:
        prefix = "model_state."
        model = LlamaForCausalLM(LlamaConfig(**vector.params["config"], attn_implementation="sdpa"))
        state = {k.removeprefix(prefix): v for k, v in vector.tensors.items() if k.startswith(prefix)}
        model.load_state_dict(state)
        self.model = model.eval().requires_grad_(False)
        self.language_model: nn.Module = model.model
        self.layers = model.model.layers
        planted = vector["inputs_embeds"].flatten(0, 1)
        self.embed = nn.Embedding.from_pretrained(torch.cat((model.model.embed_tokens.weight, planted)))
        self.vocabulary = model.config.vocab_size
        self.device = torch.device("cpu")
        self.vector = vector

    def forward(self, embeds: Tensor, positions: Tensor, cache: Any, deepstack: None = None) -> Tensor:
        return self.language_model(
            inputs_embeds=embeds, position_ids=positions[0], past_key_values=cache, use_cache=True
        ).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        return self.model.lm_head(hidden).float()

    def prompts(self) -> list[Prompt]:
        """The samples without their padding, where there is any; image embeddings become features."""
        v = self.vector
        prompts = []
        shape = v["image_mask"].shape
        own_ids = self.vocabulary + torch.arange(shape.numel()).view(shape)
        attention_mask = v.tensors.get("attention_mask", torch.ones(shape))
        for row in range(len(own_ids)):
            valid = attention_mask[row].bool()
            image = v["image_mask"][row].bool()[valid]
            ids = own_ids[row][valid].masked_fill(image, self.image_token)
            query = v["query_mask"][row].bool()[valid] if "query_mask" in v.tensors else None
            row_roles = roles(valid[valid], image, query)
            request = Request(str(row), (), (), Generation(v.params.get("new_tokens", 1)))
            ref = ImageRef(f"embeds-{row}")
            prompts.append(Prompt(request, ids, row_roles, torch.arange(len(ids))[None], (ref,), self.image_token))
        return prompts

    def features(self) -> dict[str, ImageFeatures]:
        v = self.vector
        masks = v["image_mask"].bool()
        return {f"embeds-{row}": ImageFeatures(v["inputs_embeds"][row][masks[row]]) for row in range(len(masks))}

    def vocabulary_ids(self, ids: Tensor) -> Tensor:
        """Ids as the file has them, for ids of `prompts`."""
        return self.vector["input_ids"].flatten()[ids - self.vocabulary].long()


def image_free_ids(vector: Vector, row: int) -> Tensor:
    """Ids of the image-free stream as the published code had them."""
    valid = vector["uncond_attention_mask"][row].bool()
    return vector["uncond_input_ids"][row][valid].long()
