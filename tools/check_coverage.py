"""How often are intervals and tests right? `python tools/check_coverage.py --out results/checks/coverage.json`.

Answers of two methods are simulated whose true scores are known: questions on images, right or wrong, with answers to
one image's questions alike, the methods' answers alike, and, beyond what they share, each method right or wrong on
whole images; POPE's F1 from a confusion matrix; CHAIR's ratio from captions that mention more where more is wrong.
Each setting is drawn a few thousand times. Reported: how often the 95 % interval of a score and of a difference holds
the truth, and how often a test finds a difference at 0.05 where there is none. Exits with 1 if, by more than three
standard errors, the coverage of an interval that boards show leaves 95 +- 2 per cent or the false positives of a test
that they use exceed 7 per cent; what they do not use is reported for comparison, as are 50 images of one question.
"""

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from sinkbench.leaderboard import stats  # noqa: E402
from sinkbench.scoring.metric import quotient  # noqa: E402
from sinkbench.scoring.pope import f1  # noqa: E402

Array = NDArray[np.float64]

LEVEL, MARGIN, MOST_FALSE = 0.95, 0.02, 0.07
RATES = (0.6, 0.75, 0.9, 0.95)
CLUSTERS = (50, 100, 500)
ALIKE = {"weak": (0.05, 0.5, 0.05), "strong": (0.15, 0.3, 0.15)}
"""Shares of an answer's variance on the probit scale: of the image, of the question, of the method on the image."""
QUESTIONS = 6
MENTIONS = 6
"""A caption names 1 to so many objects, equally likely."""
SHORTER = 0.3
"""How often a caption of the better method names one less."""
_BATCH = 500


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--draws", type=int, default=2000, help="simulated boards a setting")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from sinkbench.environment import git_state

    commit, dirty = git_state()
    begin = time.monotonic()
    report = {
        "command": f"python tools/check_coverage.py {shlex.join(sys.argv[1:])}",
        "commit": commit,
        "dirty": dirty,
        "draws": args.draws,
        "standard_error": math.sqrt(LEVEL * (1 - LEVEL) / args.draws),
        "questions_an_image": QUESTIONS,
        "alike": ALIKE,
        "settings": [],
    }
    for setting in settings():
        measured = measure(**setting, draws=args.draws, seed=args.seed)
        report["settings"].append({**setting, "judged": judged(**setting), **measured})
        print(setting, measured, flush=True)
    report["worst"] = {
        "boards": worst(report["settings"], every=False),
        "all": worst(report["settings"]),
    }
    report["seconds"] = round(time.monotonic() - begin)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    return int(is_wrong(report["settings"], 3 * report["standard_error"]))


def settings() -> Iterator[dict[str, Any]]:
    for kind in ("accuracy", "single", "f1", "chair"):
        for clusters in CLUSTERS:
            for alike in ALIKE:
                for rate in RATES:
                    if kind != "chair" or rate > 0.6:
                        yield {"kind": kind, "clusters": clusters, "alike": alike, "rate": rate}


def judged(kind: str, clusters: int, **_: Any) -> list[str]:
    """What of a setting boards show, and where they say it holds: see docs/statistics.md."""
    if kind == "single" and clusters < 100:
        return []
    shown = {
        "f1": ["covered_bootstrap", "false_bootstrap"],
        "chair": ["covered_mean", "false_bootstrap"],
        "accuracy": ["covered_mean", "false_sign_flip"],
        "single": ["covered_mean", "false_sign_flip"],
    }
    return ["covered_delta", *shown[kind]]


def worst(measured: Iterable[dict[str, Any]], every: bool = True) -> dict[str, list[float]]:
    """Lowest and highest value of everything measured, or of what boards show."""
    found: dict[str, list[float]] = {}
    for row in measured:
        for name in row if every else row["judged"]:
            if name.startswith(("covered", "false")):
                found.setdefault(name, []).append(row[name])
    return {name: [min(values), max(values)] for name, values in found.items()}


def is_wrong(measured: Iterable[dict[str, Any]], slack: float) -> bool:
    """Whether something that boards show leaves its limits by more than chance explains."""
    extremes = worst(measured, every=False)
    covered = [bound for name, bounds in extremes.items() if name.startswith("covered") for bound in bounds]
    false = [high for name, (_, high) in extremes.items() if name.startswith("false")]
    return any(abs(bound - LEVEL) > MARGIN + slack for bound in covered) or max(false) > MOST_FALSE + slack


