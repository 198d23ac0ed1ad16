"""Gains of one run over another: paired by image, combined over seeds, against numbers computed by hand."""

from __future__ import annotations

import math
import types

import numpy as np
import pytest

from evenkeel.models.doctor.comparison import (
    LOSS_WEIGHT,
    SEED_DEVIATION,
    Gain,
    combine,
    compare,
    image_utilities,
    is_at_chance,
)
from tests.models.doctor.cases import MadeUpSplit


def made_up_run(correct: np.ndarray, losses: np.ndarray, split: str = "validation", labels: np.ndarray | None = None):
    validation = MadeUpSplit(np.arange(len(correct)) % 10 if labels is None else labels)
    return types.SimpleNamespace(
        correct=correct,
        losses=losses,
        config=types.SimpleNamespace(data=types.SimpleNamespace(validation_split=split)),
        data=types.SimpleNamespace(classes=range(10), validation=validation),
    )


def test_the_utility_of_an_image_counts_its_loss_up_to_twice_that_of_guessing() -> None:
    run = made_up_run(np.array([True, False, False, True]), np.array([0.5, 2.0, np.inf, np.nan]))
    cap = 2 * math.log(10)
    expected = [1 - LOSS_WEIGHT * 0.5, -LOSS_WEIGHT * 2, -LOSS_WEIGHT * cap, 1 - LOSS_WEIGHT * cap]
    np.testing.assert_allclose(image_utilities(run), expected)


def test_a_gain_on_the_same_images_is_paired_and_so_more_certain() -> None:
    rng = np.random.default_rng(0)
    easy = rng.random(1000) < 0.5
    better = easy | (rng.random(1000) < 0.1)
    losses = np.ones(1000)
    paired = compare(made_up_run(better, losses), made_up_run(easy, losses))
    difference = better.astype(float) - easy
    assert paired.mean == pytest.approx(difference.mean())
    assert paired.error == pytest.approx(math.sqrt(difference.var(ddof=1) / 1000 + 2 * SEED_DEVIATION**2))
    other_images = compare(made_up_run(better, losses, split="train[80%:]"), made_up_run(easy, losses))
    assert other_images.mean == pytest.approx(paired.mean)
    assert other_images.error > paired.error


def test_two_seeds_that_agree_make_a_gain_more_certain_and_two_that_do_not_less() -> None:
    one = Gain(0.06, 0.033)
    assert not one.is_significant
    agree, differ = combine([one, Gain(0.07, 0.033)]), combine([one, Gain(-0.06, 0.033)])
    assert agree.mean == pytest.approx(0.065)
    assert agree.error == pytest.approx(0.033 / math.sqrt(2))
    assert agree.is_significant
    assert differ.mean == pytest.approx(0)
    assert differ.error == pytest.approx(math.sqrt((0.033**2 / 2 + 0.06**2) / 2))
    assert not differ.is_significant


def test_a_gain_that_is_certain_but_tiny_is_not_significant() -> None:
    assert not Gain(0.02, 0.001).is_significant
    assert Gain(0.04, 0.001).is_significant


@pytest.mark.parametrize(("accuracy", "expected"), [(0.1, True), (0.12, True), (0.14, False), (0.05, True)])
def test_an_accuracy_is_at_chance_unless_it_is_significantly_above(accuracy: float, expected: bool) -> None:
    correct = np.arange(1000) < 1000 * accuracy
    assert is_at_chance(made_up_run(correct, np.ones(1000))) == expected


def test_chance_is_the_share_of_the_most_frequent_class() -> None:
    labels = np.where(np.arange(1000) < 700, 0, 1)
    assert is_at_chance(made_up_run(np.arange(1000) < 700, np.ones(1000), labels=labels))
    assert not is_at_chance(made_up_run(np.arange(1000) < 760, np.ones(1000), labels=labels))
