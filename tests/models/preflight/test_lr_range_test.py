"""The learning-rate range test: its schedule, the analysis of a curve, and real networks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from evenkeel.models.config import OptimizerConfig
from evenkeel.models.preflight.lr_range_test import (
    ExponentialRate,
    RangeTestResult,
    analyse_curve,
    check_learning_rate_range,
    draw_curve,
    run_range_test,
    smooth_losses,
)
from evenkeel.pipeline.dataset import Dataset
from tests.models.preflight.cases import train_config

RATES = np.geomspace(1e-4, 1e2, 121)


def curve() -> np.ndarray:
    """Falls to 0.5 at a rate of 1, then rises without bound."""
    decades = np.log10(RATES)
    return 2.3 - 0.45 * np.clip(decades + 4, 0, 4) + 3 * np.clip(decades - 0.2, 0, None) ** 2


def test_rates_grow_by_equal_factors() -> None:
    rates = ExponentialRate(1e-4, 1e2, 121)(tf.range(121)).numpy()
    np.testing.assert_allclose(rates, RATES, rtol=1e-4)
    assert ExponentialRate(**ExponentialRate(1e-4, 1e2, 5).get_config())(4).numpy() == pytest.approx(1e2, rel=1e-5)


def test_smoothing_starts_at_the_first_loss_and_forgets() -> None:
    np.testing.assert_allclose(smooth_losses(np.full(5, 3.0)), 3.0)
    assert smooth_losses(np.array([4.0, 2.0]))[1] == pytest.approx((0.9 * 0.4 + 0.2) / (1 - 0.81))
    assert np.isinf(smooth_losses(np.array([1.0, np.nan, 1.0]))[1:]).all()


def test_a_curve_shows_where_the_loss_turns_and_diverges() -> None:
    result = analyse_curve(RATES, curve())
    assert 0.05 <= result.suggested <= 0.4
    assert result.diverged_at is not None
    assert 5 < result.diverged_at < 80
    assert result.rates[-1] == result.diverged_at
    assert len(result.rates) == len(result.losses) == len(result.smoothed) < len(RATES)


def test_a_loss_that_only_falls_never_diverges() -> None:
    result = analyse_curve(RATES, np.linspace(2.3, 0.5, len(RATES)))
    assert result.diverged_at is None
    assert result.suggested == pytest.approx(RATES[-1] / 10)
    assert len(result.rates) == len(RATES)


def test_an_infinite_loss_has_diverged() -> None:
    losses = np.full(len(RATES), 2.3)
    losses[50:] = np.inf
    assert analyse_curve(RATES, losses).diverged_at == RATES[50]


@pytest.mark.parametrize(
    ("rate", "ok", "causes"),
    [
        (0.1, True, None),
        (30.0, False, ("learning_rate_high", "no_warmup")),
        (29.0, True, None),
        (1e-3 / 300, False, ("learning_rate_low",)),
        (1.1e-3 / 300, True, None),
    ],
)
def test_the_configured_rate_must_lie_in_the_range(rate: float, ok: bool, causes: tuple[str, ...] | None) -> None:
    result = RangeTestResult(RATES, RATES, RATES, suggested=1e-3, diverged_at=30.0)
    finding = check_learning_rate_range(train_config(optimizer=OptimizerConfig(learning_rate=rate)), result)
    assert finding.ok == ok, finding.line
    assert causes is None or finding.causes == causes


def test_the_remedy_accounts_for_learning_rate_scaling() -> None:
    result = RangeTestResult(RATES, RATES, RATES, suggested=1e-3, diverged_at=0.01)
    scaled = OptimizerConfig(learning_rate=10.0, scaling="linear", reference_batch=200)  # a tenth, of 20 images
    assert "--optimizer.learning_rate=0.01." in check_learning_rate_range(train_config(optimizer=scaled), result).remedy


@pytest.mark.slow
def test_a_network_diverges_within_the_range(data: Dataset) -> None:
    result = run_range_test(train_config("he", optimizer=OptimizerConfig(learning_rate=0.02)), data, steps=60)
    assert result.diverged_at is not None
    assert 0.05 < result.diverged_at < 50
    assert 1e-4 < result.suggested < result.diverged_at
    assert len(result.rates) < 60, "it stops there"
    assert result.losses[0] == pytest.approx(2.5, abs=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_each_optimizer_has_its_own_range(name: str, data: Dataset) -> None:
    config = train_config("shallow", optimizer=OptimizerConfig(name=name, learning_rate=1e-3, clip_norm=1.0))
    result = run_range_test(config, data, steps=20)
    assert result.rates[0] == pytest.approx(1e-6)
    assert np.isfinite(result.losses[0])


def test_the_picture_has_every_mark() -> None:
    result = analyse_curve(RATES, curve())
    picture = draw_curve(result, peak=0.1)
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert count_red_pixels(picture) > 20, "where it diverged"
    assert count_red_pixels(draw_curve(dataclasses.replace(result, diverged_at=None), peak=0.1)) == 0


def count_red_pixels(picture: np.ndarray) -> int:
    red, green, blue = (picture[..., channel].astype(int) for channel in range(3))
    return int(np.sum((red > 200) & (green < 80) & (blue < 80)))
