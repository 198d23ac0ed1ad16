"""The learning-rate range test: its schedule, what a curve says, and a network that bears so much and no more."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from evenkeel.models.config import OptimizerConfig
from evenkeel.models.preflight.lr_range_test import (
    Growing,
    RangeTest,
    finding,
    judged,
    picture,
    range_test,
    smoothed,
)
from evenkeel.pipeline.dataset import Dataset
from tests.models.preflight.test_preflight import config

RATES = np.geomspace(1e-4, 1e2, 121)


def curve() -> np.ndarray:
    """Falls to 0.5 at a rate of 1, then rises without bound."""
    decades = np.log10(RATES)
    return 2.3 - 0.45 * np.clip(decades + 4, 0, 4) + 3 * np.clip(decades - 0.2, 0, None) ** 2


def test_rates_grow_by_equal_factors() -> None:
    rates = Growing(1e-4, 1e2, 121)(tf.range(121)).numpy()
    np.testing.assert_allclose(rates, RATES, rtol=1e-4)
    assert Growing(**Growing(1e-4, 1e2, 5).get_config())(4).numpy() == pytest.approx(1e2, rel=1e-5)


def test_smoothing_starts_at_the_first_loss_and_forgets() -> None:
    np.testing.assert_allclose(smoothed(np.full(5, 3.0)), 3.0)
    assert smoothed(np.array([4.0, 2.0]))[1] == pytest.approx((0.9 * 0.4 + 0.2) / (1 - 0.81))
    assert np.isinf(smoothed(np.array([1.0, np.nan, 1.0]))[1:]).all()


def test_a_curve_tells_where_it_turns_and_where_it_diverges() -> None:
    found = judged(RATES, curve())
    assert 0.05 <= found.suggested <= 0.4
    assert found.diverged_at is not None
    assert 5 < found.diverged_at < 80
    assert found.rates[-1] == found.diverged_at
    assert len(found.rates) == len(found.losses) == len(found.smoothed) < len(RATES)


def test_a_loss_that_only_falls_diverges_nowhere() -> None:
    found = judged(RATES, np.linspace(2.3, 0.5, len(RATES)))
    assert found.diverged_at is None
    assert found.suggested == pytest.approx(RATES[-1] / 10)
    assert len(found.rates) == len(RATES)


def test_a_loss_that_is_no_number_has_diverged() -> None:
    losses = np.full(len(RATES), 2.3)
    losses[50:] = np.inf
    assert judged(RATES, losses).diverged_at == RATES[50]


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
def test_the_configured_rate_lies_between(rate: float, ok: bool, causes: tuple[str, ...] | None) -> None:
    found = RangeTest(RATES, RATES, RATES, suggested=1e-3, diverged_at=30.0)
    said = finding(config(optimizer=OptimizerConfig(learning_rate=rate)), found)
    assert said.ok == ok, said.line
    assert causes is None or said.causes == causes


def test_the_remedy_comes_to_the_suggested_rate_by_way_of_scaling() -> None:
    found = RangeTest(RATES, RATES, RATES, suggested=1e-3, diverged_at=0.01)
    scaled = OptimizerConfig(learning_rate=10.0, scaling="linear", reference_batch=200)  # a tenth, of 20 images
    assert "--optimizer.learning_rate=0.01." in finding(config(optimizer=scaled), found).remedy


def test_a_network_bears_so_much_and_no_more(data: Dataset) -> None:
    found = range_test(config("he", optimizer=OptimizerConfig(learning_rate=0.02)), data, steps=60)
    assert found.diverged_at is not None
    assert 0.05 < found.diverged_at < 50
    assert 1e-4 < found.suggested < found.diverged_at
    assert len(found.rates) < 60, "it stops there"
    assert found.losses[0] == pytest.approx(2.5, abs=1)


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_every_kind_of_optimizer_has_a_range_of_its_own(name: str, data: Dataset) -> None:
    chosen = config("cnn", optimizer=OptimizerConfig(name=name, learning_rate=1e-3, clip_norm=1.0))
    found = range_test(chosen, data, steps=20)
    assert found.rates[0] == pytest.approx(1e-6)
    assert np.isfinite(found.losses[0])


def test_the_picture_holds_every_mark() -> None:
    found = judged(RATES, curve())
    shown = picture(found, peak=0.1)
    assert shown.dtype == np.uint8
    assert shown.shape[2] == 3
    assert reds(shown) > 20, "where it diverged"
    assert reds(picture(dataclasses.replace(found, diverged_at=None), peak=0.1)) == 0


def reds(shown: np.ndarray) -> int:
    red, green, blue = (shown[..., channel].astype(int) for channel in range(3))
    return int(np.sum((red > 200) & (green < 80) & (blue < 80)))
