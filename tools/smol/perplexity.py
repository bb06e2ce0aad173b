"""What training did to the language: perplexity of plain sentences, without image and without template."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from smol.prior import load

_RESAMPLES = 2000


@torch.inference_mode()
def losses(model: Any, tokenizer: Any, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Cross-entropy of sentences, each by itself; a sentence's first token is not predicted.

    Returns:
        (n,) sums over a sentence's tokens in nats, and (n,) numbers of predicted tokens.
    """
    sums, counts = [], []
    for sentence in sentences:
        ids = tokenizer(sentence, return_tensors="pt").input_ids
        logits = model(input_ids=ids).logits[0, :-1]
        sums.append(nn.functional.cross_entropy(logits.float(), ids[0, 1:], reduction="sum"))
        counts.append(len(logits))
    return torch.stack(sums), torch.tensor(counts)


def measure(folders: Mapping[str, Path], sentences: Sequence[str]) -> dict[str, Any]:
    """Perplexities, and their ratio to the base's with a 95 % interval over resampled sentences.

    Args:
        folders: By name; the others are compared with "base".
        sentences: One text each.
    """
    rng = torch.Generator().manual_seed(0)
    draws = torch.randint(len(sentences), (_RESAMPLES, len(sentences)), generator=rng)
    found: dict[str, dict[str, Any]] = {}
    base: Tensor | None = None
    for name, folder in folders.items():
        subject = load(folder)
        sums, counts = losses(subject.model, subject.processor.tokenizer, sentences)
        found[name] = {"perplexity": round(float((sums.sum() / counts.sum()).exp()), 3)}
        if name == "base":
            base = sums
        elif base is not None:
            more = sums - base
            ratios = (more[draws].sum(-1) / counts[draws].sum(-1)).exp()
            low, high = ratios.quantile(torch.tensor([0.025, 0.975])).tolist()
            ratio = float((more.sum() / counts.sum()).exp())
            found[name]["ratio"] = {"value": round(ratio, 4), "low": round(low, 4), "high": round(high, 4)}
    return {"sentences": len(sentences), "tokens": int(counts.sum()), "models": found}
