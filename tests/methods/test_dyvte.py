"""DyVTE: the release's gates, exits and states; that an exit is what `visual_exit` does; files that do not fit."""

import pytest
import torch
import vectors
from gates import gates_file
from harness import adapter, close, features, forced_tokens, logits, open_stream, requests
from random_models import HIDDEN, LAYERS
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaModel

from sinkbench.adapters.base import ImageFeatures
from sinkbench.engine.context import Context, Role, Stage
from sinkbench.engine.generate import Engine
from sinkbench.engine.prompt import Prompt
from sinkbench.errors import UsageError
from sinkbench.methods.pruning.dyvte import BEHIND, DyVte, gate_input
from sinkbench.methods.pruning.visual_exit import VisualExit
from sinkbench.request import Generation, ImageRef, Request


class Bare:
    """What the engine needs of an adapter, around a Llama without a head; each embedding has an id of its own."""

    image_token = -1

    def __init__(self, vector: vectors.Vector) -> None:
        prefix, self.vector = "model_state.", vector
        config = {"vocab_size": 8, **vector.params["config"]}
        self.language_model = LlamaModel(LlamaConfig(**config, attn_implementation="sdpa")).eval().requires_grad_(False)
        state = {k.removeprefix(prefix): v for k, v in vector.tensors.items() if k.startswith(prefix)}
        missing = self.language_model.load_state_dict(state, strict=False)
        assert (missing.missing_keys, missing.unexpected_keys) == (["embed_tokens.weight"], [])
        self.layers, self.device = self.language_model.layers, torch.device("cpu")
        self.shown: list[Tensor] = []

    def embed(self, ids: Tensor) -> Tensor:
        return self.table[ids]

    def forward(self, embeds: Tensor, positions: Tensor, cache: object, deepstack: None = None) -> Tensor:
        hidden = self.language_model(
            inputs_embeds=embeds, position_ids=positions[0], past_key_values=cache, use_cache=True
        ).last_hidden_state
        self.shown.append(hidden)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden

    def prompts(self) -> tuple[list[Prompt], dict[str, ImageFeatures]]:
        """Of all samples of the file; the id behind a sample's own is that of its next token."""
        start, length, prompts, features, rows = 0, self.vector.params["image_len"], [], {}, []
        first = self.vector.params["image_start"]
        for sample in range(len(self.vector.params["exit_layer"])):
            given = self.vector[f"inputs_embeds_{sample}"][0]
            ids = start + torch.arange(len(given))
            roles = torch.full((len(given),), int(Role.QUERY), dtype=torch.uint8)
            ids[first : first + length] = self.image_token
            roles[first : first + length] = int(Role.IMAGE)
            ref = ImageRef(f"embeds-{sample}")
            request = Request(str(sample), (), (ref,), Generation(1))
            prompts.append(Prompt(request, ids, roles, torch.arange(len(given))[None], (ref,), self.image_token))
            features[ref.key] = ImageFeatures(given[first : first + length])
            rows += [given, self.vector[f"decode_embeds_{sample}"][0]]
            start += len(given) + 1
        self.table = torch.cat(rows)
        return prompts, features

    def next_tokens(self) -> Tensor:
        lengths = [self.vector[f"inputs_embeds_{i}"].shape[1] + 1 for i in range(len(self.vector.params["exit_layer"]))]
        return torch.tensor(lengths).cumsum(0) - 1


@pytest.fixture
def release(request):
    return vectors.load(request, "dyvte", "main")


def bound_of(vector: vectors.Vector, tmp_path):
    path, config = tmp_path / "gates.safetensors", vector.params["config"]
    save_file({"w1": vector["gate_w1"], "w2": vector["gate_w2"]}, path)
    return DyVte(gates=str(path)).bind(vectors.info(config["num_hidden_layers"], config))


def test_gates_of_the_release(release, tmp_path):
    for vector in release:
        bound = bound_of(vector, tmp_path)
        for sample, exit_layer in enumerate(vector.params["exit_layer"]):
            for layer, row in enumerate(vector[f"gate_input_{sample}"]):
                given = bound.logits(layer, row[None])[0]
                torch.testing.assert_close(given, vector[f"gate_logits_{sample}"][layer], atol=1e-5, rtol=1e-5)
                assert bool(given[1] > given[0]) == (layer == exit_layer)


@pytest.mark.parametrize("together", [True, False])
def test_exits_states_and_caches_of_the_release(release, tmp_path, together):
    for vector in release:
        a, samples = Bare(vector), len(vector.params["exit_layer"])
        prompts, features = a.prompts()
        for batch in [range(samples)] if together else [[sample] for sample in range(samples)]:
            check_batch(a, bound_of(vector, tmp_path), [*batch], prompts, features)


