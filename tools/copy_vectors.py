"""Copy test vectors into the project: `python tools/copy_vectors.py DIR NAME...`.

Files with equal model weights share one copy of them, `weights-HASH.safetensors`, which their metadata name.
"""

import argparse
import hashlib
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

TARGET = Path(__file__).resolve().parents[1] / "tests" / "vectors"
WEIGHTS = "model_state."


def copy(source: Path) -> None:
    with safe_open(source, "pt") as file:
        meta = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights = {name: tensor for name, tensor in sorted(tensors.items()) if name.startswith(WEIGHTS)}
    if weights:
        digest = hashlib.sha256(b"".join(t.numpy().tobytes() for t in weights.values())).hexdigest()[:8]
        meta["weights"] = f"weights-{digest}.safetensors"
        if not (TARGET / meta["weights"]).exists():
            save_file(weights, TARGET / meta["weights"])
    save_file({n: t.contiguous() for n, t in tensors.items() if n not in weights}, TARGET / source.name, meta)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the vectors")
    parser.add_argument("names", nargs="+", help="files without .safetensors")
    given = parser.parse_args()
    for name in given.names:
        copy(given.folder / f"{name}.safetensors")


if __name__ == "__main__":
    main()
