"""How often `compare` fails, of made-up turns whose answer is known, and of those that were measured."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import detected, results
from benchmarks.results import ROOT, Result

PAIRS = ROOT / "benchmarks" / "results" / "pairs.json"


def pool(worse: float, noise: float, offset: float = 0.0) -> list[Result]:
    """40 pairs of equal versions and of one that takes `worse` times as long; `offset` is one of each start's own."""
    rng = np.random.default_rng(0)
    found = []
    for name, times in (("same", 1.0), ("worse", worse)):
        base = np.exp(noise * rng.normal(size=40))
        of_start = np.repeat(np.exp(offset * rng.normal(size=8)), detected.STARTED)
        head = times * of_start * np.exp(noise * rng.normal(size=40))
        for side, samples in (("base", base), ("head", head)):
            found.append(Result("compare", f"step/{name}/{side}", "cpu_seconds", "s", "lower", tuple(samples)))
    return found


def test_a_tenth_more_is_found_where_turns_are_steady() -> None:
    rates = detected.all_rates(pool(worse=1.1, noise=0.02))["step"]
    assert rates.power > 0.95
    assert rates.false_alarms == 0
    assert rates.pairs == 40


def test_noise_hides_it_and_raises_no_alarm() -> None:
    rates = detected.all_rates(pool(worse=1.1, noise=0.2))["step"]
    assert rates.power < 0.7
    assert rates.false_alarms < 0.1


def test_what_a_start_does_to_all_its_turns_is_not_hidden_by_their_number() -> None:
    """The rates say it: a version that is the same is called slower in some comparisons."""
    assert detected.all_rates(pool(worse=1.1, noise=0.005, offset=0.1))["step"].false_alarms > 0.05


def test_losses() -> None:
    rng = np.random.default_rng(0)
    base = np.exp(0.1 * rng.normal(size=40))
    found = [
        Result("compare", f"training/{name}/{side}", "final_loss", "nats", "lower", tuple(samples))
        for name, times in (("same", 1.0), ("worse", 1.4))
        for side, samples in (("base", base), ("head", times * base * np.exp(0.02 * rng.normal(size=40))))
    ]
    rates = detected.all_rates(found)["training"]
    assert rates.power > 0.95
    assert rates.false_alarms < 0.05


@pytest.mark.skipif(not PAIRS.exists(), reason="no pairs have been measured")
def test_the_rates_that_were_measured() -> None:
    """Of `python -m benchmarks.power --pairs=40`: enough to gate with."""
    for case, rates in detected.all_rates(results.read(PAIRS).results).items():
        assert rates.pairs >= 40, case
        assert rates.power >= 0.95, f"{case}: {rates}"
        assert rates.false_alarms <= 0.05, f"{case}: {rates}"
