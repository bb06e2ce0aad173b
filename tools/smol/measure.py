"""Measure smol-llava on a CPU: `python tools/smol/measure.py scores --model main=FOLDER --out eval.json`.

`scores` asks about held-out scenes, `prior` and `pairs` ask yes/no questions with nothing to see, `perplexity` reads
plain sentences. FOLDER is one for `from_pretrained`; "base" is the text-only SmolLM2-135M-Instruct, which
`sinkbench assets path smollm2` finds, and needs no --model.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOOLS), str(TOOLS.parent)]

from sinkbench.downloads import asset_folder  # noqa: E402
from sinkbench.environment import git_state, package_versions  # noqa: E402
from sinkbench.errors import SinkbenchError, UsageError  # noqa: E402
from sinkbench.paths import asset  # noqa: E402

SENTENCES = asset("text") / "sentences.txt"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("scores", "prior", "pairs", "perplexity"))
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER", help="may be given again")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--scenes", type=int, default=40, help="of scores: held-out ones; of prior: training ones")
    parser.add_argument("--coco", type=Path, help="of prior and pairs: CHAIR's ground truth of COCO")
    return parser.parse_args(arguments)


def folders_of(pairs: list[str]) -> dict[str, Path]:
    """Model folders by name.

    Raises:
        UsageError: A pair has no name, or its folder is missing.
    """
    folders = {}
    for pair in pairs:
        name, _, folder = pair.partition("=")
        if not folder or not (Path(folder) / "config.json").is_file():
            raise UsageError(f"--model {pair} names no model folder", "Write NAME=FOLDER; FOLDER holds config.json.")
        folders[name] = Path(folder)
    return folders


def measured(options: argparse.Namespace, folders: dict[str, Path]) -> dict[str, Any]:
    """What is asked for; torch and transformers are loaded here."""
    if options.what == "scores":
        from smol import scores

        if len(folders) != 1:
            raise UsageError("scores are those of one model", "Give --model once.")
        (folder,) = folders.values()
        return scores.measure(folder, options.scenes)
    folders = {"base": asset_folder("smollm2"), **folders}
    if options.what == "prior":
        from smol import prior

        return prior.measure(folders, options.scenes, options.coco)
    if options.what == "pairs":
        from smol import pairs

        if options.coco is None:
            raise UsageError("pairs are compared with COCO's", "Give its table: --coco FILE.")
        return pairs.measure(folders, options.scenes, options.coco)
    from smol import perplexity

    return perplexity.measure(folders, SENTENCES.read_text("utf-8").splitlines())


def command_line(options: argparse.Namespace) -> str:
    """What was typed, with the names of folders and files instead of this machine's paths."""
    command = ["python", "tools/smol/measure.py", options.what]
    for pair in options.model:
        name, _, folder = pair.partition("=")
        command += ["--model", f"{name}={Path(folder).name}"]
    if options.what != "perplexity":
        command += ["--scenes", str(options.scenes)]
    if options.coco is not None:
        command += ["--coco", options.coco.name]
    return shlex.join([*command, "--out", options.out.name])


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = parse(arguments)
    try:
        result = measured(options, folders_of(options.model))
    except SinkbenchError as error:
        print(f"{error.message}\n{error.hint}", file=sys.stderr)
        return error.exit_code
    commit, dirty = git_state()
    git = {"commit": commit, "dirty": dirty}
    result["made_by"] = {"command": command_line(options), "git": git, "packages": package_versions()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(f"written to {options.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
