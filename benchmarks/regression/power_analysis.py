"""How often a case of `compare` would fail, estimated from turns that were measured before.

rates = rates_by_case(results.read("benchmarks/results/pairs.json").results)
assert rates["step"].power >= 0.95 and rates["step"].false_alarms <= 0.05
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from evenkeel.benchmarks.regression import verdicts
from evenkeel.benchmarks.regression.verdicts import FAILING_WORDS, MIN_SPIKE_SHARE
from evenkeel.benchmarks.results import Result

POOLS = ("same", "worse")  # pairs of equal versions, and of a version with one made worse on purpose
JUDGES = {  # {metric that can fail a version: its verdict}
    "cpu_seconds": verdicts.judge_times,
    "final_loss": verdicts.judge_losses,
    "spike_score": verdicts.judge_spike_shares,
}
RESAMPLES = 1000  # a rate of 0.05 is then known to 0.007, apart from the error of the pool itself
PAIRS_PER_START = 5  # pairs of turns after each start of both versions
ROUNDS, STARTS, SEEDS, MIN_EFFECT = 16, 4, 12, 0.05  # defaults of `compare`

Sides = tuple[Sequence[float], Sequence[float]]  # samples of base and head, pair by pair


class DetectionRates(NamedTuple):
    """How often `compare` fails.

    Attributes:
      power: share of the comparisons with a version made worse that fail.
      false_alarms: share of the comparisons of equal versions that fail.
      pairs: number of pairs that the comparisons are drawn from.
    """

    power: float
    false_alarms: float
    pairs: int

    def __str__(self) -> str:
        return f"power {self.power:.3f}, false alarms {self.false_alarms:.3f}; from {self.pairs} pairs of each kind"


def rates_by_case(results: Iterable[Result]) -> dict[str, DetectionRates]:
    """{case: rates}, from results that `benchmarks.regression.power` wrote."""
    pools: dict[str, dict[str, dict[str, Sides]]] = {}
    samples = {(result.case, result.metric): result.samples for result in results}
    for name, metric in samples:
        case, pool, side = (*name.split("/"), "", "")[:3]
        if side == "base" and metric in JUDGES:  # results of `compare` itself have no pools
            sides = samples[name, metric], samples[f"{case}/{pool}/head", metric]
            pools.setdefault(case, {}).setdefault(pool, {})[metric] = sides
    return {
        case: DetectionRates(
            failure_rate(metrics["worse"]),
            failure_rate(metrics["same"]),
            len(next(iter(metrics["same"].values()))[0]),
        )
        for case, metrics in pools.items()
    }


def any_false_alarm_rate(rates: Mapping[str, DetectionRates]) -> float:
    """How often a comparison of equal versions fails in at least one case."""
    return 1 - math.prod(1 - case_rates.false_alarms for case_rates in rates.values())


def failure_rate(metrics: Mapping[str, Sides]) -> float:
    """The share of comparisons, resampled with replacement, in which head would fail in at least one metric.

    Whole pairs are drawn: turns next to each other, or runs with one seed. For turns, starts are drawn first, half of
    them with base started first, and then pairs within each start, because `compare` measures in this way.
    """
    rng = np.random.default_rng(0)
    arrays = {metric: (np.array(base), np.array(head)) for metric, (base, head) in metrics.items()}
    pairs, failures = len(next(iter(arrays.values()))[0]), 0
    for _ in range(RESAMPLES):
        if "final_loss" in arrays:
            rows = rng.integers(pairs, size=SEEDS)
        else:
            starts = 2 * rng.integers(pairs // PAIRS_PER_START // 2, size=STARTS) + np.arange(STARTS) % 2
            rows = np.concatenate(
                [PAIRS_PER_START * start + rng.integers(PAIRS_PER_START, size=ROUNDS // STARTS) for start in starts]
            )
        for metric, (base, head) in arrays.items():
            min_effect = MIN_SPIKE_SHARE if metric == "spike_score" else MIN_EFFECT
            if JUDGES[metric](base[rows].tolist(), head[rows].tolist(), min_effect).word in FAILING_WORDS:
                failures += 1
                break
    return failures / RESAMPLES
