"""Copy test vectors into the project: `python tools/copy_vectors.py DIR NAME...`.

They are packed with gzip. Files with equal model weights share one copy of them, `weights-HASH.safetensors.gz`, which
their metadata name.
"""

import argparse
import gzip
import hashlib
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save

TARGET = Path(__file__).resolve().parents[1] / "tests" / "vectors"
WEIGHTS = "model_state."


def copy(source: Path) -> None:
    with safe_open(source, "pt") as file:
        meta = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights = {name: tensor for name, tensor in sorted(tensors.items()) if name.startswith(WEIGHTS)}
    if weights:
        digest = hashlib.sha256(b"".join(t.numpy().tobytes() for t in weights.values())).hexdigest()[:8]
        meta["weights"] = f"weights-{digest}.safetensors.gz"
        if not (TARGET / meta["weights"]).exists():
            write(TARGET / meta["weights"], save(weights))
    own = {name: tensor.contiguous() for name, tensor in tensors.items() if name not in weights}
    write(TARGET / f"{source.name}.gz", save(own, meta))


def write(path: Path, content: bytes) -> None:
    # Without the time of day, so that equal files are equal.
    path.write_bytes(gzip.compress(content, 9, mtime=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the vectors")
    parser.add_argument("names", nargs="+", help="files without .safetensors")
    given = parser.parse_args()
    for name in given.names:
        copy(given.folder / f"{name}.safetensors")


if __name__ == "__main__":
    main()
