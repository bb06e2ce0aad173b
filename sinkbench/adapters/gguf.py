"""GGUF files (llama.cpp's format) as ordinary models: transformers reads them and dequantises the weights."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError

SUFFIX = ".gguf"

_MAGIC = b"GGUF"
_PACKAGES = ("gguf", "accelerate")
"""What transformers asks for before it reads such a file."""


def missing_packages() -> list[str]:
    """Packages that reading such a file would need."""
    return [name for name in _PACKAGES if find_spec(name) is None]


def check_packages() -> None:
    """Make sure that such files can be read here.

    Raises:
        UsageError: A package is missing.
    """
    if missing := missing_packages():
        raise UsageError(
            f"reading a GGUF file needs {' and '.join(missing)}", f"pip install {' '.join(missing)} (sinkbench[gguf])."
        )


def check_file(path: Path) -> None:
    """Make sure that a file is of this format.

    Raises:
        UsageError: It is not.
    """
    with open(path, "rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise UsageError(f"{path} is no GGUF file: it does not begin with {_MAGIC.decode()}", "Download it again.")


def read_config(path: Path) -> Any:
    """The transformers config that a file describes.

    Raises:
        UsageError: transformers knows no such architecture, or a package is missing.
    """
    from transformers import AutoConfig

    check_packages()
    check_file(path)
    try:
        return AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    except ValueError as error:
        raise UsageError(f"{path}: {error}", "Convert the model to a folder that from_pretrained can load.") from error


def load_model(path: Path, config: Any, dtype: Any) -> Any:
    """The causal language model, its weights dequantised: an ordinary model, as from a folder.

    Args:
        path: The file.
        config: What `read_config` read from it.
        dtype: torch dtype of the weights.
    """
    from transformers import AutoModelForCausalLM, GgufConfig

    read = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=dtype, quantization_config=GgufConfig(dequantize=True)
    )
    # What was read from GGUF still counts as quantised: transformers would not save it, and may swap its layers.
    model = type(read).from_pretrained(
        None, config=config, state_dict=read.state_dict(), dtype=dtype, attn_implementation="sdpa"
    )
    model.generation_config = read.generation_config
    return model


def load_tokenizer(path: Path) -> Any:
    """The tokenizer, with its chat template if the file has one."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def save_as_folder(path: Path, folder: Path, dtype: Any) -> None:
    """Save model and tokenizer as `from_pretrained` loads them without the packages of this format.

    Args:
        path: The GGUF file.
        folder: Where they go.
        dtype: torch dtype of the saved weights.
    """
    config = read_config(path)
    load_model(path, config, dtype).save_pretrained(folder)
    tokenizer = load_tokenizer(path)
    # transformers 5.17 takes the special tokens of some architectures from elsewhere than the file's own numbers.
    for name in ("bos", "eos", "pad"):
        number = getattr(config, f"{name}_token_id", None)
        if isinstance(number, int):
            setattr(tokenizer, f"{name}_token", tokenizer.convert_ids_to_tokens(number))
    tokenizer.save_pretrained(folder)
