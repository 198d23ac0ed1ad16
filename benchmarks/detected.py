"""What `compare` would say of turns that were measured before: how often a case of it fails for its main metric.

rates = all_rates(results.read("benchmarks/results/pairs.json").results)
assert rates["step"].power >= 0.95 and rates["step"].false_alarms <= 0.05
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks import verdicts
from benchmarks.results import Result
from benchmarks.verdicts import FAILED

POOLS = ("same", "worse")
DRAWN = 1000  # samples: beside what the pool itself leaves open, a rate of 0.05 is known to 0.007
STARTED = 5  # pairs of turns after each start of both versions
ROUNDS, SEEDS, LEAST = 15, 8, 0.05  # what `compare` takes unless it is told


class Rates(NamedTuple):
    """Shares of the samples in which `compare` fails: of versions made worse, and of equal ones; `pairs` are there."""

    power: float
    false_alarms: float
    pairs: int

    def __str__(self) -> str:
        return f"power {self.power:.3f}, false alarms {self.false_alarms:.3f}; out of {self.pairs} pairs of each kind"


def all_rates(found: Iterable[Result]) -> dict[str, Rates]:
    """{case: rates}, of results that `power` wrote."""
    samples = {result.case: result.samples for result in found}
    metrics = {result.case.split("/")[0]: result.metric for result in found}
    rates = {}
    for case, metric in metrics.items():
        share = {
            pool: failing(metric, *(samples[f"{case}/{pool}/{side}"] for side in ("base", "head"))) for pool in POOLS
        }
        rates[case] = Rates(share["worse"], share["same"], len(samples[f"{case}/same/base"]))
    return rates


def failing(metric: str, base: Sequence[float], head: Sequence[float]) -> float:
    """The share of samples, drawn with replacement, of which `compare` would say that `head` is worse.

    Pairs are drawn whole: turns that were next to each other, runs of one seed. Of turns starts are drawn first, and
    then among the pairs of each, as `compare` starts both versions several times.
    """
    rng, of_base, of_head = np.random.default_rng(0), np.array(base), np.array(head)
    words = []
    for _ in range(DRAWN):
        if metric == "final_loss":
            at = rng.integers(len(of_base), size=SEEDS)
            verdict = verdicts.of_losses(of_base[at].tolist(), of_head[at].tolist(), LEAST)
        else:
            starts = rng.integers(len(of_base) // STARTED, size=ROUNDS // STARTED)
            at = np.concatenate([STARTED * start + rng.integers(STARTED, size=STARTED) for start in starts])
            verdict = verdicts.of_times(of_base[at].tolist(), of_head[at].tolist(), LEAST)
        words.append(verdict.word)
    return sum(word in FAILED for word in words) / DRAWN
