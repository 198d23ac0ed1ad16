"""What `compare` would say of turns that were measured before: how often a case of it fails.

rates = all_rates(results.read("benchmarks/results/pairs.json").results)
assert rates["step"].power >= 0.95 and rates["step"].false_alarms <= 0.05
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from evenkeel.benchmarks.regression import verdicts
from evenkeel.benchmarks.regression.verdicts import FAILED, LEAST_SPIKES
from evenkeel.benchmarks.results import Result

POOLS = ("same", "worse")
JUDGED = {  # what a version fails for
    "cpu_seconds": verdicts.of_times,
    "final_loss": verdicts.of_losses,
    "spike_score": verdicts.of_shares,
}
DRAWN = 1000  # samples: beside what the pool itself leaves open, a rate of 0.05 is known to 0.007
STARTED = 5  # pairs of turns after each start of both versions
ROUNDS, STARTS, SEEDS, LEAST = 16, 4, 12, 0.05  # what `compare` takes unless it is told

Sides = tuple[Sequence[float], Sequence[float]]  # of base and head, pair by pair


class Rates(NamedTuple):
    """Shares of the samples in which `compare` fails: of versions made worse, and of equal ones; `pairs` are there."""

    power: float
    false_alarms: float
    pairs: int

    def __str__(self) -> str:
        return f"power {self.power:.3f}, false alarms {self.false_alarms:.3f}; out of {self.pairs} pairs of each kind"


def all_rates(found: Iterable[Result]) -> dict[str, Rates]:
    """{case: rates}, of results that `power` wrote."""
    pools: dict[str, dict[str, dict[str, Sides]]] = {}
    samples = {(result.case, result.metric): result.samples for result in found}
    for name, metric in samples:
        case, pool, side = (*name.split("/"), "", "")[:3]
        if side == "base" and metric in JUDGED:  # `compare`'s own results have no pools
            sides = samples[name, metric], samples[f"{case}/{pool}/head", metric]
            pools.setdefault(case, {}).setdefault(pool, {})[metric] = sides
    return {
        case: Rates(failing(of["worse"]), failing(of["same"]), len(next(iter(of["same"].values()))[0]))
        for case, of in pools.items()
    }


def any_alarm(rates: Mapping[str, Rates]) -> float:
    """How often a comparison of equal versions fails in some case."""
    return 1 - math.prod(1 - of.false_alarms for of in rates.values())


def failing(metrics: Mapping[str, Sides]) -> float:
    """The share of samples, drawn with replacement, of which `compare` would say that head is worse in some metric.

    Pairs are drawn whole: turns that were next to each other, runs of one seed. Of turns starts are drawn first, as
    many of those in which base was started first as of the others, and then among the pairs of each: as `compare` does.
    """
    rng = np.random.default_rng(0)
    of = {metric: (np.array(base), np.array(head)) for metric, (base, head) in metrics.items()}
    pairs, failed = len(next(iter(of.values()))[0]), 0
    for _ in range(DRAWN):
        if "final_loss" in of:
            at = rng.integers(pairs, size=SEEDS)
        else:
            starts = 2 * rng.integers(pairs // STARTED // 2, size=STARTS) + np.arange(STARTS) % 2
            at = np.concatenate([STARTED * start + rng.integers(STARTED, size=ROUNDS // STARTS) for start in starts])
        for metric, (base, head) in of.items():
            least = LEAST_SPIKES if metric == "spike_score" else LEAST
            if JUDGED[metric](base[at].tolist(), head[at].tolist(), least).word in FAILED:
                failed += 1
                break
    return failed / DRAWN
