"""Findings as documents: inspect.json, which a schema describes, and arrays.npz with means by layer and head."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sinkbench.diagnostics import extreme, secondary, sink_metric
from sinkbench.diagnostics.recency import fit_trend
from sinkbench.diagnostics.summary import summarise
from sinkbench.inspection.collect import Findings
from sinkbench.inspection.probe import CLASSES

SCHEMA_VERSION = 1

_TOP = 10
"""Heads and tokens listed."""


_FLAT_LIST = re.compile(r"\[[^\[\]{}\"]*\]")


def dumps(document: dict[str, Any]) -> str:
    """JSON text with one line for each list of numbers."""
    text = json.dumps(document, indent=1, ensure_ascii=False)
    return _FLAT_LIST.sub(lambda match: " ".join(match.group().split()), text) + "\n"


def report(findings: Findings) -> dict[str, Any]:
    """The numbers of a document: means over samples with 95 % bootstrap intervals.

    Args:
        findings: Of one model on one set of prompts.
    """
    layers = dict(findings.layers)
    top_class = layers.pop("top_class")
    states = {k: v for k, v in findings.states.items() if k not in ("top_value", "top_dim")}
    found: dict[str, Any] = {
        "samples": {
            "n": len(findings.samples),
            "tokens": _spread(findings.tokens),
            "image_tokens": _spread(findings.image_tokens),
        },
        "sink_metric": {
            "first": _sink_rates(layers["alpha_first"]),
            "image_max": _sink_rates(layers["alpha_image"]),
            "argmax_share": {name: float((top_class == i).mean()) for i, name in enumerate(CLASSES)},
        },
        "layers": {name: _summary(_by_layer(values)) for name, values in layers.items()},
        "states": {name: _summary(values) for name, values in states.items()},
        "massive": {**(findings.massive.evidence() if findings.massive else {}), "top": _top_entries(findings.states)},
        "sinks": {
            "dims": list(findings.choice.sink_dims),
            "tau": round(findings.tau, 3),
            "primary": findings.choice.primary,
        },
        "secondary": _secondary(findings),
        "heads": {
            name: _top_heads(layers[name])
            for name in ("alpha_first", "image_ratio", "head_divergence")
            if name in layers
        },
    }
    if findings.dominance:
        found["dominance"] = {name: _summary(values) for name, values in findings.dominance.items()}
    if findings.recency is not None:
        trend = fit_trend(findings.recency.curve())
        found["recency"] = {"kappa": _numbers(trend.kappa.numpy()), "r2": _numbers(trend.r2.numpy())}
    return found


def compare_domains(rest: Findings, work: Findings, names: tuple[str, str]) -> dict[str, Any]:
    """The active–dormant test between two sets of prompts (D3).

    Args:
        rest: Findings where heads may rest.
        work: Findings where they should work.
        names: What the two are called.
    """
    result = extreme.active_dormant(*_tensors(rest, work))
    means = [f.layers["alpha_first"].mean(0) for f in (rest, work)]
    top = [tuple(pair) for pair in result.ranking[:_TOP].tolist()]
    return {
        "domains": list(names),
        "switches": result.switches.nonzero().tolist(),
        "top": [
            {
                "layer": layer,
                "head": head,
                "delta": _number(float(result.delta[layer, head])),
                names[0]: _number(float(means[0][layer, head])),
                names[1]: _number(float(means[1][layer, head])),
            }
            for layer, head in top
        ],
    }


def arrays(findings: Findings) -> dict[str, NDArray[Any]]:
    """Means over samples with interval ends, such as "alpha_first" (L, H), "alpha_first_low" and "alpha_first_high"."""
    out: dict[str, NDArray[Any]] = {}
    for name, values in {**findings.layers, **findings.states}.items():
        if name in ("top_class", "top_dim"):
            continue
        summary = summarise(values)
        out |= {name: summary.mean, f"{name}_low": summary.low, f"{name}_high": summary.high}
    if findings.recency is not None:
        curve = findings.recency.curve()
        out |= {"recency_position": curve.position.numpy(), "recency_density": curve.density.numpy()}
    return {name: values.astype(np.float32) for name, values in out.items()}


def _sink_rates(alpha: NDArray[Any]) -> dict[str, Any]:
    """Sink^ε in percent by ε, of α (N, L, H)."""
    values = torch.from_numpy(alpha)
    return {f"{eps:g}": _summary(sink_metric.sink_rate(values, eps).numpy()) for eps in sink_metric.EPSILONS}


def _by_layer(values: NDArray[Any]) -> NDArray[Any]:
    """(N, L): mean over heads."""
    mean: NDArray[Any] = values.reshape(*values.shape[:2], -1).mean(-1)
    return mean


def _tensors(rest: Findings, work: Findings) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(rest.layers["alpha_first"]), torch.from_numpy(work.layers["alpha_first"])


def _summary(values: NDArray[Any]) -> dict[str, Any]:
    summary = summarise(values)
    return {"mean": _numbers(summary.mean), "low": _numbers(summary.low), "high": _numbers(summary.high)}


def _top_entries(states: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """For each hidden state the largest entry: its mean magnitude and the dimension that holds it most often."""
    rows = []
    for index in range(states["top_value"].shape[1]):
        dims = Counter(states["top_dim"][:, index, 0].astype(int).tolist())
        dim, times = dims.most_common(1)[0]
        rows.append(
            {
                "state": index,
                "magnitude": _number(float(np.abs(states["top_value"][:, index, 0]).mean())),
                "median": _number(float(states["median"][:, index].mean())),
                "dim": dim,
                "share": round(times / len(states["top_dim"]), 3),
            }
        )
    return rows


def _secondary(findings: Findings) -> dict[str, Any]:
    """Tokens that follow the primary sink: how many of each label, which tokens, and what their MLPs do."""
    found = [one for one in findings.secondary if one.relative == "secondary"]
    tokens = Counter(one.token for one in found)
    strengths = torch.tensor([[one.strength, one.attention, one.lifetime] for one in found]).view(-1, 3)
    correlations = {}
    if len(found) > 2:
        for name, column in (("attention", 1), ("lifetime", 2)):
            correlations[f"strength_{name}"] = _number(
                float(secondary.rank_correlation(strengths[:, 0], strengths[:, column]))
            )
    return {
        "windows": {
            name: [_number(float(x)) for x in np.median(findings.windows[:, columns], axis=0)]
            for name, columns in (("all", slice(0, 2)), ("without_last", slice(2, 4)))
        },
        "labels": {
            "published": dict(Counter(one.label for one in findings.secondary)),
            "relative": dict(Counter(one.relative for one in findings.secondary)),
        },
        "per_sample": round(len(found) / len(findings.samples), 3),
        "tokens": [_token(token, times, found) for token, times in tokens.most_common(_TOP)],
        "alignment": {
            part: {name: _mean(values) for name, values in lists.items()} for part, lists in findings.alignment.items()
        },
        "rank_correlation": correlations,
    }


def _token(token: str, times: int, found: list[Any]) -> dict[str, Any]:
    own = [one for one in found if one.token == token]
    return {
        "token": token,
        "times": times,
        "start": _number(float(np.median([one.start for one in own]))),
        "lifetime": _number(float(np.mean([one.lifetime for one in own]))),
        "attention": _number(float(np.mean([one.attention for one in own]))),
    }


def _top_heads(values: NDArray[Any]) -> list[dict[str, Any]]:
    mean = values.mean(0)
    order = np.argsort(-mean, axis=None, kind="stable")[:_TOP]
    heads = mean.shape[1]
    return [
        {"layer": int(i // heads), "head": int(i % heads), "mean": _number(float(mean.flat[i]))} for i in order.tolist()
    ]


def _spread(values: list[int]) -> dict[str, Any]:
    return {"mean": _number(float(np.mean(values))), "min": min(values), "max": max(values)}


def _mean(values: list[float]) -> float | None:
    return _number(float(np.mean(values))) if values else None


def _number(value: float) -> float | None:
    """Four significant digits; None for what is no number."""
    return None if np.isnan(value) else float(f"{value:.4g}")


def _numbers(values: Any) -> Any:
    array = np.asarray(values)
    return _number(float(array)) if array.ndim == 0 else [_numbers(row) for row in array]
