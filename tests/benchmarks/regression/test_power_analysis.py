"""Failure rates of `compare`, on simulated turns with a known answer and on the committed measurements."""

from __future__ import annotations

import numpy as np
import pytest

from evenkeel.benchmarks import results, timing
from evenkeel.benchmarks.regression import power_analysis, versions
from evenkeel.benchmarks.report import tables
from evenkeel.benchmarks.results import ROOT, Result

PAIRS = ROOT / "benchmarks" / "results" / "pairs.json"


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for simulated rates, which are far from their bounds."""
    monkeypatch.setattr(power_analysis, "RESAMPLES", 300)


def simulate_pools(worse: float, noise: float, start_noise: float = 0.0) -> list[Result]:
    """40 pairs of equal versions, and 40 with one that takes `worse` times as long.

    `noise` and `start_noise` are the standard deviations of the logarithm of each time, and of each start of head.
    """
    rng = np.random.default_rng(0)
    results = []
    for name, factor in (("same", 1.0), ("worse", worse)):
        base = np.exp(noise * rng.normal(size=40))
        start_factors = np.repeat(np.exp(start_noise * rng.normal(size=8)), power_analysis.PAIRS_PER_START)
        head = factor * start_factors * np.exp(noise * rng.normal(size=40))
        for side, samples in (("base", base), ("head", head)):
            results.append(Result("compare", f"step/{name}/{side}", "cpu_seconds", "s", "lower", tuple(samples)))
    return results


@pytest.mark.usefixtures("few_resamples")
def test_a_tenth_more_time_is_detected_if_turns_are_steady() -> None:
    rates = power_analysis.rates_by_case(simulate_pools(worse=1.1, noise=0.02))["step"]
    assert rates.power > 0.95
    assert rates.false_alarms == 0
    assert rates.pairs == 40


@pytest.mark.usefixtures("few_resamples")
def test_noise_lowers_the_power_but_raises_no_alarm() -> None:
    rates = power_analysis.rates_by_case(simulate_pools(worse=1.1, noise=0.2))["step"]
    assert rates.power < 0.7
    assert rates.false_alarms < 0.1


@pytest.mark.usefixtures("few_resamples")
def test_noise_of_whole_starts_is_not_averaged_away_by_many_turns() -> None:
    """It shows in the rates: an equal version is called slower in some comparisons."""
    assert (
        power_analysis.rates_by_case(simulate_pools(worse=1.1, noise=0.005, start_noise=0.1))["step"].false_alarms
        > 0.05
    )


@pytest.mark.usefixtures("few_resamples")
def test_higher_losses_are_detected() -> None:
    rng = np.random.default_rng(0)
    base = np.exp(0.1 * rng.normal(size=40))
    found = [
        Result("compare", f"training/{name}/{side}", "final_loss", "nats", "lower", tuple(samples))
        for name, factor in (("same", 1.0), ("worse", 1.4))
        for side, samples in (("base", base), ("head", factor * base * np.exp(0.02 * rng.normal(size=40))))
    ]
    rates = power_analysis.rates_by_case(found)["training"]
    assert rates.power > 0.95
    assert rates.false_alarms < 0.05


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize(("added_share", "detected"), [(0.0, False), (0.05, True)])
def test_spikes_count_if_the_final_loss_is_the_same(added_share: float, detected: bool) -> None:
    rng = np.random.default_rng(0)
    found = []
    for name, spikes in (("same", 0.0), ("worse", added_share)):
        for side in ("base", "head"):
            case = f"training/{name}/{side}"
            loss, score = np.exp(0.02 * rng.normal(size=40)), rng.uniform(0, 0.01, size=40)
            found.append(Result("compare", case, "final_loss", "nats", "lower", tuple(loss)))
            score = tuple(score + spikes * (side == "head"))
            found.append(Result("compare", case, "spike_score", "share", "lower", score))
    rates = power_analysis.rates_by_case(found)["training"]
    assert rates.power == detected
    assert rates.false_alarms == 0


def test_at_least_one_of_two_cases_fails_more_often_than_each() -> None:
    rates = {name: power_analysis.DetectionRates(1.0, 0.1, 40) for name in ("step", "input")}
    assert power_analysis.any_false_alarm_rate(rates) == pytest.approx(0.19)


@pytest.mark.slow
def test_the_measured_rates_are_documented_and_good_enough_for_a_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the committed results of `python -m benchmarks.regression.power --pairs=40`."""
    turns = results.read(PAIRS).results
    rates_by_case = power_analysis.rates_by_case(turns)
    monkeypatch.setattr(power_analysis, "rates_by_case", lambda found: rates_by_case if found is turns else {})
    assert tables.gate_table(turns) in (ROOT / "docs" / "benchmarks_in_ci.md").read_text()
    assert set(rates_by_case) == set(versions.CASES)
    for case, rates in rates_by_case.items():
        assert rates.pairs >= 40, case
        assert rates.power >= 0.95, f"{case}: {rates}"
        assert rates.false_alarms <= 0.05, f"{case}: {rates}"
    samples = {(result.case, result.metric): result.samples for result in turns}
    for case in set(rates_by_case) - set(versions.STABILITY_CASES):
        base, head = (samples[f"{case}/worse/{side}", "cpu_seconds"] for side in ("base", "head"))
        # The injected slowdown is a tenth; a larger one would be easier to detect.
        assert timing.paired_ratio(head, base).median < 1.13, case
