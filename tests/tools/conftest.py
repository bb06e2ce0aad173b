import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

TEXT = (
    "hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1, intermediate_size: 64, "
    "max_position_embeddings: 1024, tie_word_embeddings: true"
)
MODELS = {
    "llava": f"""
vision: {{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64, patch_size: 16,
          image_size: 224, hidden_act: gelu}}
text: {{{TEXT}}}
""",
    "qwen": f"""
family: qwen
vision: {{hidden_size: 32, depth: 2, num_heads: 2, intermediate_size: 64, patch_size: 8, spatial_merge_size: 2,
          temporal_patch_size: 2, window_size: 112, fullatt_block_indexes: [1]}}
text: {{{TEXT}, rope_parameters: {{rope_type: default, rope_theta: 100.0, mrope_section: [2, 3, 3]}}}}
""",
    "internvl": f"""
family: internvl
vision: {{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64, patch_size: 8,
          image_size: 112, attention_bias: true, use_qk_norm: true}}
text: {{{TEXT}}}
""",
}
REST = """
name: micro
optimisation: {learning_rate: 1.0e-2, warmup_steps: 5, batch_size: 2}
data: {turn_tokens: 184, scene: {sizes: [12.0, 29.0], sign: 0.5}}
evaluation: {scenes: 4, batch_size: 16, sink_images: 2}
"""


@pytest.fixture(scope="session")
def micro(tmp_path_factory):
    """Path of a recipe of family llava that trains in seconds on a CPU."""
    return write_recipe(tmp_path_factory.mktemp("recipe"), "llava")


@pytest.fixture(scope="session")
def tokenizer():
    """The word-level tokenizer of family llava."""
    from tiny.llava import CHAT
    from tiny.text import build_tokenizer

    from sinkbench.scenes.dialogue import vocabulary

    return build_tokenizer(vocabulary(), CHAT)


@pytest.fixture(scope="session")
def processor(tokenizer, micro):
    """The processor of family llava."""
    from tiny.llava import build_processor
    from tiny.recipe import load_recipe

    return build_processor(tokenizer, load_recipe(micro))


@pytest.fixture(scope="session", params=MODELS)
def micro_of(request, tmp_path_factory):
    """Path of such a recipe of every family in turn."""
    return write_recipe(tmp_path_factory.mktemp("recipe"), request.param)


@pytest.fixture(scope="session")
def forward(micro_of):
    """The packed forward of a fresh model of every family in turn, with weights large enough to tell tokens apart."""
    import torch
    from tiny.families import family_of
    from tiny.recipe import load_recipe
    from tiny.text import build_tokenizer

    from sinkbench.scenes.dialogue import vocabulary

    recipe = load_recipe(micro_of)
    family = family_of(recipe)
    words = build_tokenizer(vocabulary(), family.chat)
    model = family.build_model(recipe, words).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            # Biases, positions and CLS start at zero, which would hide an error in their use.
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.mul_(4 if parameter.ndim > 1 else 1).add_(0.05 * noise)
    packed = family.forward(model, family.build_processor(words, recipe), family.chat)
    packed.name, packed.family, packed.words = recipe.family, family, words
    packed.processor = family.build_processor(words, recipe)
    return packed


def write_recipe(folder, family):
    path = folder / f"{family}.yaml"
    path.write_text(MODELS[family] + REST, encoding="utf-8")
    return path
