"""Train a tiny vision-language model on Scenes from scratch: `python tools/train_tiny.py --help`.

The output folder is loaded by plain `from_pretrained`; it also receives train_log.jsonl, loss.png, eval.json, the model
card (README.md) and, while training, checkpoint.pt.
"""

import argparse
import json
import os
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

SUMMARY = "training.json"
"""Written when the weights are: what the model card tells about training."""
REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from sinkbench.errors import SinkbenchError, UsageError  # noqa: E402

if TYPE_CHECKING:
    import torch
    from tiny.recipe import Recipe


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="recipe, for example configs/train/tiny-llava.yaml")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--minutes", type=float, help="wall-clock budget of training; overrides the recipe")
    parser.add_argument("--steps", type=int, help="budget in steps instead of minutes")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu (default: cuda)")
    parser.add_argument("--workers", type=int, default=min(6, os.cpu_count() or 1), help="data processes")
    parser.add_argument("--resume", action="store_true", help="go on with the run that OUT holds, if any")
    parser.add_argument("--no-compile", action="store_true", help="run the layers uncompiled")
    parser.add_argument("--start", type=Path, help="of family smol: folder of an earlier stage to go on from")
    parser.add_argument("--only", choices=("train", "evaluate"), help="do one half: train and save, or evaluate OUT")
    return parser.parse_args(arguments)


def with_budget(recipe: "Recipe", minutes: float | None, steps: int | None) -> "Recipe":
    from tiny.recipe import Budget

    if minutes is not None and steps is not None:
        raise UsageError("--minutes and --steps exclude each other", "Give one of them.")
    if minutes is None and steps is None:
        return recipe
    if (minutes if minutes is not None else steps or 0) <= 0:
        raise UsageError("the budget must be positive", "For example --minutes 8.")
    return replace(recipe, budget=Budget(minutes=minutes or recipe.budget.minutes, steps=steps))


def pick_device(name: str) -> "torch.device":
    import torch

    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: torch sees no GPU here", "Give --device cpu, or run on a machine with one.")
    return torch.device(name)


def must_train(options: argparse.Namespace) -> bool:
    """Whether OUT still lacks a finished model; makes the folder."""
    options.out.mkdir(parents=True, exist_ok=True)
    finished = (options.out / SUMMARY).exists()
    if options.only == "evaluate" and not finished:
        raise UsageError(f"{options.out} holds no finished model", "Train one first, without --only evaluate.")
    if options.resume or options.only == "evaluate":
        return not finished
    if finished or (options.out / "checkpoint.pt").exists():
        raise UsageError(f"{options.out} holds a training run", "Give --resume to go on from it, or another --out.")
    return True


def command_line(options: argparse.Namespace, recipe: "Recipe") -> str:
    """What to type to train the same model anywhere."""
    budget = recipe.budget
    length = ["--minutes", f"{budget.minutes:g}"] if budget.steps is None else ["--steps", str(budget.steps)]
    config = options.config.resolve()
    if config.is_relative_to(REPOSITORY):
        config = config.relative_to(REPOSITORY)
    start = [] if options.start is None else ["--start", options.start.name]
    return shlex.join(["python", "tools/train_tiny.py", "--config", str(config), *length, *start, "--out", recipe.name])


def train(options: argparse.Namespace, recipe: "Recipe", device: "torch.device") -> None:
    import torch
    from tiny.families import family_of
    from tiny.loop import Trainer
    from tiny.packed import parameter_counts
    from tiny.progress import Progress

    torch.set_float32_matmul_precision("high")
    family = family_of(recipe)
    tokenizer = family.tokenizer(recipe)
    processor = family.build_processor(tokenizer, recipe)
    model = family.build_model(recipe, tokenizer)
    if options.start is not None:
        from tiny.smol import start_from

        start_from(model, options.start)
    forward = family.forward(model, processor, family.chat).to(device)
    trainer = Trainer(recipe, forward, tokenizer, options.out, options.workers)
    if trainer.checkpoint.exists():
        trainer.resume()
    if device.type == "cuda" and not options.no_compile:
        forward.compile_layers()
    parameters = parameter_counts(forward)
    print(f"{recipe.name}: {parameters['total'] / 1e6:.2f} M parameters on {device}", file=sys.stderr)
    with Progress(recipe.name) as progress:
        trainer.run(progress)
    family.save(model, processor, options.out, recipe)
    summary = {
        "recipe": recipe.to_json(),
        "class": type(model).__name__,
        "parameters": parameters,
        "image_tokens": forward.image_stop - forward.image_start,
        "vocabulary": tokenizer.get_vocab_size(),
        "steps": trainer.state.step,
        "images": trainer.state.step * recipe.optimisation.batch_size,
        "minutes": round(trainer.state.seconds / 60, 2),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "command": command_line(options, recipe),
    }
    (options.out / SUMMARY).write_text(json.dumps(summary, indent=1), "utf-8")
    trainer.checkpoint.unlink()


def report(options: argparse.Namespace, recipe: "Recipe", device: "torch.device") -> None:
    from tiny.card import draw_loss, read_log, write_card
    from tiny.evaluate import evaluate

    started = time.monotonic()
    result = evaluate(options.out, recipe, device)
    result["seconds"] = round(time.monotonic() - started, 1)
    (options.out / "eval.json").write_text(json.dumps(result, indent=1), "utf-8")
    draw_loss(read_log(options.out / "train_log.jsonl"), options.out / "loss.png")
    write_card(options.out, json.loads((options.out / SUMMARY).read_text("utf-8")), result)
    for name, value in result["scores"].items():
        if name.rpartition("/")[2] not in ("majority", "n"):
            print(f"{name:28} {value:.3f}")
    print(f"sinks: {result['sink_summary']}; evaluated in {result['seconds']} s")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code (0 done, 1 failed, 2 usage, 130 interrupted with the state saved)."""
    options = parse(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        from tiny.recipe import load_recipe

        recipe = with_budget(load_recipe(options.config), options.minutes, options.steps)
        device = pick_device(options.device)
        if must_train(options):
            train(options, recipe, device)
        if options.only != "train":
            report(options, recipe, device)
    except KeyboardInterrupt:
        print(f"interrupted; the state is in {options.out}, --resume goes on from it", file=sys.stderr)
        return 130
    except SinkbenchError as error:
        print(f"{error.message}\n{error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