def check_batch(a: Bare, bound, batch: list[int], prompts: list[Prompt], features: dict[str, ImageFeatures]) -> None:
    """Exits, gate inputs, cache lengths, last states of the text, and one decode pass."""
    vector, atol, a.shown = a.vector, a.vector.tolerance["hidden_atol"], []
    inputs: list[Tensor] = []
    keep_tokens = bound.keep_tokens

    def recorded(entry, ctx):
        inputs.append(gate_input(entry.hidden, ctx.state[BEHIND].sum(1)))
        return keep_tokens(entry, ctx)

    bound.keep_tokens = recorded
    with torch.inference_mode():
        main = open_stream(a, bound, [prompts[sample] for sample in batch], features, 1)
        main.prefill()
        held = main.pruning.tokens_by_layer()
        lengths = [main.cache.lengths[layer] for layer in range(len(a.layers))]
        decoded = main.step(a.next_tokens()[batch])
    for row, sample in enumerate(batch):
        exit_layer, length = vector.params["exit_layer"][sample], vector.params["image_len"]
        layers = len(a.layers)
        left = exit_layer + 1 if exit_layer >= 0 else layers
        assert held[row].tolist() == [length] * left + [0] * (layers - left)
        text = len(prompts[sample]) - length
        expected = vector.params["cache_len_per_layer"][sample]
        assert [text + int(n) for n in held[row]] == expected
        if len(batch) == 1:
            assert lengths == expected
        for layer, given in enumerate(vector[f"gate_input_{sample}"][: len(inputs)]):
            torch.testing.assert_close(inputs[layer][row], given, atol=atol, rtol=0)
        final = vector[f"final_hidden_after_image_{sample}"][0]
        torch.testing.assert_close(a.shown[0][row, -len(final) :], final, atol=atol, rtol=0)
        torch.testing.assert_close(decoded[row], vector[f"decode_hidden_{sample}"][0, 0], atol=atol, rtol=0)


def test_a_gate_reads_the_mean_of_the_text_behind_the_image_and_the_last_row():
    hidden = torch.arange(12.0).view(2, 6, 1)
    assert gate_input(hidden, torch.tensor([3, 1])).tolist() == [[3.5, 5.0], [0.0, 11.0]]


def test_text_between_images_does_not_count():
    a = adapter("llava")
    bound = DyVte(gates=gates_file(LAYERS, HIDDEN)).bind(a.info)
    by_id = {r.id: a.encode(r) for r in requests()}
    two = by_id["two"]
    assert int(bound.token_marks(two)[BEHIND].sum()) == len(two) - two.prefix_length
    assert not bound.token_marks(by_id["text"])[BEHIND].any()


@pytest.mark.parametrize("layer", [0, 2, 4])
def test_an_exit_of_all_samples_at_one_layer_is_visual_exit(layer):
    """The gate of layer l fires behind it, so that layer l + 1 is the first without the image."""
    a, asked, forced = adapter("qwen2_5_vl"), requests(), forced_tokens(7)
    w1, w2 = torch.ones(LAYERS, 4, 2 * HIDDEN), torch.zeros(LAYERS, 2, 4)
    w1[:, 1::2] = -1  # one of each pair is above zero, whatever the input
    w2[layer] = torch.tensor([-1.0, 1.0])[:, None]
    bound = DyVte(gates=gates_file(LAYERS, HIDDEN)).bind(a.info)
    bound.gates = w1, w2
    with torch.inference_mode():
        main = open_stream(a, bound, [a.encode(each) for each in asked], features(a, asked), forced.shape[1])
        given = torch.stack([main.prefill(), *(main.step(tokens) for tokens in forced.T)], dim=1)
    close(given, logits(a, VisualExit(layer=layer + 1), asked, forced))


def test_samples_leave_at_layers_of_their_own():
    a = adapter("llava")
    method = DyVte(gates=gates_file(LAYERS, HIDDEN, by=3))
    answers = {r.id: r.tokens_by_layer for batch in Engine(a, method).answer(requests()) for r in batch}
    seen = {tokens for name, tokens in answers.items() if name != "text"}
    assert len({tokens.count(0) for tokens in seen}) > 1
    assert all(tokens[0] > 0 and tokens[4] == 0 for tokens in seen)
    assert answers["text"] == (0,) * 6


def test_a_sample_without_image_is_never_gated():
    bound = DyVte(gates=gates_file(LAYERS, HIDDEN)).bind(adapter("llava").info)
    ctx = Context(Stage.SUFFIX, torch.full((1, 4), int(Role.QUERY), dtype=torch.uint8), 4)
    ctx.state[BEHIND] = torch.zeros(1, 4, dtype=torch.bool)

    class Seen:
        hidden, layer = torch.randn(1, 4, HIDDEN), 5

    assert bound.keep_tokens(Seen(), ctx) is None


def test_files_that_do_not_fit_are_refused(tmp_path):
    info = adapter("llava").info
    with pytest.raises(UsageError, match="dyvte has no gates") as caught:
        DyVte().bind(info)
    assert "sinkbench calibrate dyvte --model" in caught.value.hint
    assert "visual_exit" in caught.value.hint
    with pytest.raises(UsageError, match="cannot be read"):
        DyVte(gates=str(tmp_path / "none.safetensors")).bind(info)
    (tmp_path / "odd.safetensors").write_text("no tensors")
    with pytest.raises(UsageError, match="cannot be read"):
        DyVte(gates=str(tmp_path / "odd.safetensors")).bind(info)
    with pytest.raises(UsageError, match=r"takes w1 \(6, width, 128\)"):
        DyVte(gates=gates_file(LAYERS, 32)).bind(info)
    save_file({"w1": torch.zeros(LAYERS, 3, 2 * HIDDEN)}, tmp_path / "half.safetensors")
    with pytest.raises(UsageError, match="and w2"):
        DyVte(gates=str(tmp_path / "half.safetensors")).bind(info)
