"""How often `compare` fails, of made-up turns whose answer is known, and of those that were measured."""

from __future__ import annotations

import numpy as np
import pytest

from evenkeel.benchmarks import results, timing
from evenkeel.benchmarks.regression import power_analysis, versions
from evenkeel.benchmarks.results import ROOT, Result

PAIRS = ROOT / "benchmarks" / "results" / "pairs.json"


def pool(worse: float, noise: float, offset: float = 0.0) -> list[Result]:
    """40 pairs of equal versions and of one that takes `worse` times as long; `offset` is one of each start's own."""
    rng = np.random.default_rng(0)
    found = []
    for name, times in (("same", 1.0), ("worse", worse)):
        base = np.exp(noise * rng.normal(size=40))
        of_start = np.repeat(np.exp(offset * rng.normal(size=8)), power_analysis.STARTED)
        head = times * of_start * np.exp(noise * rng.normal(size=40))
        for side, samples in (("base", base), ("head", head)):
            found.append(Result("compare", f"step/{name}/{side}", "cpu_seconds", "s", "lower", tuple(samples)))
    return found


def test_a_tenth_more_is_found_where_turns_are_steady() -> None:
    rates = power_analysis.all_rates(pool(worse=1.1, noise=0.02))["step"]
    assert rates.power > 0.95
    assert rates.false_alarms == 0
    assert rates.pairs == 40


def test_noise_hides_it_and_raises_no_alarm() -> None:
    rates = power_analysis.all_rates(pool(worse=1.1, noise=0.2))["step"]
    assert rates.power < 0.7
    assert rates.false_alarms < 0.1


def test_what_a_start_does_to_all_its_turns_is_not_hidden_by_their_number() -> None:
    """The rates say it: a version that is the same is called slower in some comparisons."""
    assert power_analysis.all_rates(pool(worse=1.1, noise=0.005, offset=0.1))["step"].false_alarms > 0.05


def test_losses() -> None:
    rng = np.random.default_rng(0)
    base = np.exp(0.1 * rng.normal(size=40))
    found = [
        Result("compare", f"training/{name}/{side}", "final_loss", "nats", "lower", tuple(samples))
        for name, times in (("same", 1.0), ("worse", 1.4))
        for side, samples in (("base", base), ("head", times * base * np.exp(0.02 * rng.normal(size=40))))
    ]
    rates = power_analysis.all_rates(found)["training"]
    assert rates.power > 0.95
    assert rates.false_alarms < 0.05


@pytest.mark.parametrize(("more", "seen"), [(0.0, False), (0.05, True)])
def test_spikes_count_where_the_last_loss_is_the_same(more: float, seen: bool) -> None:
    rng = np.random.default_rng(0)
    found = []
    for name, spikes in (("same", 0.0), ("worse", more)):
        for side in ("base", "head"):
            case = f"training/{name}/{side}"
            loss, score = np.exp(0.02 * rng.normal(size=40)), rng.uniform(0, 0.01, size=40)
            found.append(Result("compare", case, "final_loss", "nats", "lower", tuple(loss)))
            score = tuple(score + spikes * (side == "head"))
            found.append(Result("compare", case, "spike_score", "share", "lower", score))
    rates = power_analysis.all_rates(found)["training"]
    assert rates.power == seen
    assert rates.false_alarms == 0


def test_some_case_fails_more_often_than_each() -> None:
    rates = {name: power_analysis.Rates(1.0, 0.1, 40) for name in ("step", "input")}
    assert power_analysis.any_alarm(rates) == pytest.approx(0.19)


def test_the_rates_that_were_measured() -> None:
    """Of `python -m benchmarks.regression.power --pairs=40`: enough to gate with."""
    found = results.read(PAIRS).results
    measured = power_analysis.all_rates(found)
    assert set(measured) == set(versions.CASES)
    for case, rates in measured.items():
        assert rates.pairs >= 40, case
        assert rates.power >= 0.95, f"{case}: {rates}"
        assert rates.false_alarms <= 0.05, f"{case}: {rates}"
    samples = {(each.case, each.metric): each.samples for each in found}
    for case in set(measured) - set(versions.STEADINESS):
        base, head = (samples[f"{case}/worse/{side}", "cpu_seconds"] for side in ("base", "head"))
        # What was injected is a tenth, and not more, which would be easier to find.
        assert timing.paired_ratio(head, base).median < 1.13, case
