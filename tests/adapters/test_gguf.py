"""GGUF files: the weights that they hold, their tokenizer, and what is said where they cannot be read."""

import pytest
import torch
from harness import answers, request

from sinkbench.adapters import check_available, gguf, load_adapter, resolve_model
from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.record import model_identity

if gguf_is_here := not gguf.missing_packages():
    from gguf_file import write_gguf

needs_gguf = pytest.mark.skipif(not gguf_is_here, reason="the packages of sinkbench[gguf] are not installed")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Path of a tiny GGUF file, and the model that it holds."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return path, write_gguf(path)


@needs_gguf
@torch.inference_mode()
def test_the_model_is_the_one_in_the_file(written):
    path, model = written
    preset = resolve_model(str(path))
    check_available(preset)
    assert (preset.name, preset.family, preset.is_local) == ("tiny", "text", True)
    a = load_adapter(preset, "cpu", "float32")
    ids = torch.arange(4, 30)[None]
    torch.testing.assert_close(a.model(ids).logits, model(ids).logits)
    assert a.tokenizer.convert_ids_to_tokens(a.plain_prompt("a is").ids.tolist())[-2:] == ["a", "Ġis"]
    prompt = a.encode(request("r", "is it a cat?"))
    assert a.tokenizer.decode(prompt.ids).startswith("<s>")
    ours = answers(a, get_method("greedy", {}), [request("r", "is it a cat?")])["r"]
    ids = model.generate(prompt.ids[None], max_new_tokens=6, do_sample=False)[0, len(prompt) :]
    assert ours == a.decode(ids.tolist())


@needs_gguf
@torch.inference_mode()
def test_a_saved_folder_is_the_same_model(written, tmp_path):
    path, model = written
    gguf.save_as_folder(path, tmp_path / "saved", torch.float32)
    a = load_adapter(resolve_model(str(tmp_path / "saved")), "cpu", "float32")
    ids = torch.arange(4, 30)[None]
    torch.testing.assert_close(a.model(ids).logits, model(ids).logits)
    assert a.tokenizer.chat_template == load_adapter(resolve_model(str(path)), "cpu").tokenizer.chat_template
    assert a.eos == (2,)


@needs_gguf
def test_a_file_counts_by_content(written, tmp_path):
    path, _ = written
    other = tmp_path / "tiny.gguf"
    other.write_bytes(path.read_bytes())
    identity = model_identity(resolve_model(str(path)))
    assert model_identity(resolve_model(str(other))) == identity
    assert identity["id"] == "tiny"
    other.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert model_identity(resolve_model(str(other))) != identity


def test_a_missing_package_is_named_before_anything_loads(tmp_path, monkeypatch):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs gguf and accelerate") as raised:
        check_available(resolve_model(str(path)))
    assert "pip install gguf accelerate" in raised.value.hint


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    with pytest.raises(UsageError, match=r"model\.gguf is no file"):
        resolve_model(str(path))
    path.write_bytes(b"PK\3\4")
    with pytest.raises(UsageError, match="does not begin with GGUF"):
        gguf.check_file(path)
