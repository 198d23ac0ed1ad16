"""Estimates from measured turns how often a case of `compare` would fail.

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

POOLS = ("same", "worse")  # pairs of equal versions, and pairs of a version and the same version made worse
JUDGES = {  # {metric that can fail a version: function that returns its verdict}
    "cpu_seconds": verdicts.judge_times,
    "final_loss": verdicts.judge_losses,
    "spike_score": verdicts.judge_spike_shares,
}
RESAMPLES = 1000  # with this many, a rate of 0.05 has a standard error of 0.007, without the error of the pool
PAIRS_PER_START = 5  # pairs of turns that are measured after each start of both versions
ROUNDS, STARTS, SEEDS, MIN_EFFECT = 16, 4, 12, 0.05  # defaults of `compare`

Sides = tuple[Sequence[float], Sequence[float]]  # (samples of base, samples of head), one per pair


class DetectionRates(NamedTuple):
    """How often `compare` fails.

    Attributes:
      power: the share of failed comparisons if head was made worse.
      false_alarms: the share of failed comparisons if the versions are equal.
      pairs: number of pairs from which the comparisons are drawn.
    """

    power: float
    false_alarms: float
    pairs: int

    def __str__(self) -> str:
        return f"power {self.power:.3f}, false alarms {self.false_alarms:.3f}; from {self.pairs} pairs of each kind"


def rates_by_case(results: Iterable[Result]) -> dict[str, DetectionRates]:
    """Returns {case: rates}, from results that `benchmarks.regression.power` wrote."""
    pools: dict[str, dict[str, dict[str, Sides]]] = {}
    samples = {(result.case, result.metric): result.samples for result in results}
    for name, metric in samples:
        case, pool, side = (*name.split("/"), "", "")[:3]
        if side == "base" and metric in JUDGES:  # the results of `compare` have no pools
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
    """The probability that a comparison of equal versions fails in at least one case."""
    return 1 - math.prod(1 - case_rates.false_alarms for case_rates in rates.values())


def failure_rate(metrics: Mapping[str, Sides]) -> float:
    """The share of comparisons, resampled with replacement, in which head would fail in at least one metric.

    Whole pairs are drawn: turns that are adjacent in time, or runs with the same seed. Turns are drawn as `compare`
    measures them: starts first, half of them with base started first, and then pairs within each start.
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
