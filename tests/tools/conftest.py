import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

MICRO = """
name: micro
vision: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64, patch_size: 16,
         image_size: 224, hidden_act: gelu}
text: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1, intermediate_size: 64,
       max_position_embeddings: 1024, tie_word_embeddings: true}
optimisation: {learning_rate: 1.0e-2, warmup_steps: 5, batch_size: 2}
data: {turn_tokens: 184}
evaluation: {scenes: 4, batch_size: 16, sink_images: 2}
"""


@pytest.fixture(scope="session")
def micro(tmp_path_factory):
    """Path of a recipe that trains in seconds on a CPU."""
    path = tmp_path_factory.mktemp("recipe") / "micro.yaml"
    path.write_text(MICRO, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer():
    from tiny.text import build_tokenizer

    from sinkbench.scenes.dialogue import vocabulary

    return build_tokenizer(vocabulary())


@pytest.fixture(scope="session")
def processor(tokenizer):
    from tiny.text import build_processor

    return build_processor(tokenizer, image_size=224, patch_size=16)
