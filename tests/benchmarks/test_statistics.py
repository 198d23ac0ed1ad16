"""Statistics against known values."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from evenkeel.benchmarks import statistics

# (t, degrees of freedom, p) by scipy 1.17.1.
A = [27.5, 21.0, 19.0, 23.6, 17.0, 17.9, 16.9, 20.1, 21.9, 22.6, 23.1, 19.6, 19.0, 21.7, 21.4]
B = [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8, 20.2, 21.9, 22.1, 22.9, 30.5, 31.3]
EXPECTED = (
    (A, B, (-2.949236837313109, 27.31161047222031, 0.006460408027460322)),
    ([0.7, 0.71, 0.69], [0.6, 0.45, 0.5, 0.55], (5.337449961641158, 3.1901718959677936, 0.01097183515906804)),
)


@pytest.mark.parametrize(("a", "b", "expected"), EXPECTED)
def test_welch_test_gives_statistic_degrees_and_p_value(
    a: list[float], b: list[float], expected: tuple[float, float, float]
) -> None:
    assert statistics.welch_test(a, b) == pytest.approx(expected, rel=1e-9)
    swapped = statistics.welch_test(b, a)
    assert swapped == pytest.approx((-expected[0], *expected[1:]), rel=1e-9)


def test_welch_of_constants_and_of_single_values() -> None:
    assert statistics.welch_test([0.1, 0.1], [0.1, 0.1]).p == 1
    assert statistics.welch_test([0.5, 0.5], [0.1, 0.1]).p == 0
    assert 0 < statistics.welch_test([0.5, 0.52], [0.1, 0.1]).p < 0.1  # one degree of freedom
    with pytest.raises(ValueError, match="1 and 2"):
        statistics.welch_test([0.5], [0.1, 0.2])


def test_a_faulty_run_has_a_large_and_certain_difference() -> None:
    clean = [0.700, 0.705, 0.695, 0.702, 0.698]
    assert statistics.is_faulty(clean, [x - 0.02 for x in clean])
    assert not statistics.is_faulty(clean, [x - 0.019 for x in clean])
    assert not statistics.is_faulty(clean, [0.9, 0.3, 0.9, 0.3, 0.6])
    assert not statistics.is_faulty(clean, [x + 0.1 for x in clean])


def test_wilson_estimate() -> None:
    estimate = statistics.wilson_estimate(8, 10)
    assert estimate.value == 0.8
    assert (estimate.low, estimate.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert statistics.wilson_estimate(10, 10).high == 1
    assert statistics.wilson_estimate(0, 10).low == 0
    assert statistics.wilson_estimate(0, 10).high == pytest.approx(0.2775, abs=1e-4)
    assert math.isnan(statistics.wilson_estimate(0, 0).value)


def test_balanced_accuracy_does_not_depend_on_how_many_runs_are_faulty() -> None:
    even, uneven = statistics.balanced_accuracy(80, 100, 10, 100), statistics.balanced_accuracy(80, 100, 1, 10)
    assert even.value == uneven.value == pytest.approx(0.85)
    assert even.low < 0.85 < even.high
    assert uneven.high - uneven.low > even.high - even.low
    assert statistics.balanced_accuracy(0, 10, 0, 10).value == 0.5
    perfect = statistics.balanced_accuracy(10, 10, 0, 10)
    assert perfect.high == 1
    assert perfect.low < 1


def test_spike_score() -> None:
    noise = np.random.default_rng(0).normal(1, 0.01, 2000)
    assert statistics.spike_score(noise) == 0
    for height, spikes in ((6.0, 0), (8.0, 1)):
        spiked = noise.copy()
        past = noise[500:1500]
        spiked[1500] = past.mean() + height * past.std()
        assert statistics.spike_score(spiked) == spikes / 2000
    noise[3] = np.nan
    assert statistics.spike_score(noise) == 1 / 2000


def test_losses_outside_the_window_do_not_count() -> None:
    loss = np.concatenate([np.linspace(1000, 1, 300), np.random.default_rng(0).normal(1, 0.01, 1700)])
    loss[1600] = 2.0
    assert statistics.spike_score(loss) == 1 / 2000
    assert statistics.spike_score(loss, window=2000) == 0


def test_loss_variance_measures_the_noise_only() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 10_000)
    assert statistics.loss_variance(noise) == pytest.approx(0.01, rel=0.05)
    assert statistics.loss_variance(np.linspace(5, 0, 10_000) + noise) == pytest.approx(0.01, rel=0.05)
    assert statistics.loss_variance(np.concatenate([[100.0], noise]), warmup=1) == statistics.loss_variance(noise)
    assert statistics.loss_variance(np.array([1, np.nan, 1])) == math.inf


def test_divergence() -> None:
    falling, rising = np.linspace(2.3, 1, 100), np.linspace(2.3, 3, 100)
    broken = np.append(falling, np.nan)
    assert [statistics.has_diverged(loss) for loss in (falling, rising, broken)] == [False, True, True]
    assert statistics.divergence_rate([falling, rising, broken, falling]).value == 0.5


RATES = [1e-4, 1e-3, 1e-2, 1e-1]


def test_there_is_no_unstable_rate_below_the_largest_stable_one() -> None:
    assert statistics.largest_stable_learning_rate(RATES, [2.0, 1.5, 1.0, np.nan], 2.3) == 1e-2
    assert statistics.largest_stable_learning_rate(RATES, [2.0, 2.4, 1.0, 1.0], 2.3) == 1e-4
    assert statistics.largest_stable_learning_rate(RATES, [2.5, 2.0, 1.0, 1.0], 2.3) is None
    with pytest.raises(ValueError, match="ascending"):
        statistics.largest_stable_learning_rate(RATES[::-1], [1, 1, 1, 1], 2.3)


def test_learning_rate_sensitivity() -> None:
    assert statistics.learning_rate_sensitivity(RATES, [1.0] * 4, 2.3) == 0
    # The excess is 1, 0.5, 0 and 1.3 (capped by the initial loss): trapezoids of 0.75, 0.25 and 0.65.
    sensitivity = statistics.learning_rate_sensitivity(RATES, [2.0, 1.5, 1.0, np.inf], 2.3)
    assert sensitivity == pytest.approx((0.75 + 0.25 + 0.65) / 3)
    denser = statistics.learning_rate_sensitivity(
        [1e-4, 10**-3.5, 1e-3, 1e-2, 1e-1], [2.0, 1.75, 1.5, 1.0, np.inf], 2.3
    )
    assert denser == pytest.approx(sensitivity)
    with pytest.raises(ValueError, match=r"2\.0 decades"):
        statistics.learning_rate_sensitivity(RATES[:3], [1, 1, 1], 2.3)


def test_seed_deviation_and_its_lower_bound() -> None:
    deviation, floor = statistics.seed_deviation([0.90, 0.92, 0.91], 1000)
    assert deviation == pytest.approx(0.01)
    assert floor == pytest.approx(math.sqrt(0.09 / 2000))


def test_scipy_is_imported_only_where_it_is_used() -> None:
    """Commands that only read and write results need not wait for it."""
    code = "import sys; from evenkeel.benchmarks import statistics, timing; print('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_calibration_error_is_that_of_its_intervals() -> None:
    assert statistics.calibration_error([0.9] * 10, [True] * 9 + [False]) == pytest.approx(0.0)
    assert statistics.calibration_error([1.0, 1.0], [False, False]) == 1.0
    rng = np.random.default_rng(0)
    p = rng.uniform(size=20_000)
    assert statistics.calibration_error(p.tolist(), (rng.uniform(size=20_000) < p).tolist()) < 0.02