def measure(kind: str, clusters: int, alike: str, rate: float, draws: int, seed: int) -> dict[str, float]:
    """Coverage and false positives of one setting.

    Args:
        kind: "accuracy" over several questions an image, "single" over one, POPE's "f1", or "chair": CHAIR_i.
        clusters: Images.
        alike: A key of `ALIKE`.
        rate: True accuracy; with "chair" the share of mentions that are right.
        draws: Simulated boards.
        seed: Seeds the simulation.
    """
    generator = np.random.default_rng([seed, clusters, round(1000 * rate), *kind.encode(), *alike.encode()])
    simulations: dict[str, Callable[..., Simulated]] = {
        **{"accuracy": _accuracy, "single": partial(_accuracy, questions=1), "f1": _f1, "chair": _chair}
    }
    simulate = simulations[kind]
    statistic = f1 if kind == "f1" else quotient
    hits: dict[str, list[bool]] = {}

    def note(name: str, value: bool) -> None:
        hits.setdefault(name, []).append(value)

    for _ in range(-(-draws // _BATCH)):
        for better in (False, True):
            # One draw of clusters for all boards of a batch: each would draw the same, of one seed and number.
            truth, tables = simulate(generator, _BATCH, clusters, ALIKE[alike], rate, better)
            totals = [stats.resample_totals(_wide(table)).reshape(-1, _BATCH, table.shape[2]) for table in tables]
            resampled = [statistic(total) for total in totals]
            whole = [statistic(table.sum(axis=1)) for table in tables]
            for board in range(_BATCH):
                first, second = (table[board] for table in tables)
                delta = float(whole[1][board] - whole[0][board])
                paired = stats.paired_summary(delta, resampled[1][:, board] - resampled[0][:, board], clusters)
                note("covered_delta", paired.low <= truth[1] - truth[0] <= paired.high)
                if better:
                    continue
                interval = stats.percentile_interval(resampled[0][:, board], clusters)
                note("covered_bootstrap", interval.low <= truth[0] <= interval.high)
                note("false_bootstrap", paired.p < 0.05)
                if kind != "f1":
                    low, high, error = stats.clustered_mean_ci(first[:, :2], proportion=True)
                    note("covered_mean", low <= truth[0] <= high)
                    note("covered_plain", abs(whole[0][board] - truth[0]) <= ndtri((1 + LEVEL) / 2) * error)
                if kind in ("accuracy", "single"):
                    differences = second[:, 0] - first[:, 0]
                    note("false_sign_flip", stats.sign_flip_p(differences) < 0.05)
                    note("false_mcnemar", _plain_mcnemar(first, second) < 0.05)
    return {name: round(float(np.mean(values)), 4) for name, values in hits.items()}


def _wide(table: Array) -> Array:
    """(boards, C, S) as (C, boards * S)."""
    return table.transpose(1, 0, 2).reshape(table.shape[1], -1)


def _plain_mcnemar(first: Array, second: Array) -> float:
    """McNemar's p from counts of pairs that only one of the two has right, columns 2 of the tables."""
    return stats.mcnemar_exact(
        np.repeat([1.0, 0.0], [int(first[:, 2].sum()), int(second[:, 2].sum())]),
        np.repeat([0.0, 1.0], [int(first[:, 2].sum()), int(second[:, 2].sum())]),
    ).p


# What is simulated: true values of both methods, and for each of them a table (boards, images, counts).

Simulated = tuple[tuple[float, float], tuple[Array, Array]]


def _latent(generator: np.random.Generator, shape: tuple[int, int, int], alike: tuple[float, float, float]) -> Array:
    """How hard each question is for each method: (2, boards, images, questions), standard normal.

    Args:
        generator: Source of the draws.
        shape: Boards, images and questions.
        alike: A value of `ALIKE`.
    """
    boards, images, _ = shape
    image, question, method = (math.sqrt(share) for share in alike)
    common = image * generator.standard_normal((boards, images, 1)) + question * generator.standard_normal(shape)
    own = method * generator.standard_normal((2, boards, images, 1))
    hard: Array = common + own + math.sqrt(1 - sum(alike)) * generator.standard_normal((2, *shape))
    return hard


def _second(rate: float, better: bool) -> float:
    """The other method's rate: the same, or a third of the errors fewer."""
    return rate + (1 - rate) / 3 if better else rate


def _right(hard: Array, rates: tuple[float, float]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    first, second = (hard[index] < ndtri(rate) for index, rate in enumerate(rates))
    return first, second


def _accuracy(
    generator: np.random.Generator,
    boards: int,
    images: int,
    alike: tuple[float, float, float],
    rate: float,
    better: bool,
    questions: int = QUESTIONS,
) -> Simulated:
    """Right answers, answers, and answers that are right under this method only."""
    rates = (rate, _second(rate, better))
    right = _right(_latent(generator, (boards, images, questions), alike), rates)

    def table(own: NDArray[np.bool_], other: NDArray[np.bool_]) -> Array:
        counts = [own.sum(axis=2), np.full(own.shape[:2], questions), (own & ~other).sum(axis=2)]
        return np.stack(counts, axis=2).astype(np.float64)

    return rates, (table(right[0], right[1]), table(right[1], right[0]))


def _f1(
    generator: np.random.Generator,
    boards: int,
    images: int,
    alike: tuple[float, float, float],
    rate: float,
    better: bool,
) -> Simulated:
    """True positives, false positives and false negatives; half of the questions are to be answered yes.

    What is alike on an image is the leaning to yes: right answers to some questions, wrong ones to the others.
    """
    rates = (rate, _second(rate, better))
    hard = _latent(generator, (boards, images, QUESTIONS), alike)
    hard[..., QUESTIONS // 2 :] *= -1
    right = _right(hard, rates)

    def table(own: NDArray[np.bool_]) -> Array:
        positive, negative = own[..., : QUESTIONS // 2], own[..., QUESTIONS // 2 :]
        counts = [positive.sum(axis=2), (~negative).sum(axis=2), (~positive).sum(axis=2)]
        return np.stack(counts, axis=2).astype(np.float64)

    # With as many questions of each kind and equal rates, 2 tp / (2 tp + fp + fn) of the expected counts is the rate.
    return rates, (table(right[0]), table(right[1]))


def _chair(
    generator: np.random.Generator,
    boards: int,
    images: int,
    alike: tuple[float, float, float],
    rate: float,
    better: bool,
) -> Simulated:
    """Hallucinated mentions and mentions; the more a caption mentions, the more of it is wrong.

    Where the second method is better its captions differ in length too: one mention less in three of ten images.
    """
    shares = (1 - rate, 1 - _second(rate, better))
    hard = _latent(generator, (boards, images, MENTIONS), alike)
    lengths = generator.integers(1, MENTIONS + 1, size=(boards, images))
    dropped = SHORTER if better else 0.0
    shorter = np.maximum(1, lengths - (generator.random((boards, images)) < dropped))

    def table(own: Array, length: NDArray[np.int64], share: float) -> Array:
        wrong = own < ndtri(_risks(share))[length - 1][..., None]
        mentioned = np.arange(MENTIONS) < length[..., None]
        return np.stack([(wrong & mentioned).sum(axis=2), length], axis=2).astype(np.float64)

    truths = (_chair_i(shares[0], 0.0), _chair_i(shares[1], dropped))
    return truths, (table(hard[0], lengths, shares[0]), table(hard[1], shorter, shares[1]))


def _risks(share: float) -> Array:
    """How likely a mention is wrong in captions of 1, 2, ... mentions: up to one and a half times the share."""
    risks: Array = share * (0.5 + np.arange(1, MENTIONS + 1) / MENTIONS)
    return risks


def _chair_i(share: float, dropped: float) -> float:
    """Expected hallucinated mentions over expected mentions, one mention being dropped as often as given."""
    chance = np.full(MENTIONS, (1 - dropped) / MENTIONS)
    chance[:-1] += dropped / MENTIONS
    chance[0] += dropped / MENTIONS
    length = np.arange(1, MENTIONS + 1)
    return float((chance * length * _risks(share)).sum() / (chance * length).sum())


if __name__ == "__main__":
    raise SystemExit(main())
