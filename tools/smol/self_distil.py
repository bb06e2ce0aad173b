"""Let SmolLM2-135M-Instruct answer plain prompts: `python tools/smol/self_distil.py`.

smol-llava is trained on these answers beside its image questions, so that its low-rank changes keep the language.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from sinkbench.smol_llava import build_processor  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, default=HERE / "plain_prompts.txt", help="one prompt a line")
    parser.add_argument("--out", type=Path, default=HERE / "plain_answers.jsonl")
    parser.add_argument("--base", type=Path, help="folder of the base, if not the fetched one")
    parser.add_argument("--max-tokens", type=int, default=96, help="longer answers are left out")
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    from transformers import AutoModelForCausalLM

    if args.base is None:
        from sinkbench.downloads import asset_folder

        args.base = asset_folder("smollm2")
    model = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32).to(args.device)
    processor = build_processor(args.base)
    prompts = args.prompts.read_text("utf-8").splitlines()
    rows: list[dict[str, str]] = []
    for start in range(0, len(prompts), args.batch_size):
        part = prompts[start : start + args.batch_size]
        rows += answers(model, processor, part, args.max_tokens)
        print(f"{start + len(part)} of {len(prompts)} prompts, {len(rows)} answers", file=sys.stderr)
    if not rows:
        sys.exit(f"none of the {len(prompts)} answers ends within {args.max_tokens} tokens; {args.out} is left alone")
    args.out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


@torch.inference_mode()
def answers(model: Any, processor: Any, prompts: list[str], max_tokens: int) -> list[dict[str, str]]:
    """Greedy answers, in the conversation form that smol-llava has; those that do not end in time are left out."""
    tokenizer = processor.tokenizer
    texts = [
        processor.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)
        for prompt in prompts
    ]
    inputs = tokenizer(texts, padding=True, return_tensors="pt").to(model.device)
    out = model.generate(**inputs, do_sample=False, max_new_tokens=max_tokens)[:, inputs["input_ids"].shape[1] :]
    return [
        {"question": prompt, "answer": tokenizer.decode(tokens, skip_special_tokens=True).strip()}
        for prompt, tokens in zip(prompts, out, strict=True)
        if (tokens == model.generation_config.eos_token_id).any()
    ]


if __name__ == "__main__":
    main()
