"""Text-only sequences: their lengths, what they are made of, and the sink metric's proposition on repeated tokens."""

import pytest
from random_models import save_text

from sinkbench.adapters import load_adapter, resolve_model
from sinkbench.errors import UsageError
from sinkbench.inspection.collect import collect
from sinkbench.inspection.probe import Choice
from sinkbench.inspection.texts import from_lines, sequences


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return load_adapter(resolve_model(str(save_text(tmp_path_factory.mktemp("text") / "llama"))), "cpu", "float32")


@pytest.mark.parametrize("kind", ["natural", "random", "repeated"])
def test_sequences_have_the_tokens_asked_for(adapter, kind):
    prompts = sequences(adapter, kind, tokens=20, count=3)
    assert [len(prompt) for prompt in prompts] == [20] * 3
    assert [prompt.request.id for prompt in prompts] == [f"{kind}/{i}" for i in range(3)]
    again = sequences(adapter, kind, tokens=20, count=3)
    assert all((a.ids == b.ids).all() for a, b in zip(prompts, again, strict=True))


def test_repeated_is_one_ordinary_token_and_random_begins_as_the_tokenizer_has_it(adapter):
    special = set(adapter.tokenizer.all_special_ids)
    for prompt in sequences(adapter, "repeated", tokens=9, count=4):
        assert len(set(prompt.ids.tolist())) == 1
        assert int(prompt.ids[0]) not in special
    opening = adapter.plain_prompt("a").ids[:1]
    for prompt in sequences(adapter, "random", tokens=9, count=4):
        assert (prompt.ids[:1] == opening).all() == bool(adapter._opening)
        assert not special & set(prompt.ids[1:].tolist())
        assert len(set(prompt.ids.tolist())) > 2


def test_equal_tokens_have_equal_states_so_that_none_stands_out(adapter):
    """Gu et al., arXiv 2410.10781: with rotary positions rows depend on distances alone, and states are all equal."""
    found = collect(adapter, sequences(adapter, "repeated", tokens=16, count=4), Choice(mlp=False))
    assert found.states["residual_peak"] == pytest.approx(1, abs=1e-4)
    assert found.states["cosine_square"] == pytest.approx(1, abs=1e-4)
    assert found.layers["output_drain"] == pytest.approx(1, abs=1e-3)
    natural = collect(adapter, sequences(adapter, "random", tokens=16, count=4), Choice(mlp=False))
    assert natural.states["cosine_square"].max() < 0.9


def test_short_lines_are_left_out_and_a_file_of_them_is_refused(adapter):
    assert len(from_lines(adapter, ["is there a dog in the image", "a dog"], 5)) == 1
    with pytest.raises(UsageError, match="the longest has"):
        from_lines(adapter, ["a dog"], 50)


def test_unknown_kind_names_the_known_ones(adapter):
    with pytest.raises(UsageError, match="natral"):
        sequences(adapter, "natral")
