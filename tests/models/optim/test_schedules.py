"""Learning-rate schedules against their formulas in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from evenkeel.models.config import SCHEDULES, OptimizerConfig
from evenkeel.models.optim.schedules import Schedule, peak_learning_rate
from evenkeel.pipeline.errors import UsageError

STEPS = np.concatenate([np.arange(0, 1200, 7), [99, 100, 101, 399, 400, 599, 600, 999, 1000, 5000]])


def schedule(**options) -> Schedule:
    """A schedule of 25 epochs of 40 steps."""
    return Schedule(OptimizerConfig(learning_rate=0.3, **options), global_batch_size=64, steps_per_epoch=40, epochs=25)


def expected(shape: str, step: np.ndarray, warmup: int = 100) -> np.ndarray:
    done = np.clip((step - warmup) / (1000 - warmup), 0, 1)
    # Periods of 4, 8 and 16 epochs after the warm-up; the run ends within the third.
    starts = warmup + np.array([0, 160, 480, 1120])
    period = np.minimum(np.searchsorted(starts, step, side="right") - 1, 2)
    within = np.clip((step - starts[period]) / np.diff(starts)[period], 0, 1)
    after = {
        "constant": np.ones_like(done),
        "cosine": (1 + np.cos(np.pi * done)) / 2,
        "one_cycle": 1 - done,
        "polynomial": (1 - done) ** 1.5,
        "step": 0.2 ** ((step >= 400).astype(float) + (step >= 600)),
        "restarts": (1 + np.cos(np.pi * within)) / 2,
    }[shape]
    return 0.3 * np.where(step < warmup, (step + 1) / max(1, warmup), after)


OPTIONS = {"power": 1.5, "milestones": "10,15", "step_factor": 0.2, "restart_epochs": 4.0, "restart_growth": 2.0}


@pytest.mark.slow
@pytest.mark.parametrize("shape", SCHEDULES)
def test_a_schedule_matches_its_formula(shape: str) -> None:
    rate = schedule(schedule=shape, warmup_epochs=2.5, **OPTIONS)
    rates = [float(rate(tf.constant(step, tf.int64))) for step in STEPS]
    np.testing.assert_allclose(rates, expected(shape, STEPS), rtol=1e-5, atol=1e-7)
    restored = Schedule.from_config(rate.get_config())
    np.testing.assert_allclose([float(restored(step)) for step in STEPS[:20]], rates[:20])


@pytest.mark.parametrize("shape", SCHEDULES)
def test_without_warmup_the_first_step_has_the_peak_rate(shape: str) -> None:
    rate = schedule(schedule=shape, **OPTIONS)
    np.testing.assert_allclose(rate(0), 0.3, rtol=1e-6)
    np.testing.assert_allclose(rate(500), expected(shape, np.array([500]), warmup=0)[0], rtol=1e-5)


def test_a_restart_has_the_peak_rate_and_the_step_before_it_almost_zero() -> None:
    rate = schedule(schedule="restarts", **OPTIONS)
    assert [float(rate(step)) for step in (160, 480)] == pytest.approx([0.3, 0.3])
    assert max(float(rate(step)) for step in (159, 479)) < 1e-4 * 0.3


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1), ("linear", 4), ("sqrt", 2)])
def test_the_peak_scales_with_the_global_batch(scaling: str, factor: float) -> None:
    config = OptimizerConfig(learning_rate=0.1, scaling=scaling, reference_batch=128)
    assert peak_learning_rate(config, 512) == pytest.approx(0.1 * factor)
    assert peak_learning_rate(config, 128) == pytest.approx(0.1)
    rate = Schedule(config, 512, steps_per_epoch=5, epochs=2)
    assert float(rate(0)) == pytest.approx(0.1 * factor)


def test_a_warmup_as_long_as_the_run_is_an_error() -> None:
    with pytest.raises(
        UsageError, match=r"optimizer.warmup_epochs \(25.0\) must be shorter than the run \(25 epochs\)"
    ):
        schedule(warmup_epochs=25.0)


def test_a_milestone_after_the_run_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"optimizer.milestones \(10,25\) must lie within the run \(25 epochs\)"):
        schedule(schedule="step", milestones="10,25")
