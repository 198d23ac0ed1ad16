"""What `compare` would say of turns that were measured before: the rates at which it fails.

rates = all_rates(results.read("benchmarks/results/pairs.json").results)
assert rates["step"].power >= 0.95 and rates["step"].false_alarms <= 0.05
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks import verdicts
from benchmarks.results import Result
from benchmarks.verdicts import FAILED, Verdict

POOLS = ("same", "worse")
DRAWN = 1000  # a rate of 0.05 is then known to 0.007
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

    Of turns whole pairs are drawn, that were next to each other in time; of losses each side's runs by themselves.
    """
    rng, of_base, of_head = np.random.default_rng(0), np.array(base), np.array(head)
    words = []
    for _ in range(DRAWN):
        if metric == "final_loss":
            drawn = (of[rng.integers(len(of), size=SEEDS)] for of in (of_base, of_head))
            words.append(_of_losses(*drawn).word)
        else:
            at = rng.integers(len(of_base), size=ROUNDS)
            words.append(verdicts.of_times(of_base[at].tolist(), of_head[at].tolist(), LEAST).word)
    return sum(word in FAILED for word in words) / DRAWN


def _of_losses(base: np.ndarray, head: np.ndarray) -> Verdict:
    return verdicts.of_losses(base.tolist(), head.tolist(), LEAST)
