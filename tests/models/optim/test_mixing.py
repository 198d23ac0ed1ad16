"""Mixup and CutMix: pixels and targets are mixed with the same weights, and a key always mixes in the same way."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from evenkeel.models.optim import mixing

COUNT, SIZE, CLASSES = 64, 16, 5
LABELS = np.arange(COUNT) % CLASSES
# One value per image, so that every pixel shows how it was mixed.
VALUES = (np.arange(COUNT) * 4).astype(np.uint8)
IMAGES = np.broadcast_to(VALUES[:, None, None, None], (COUNT, SIZE, SIZE, 3))


def mix(mixup: float, cutmix: float, key: int = 0) -> tuple[np.ndarray, np.ndarray]:
    images, targets = tf.function(mixing.mix_batch)(
        tf.constant(IMAGES), tf.constant(LABELS), CLASSES, mixup, cutmix, tf.constant([key, 7])
    )
    assert images.dtype == tf.uint8
    assert targets.dtype == tf.float32
    np.testing.assert_allclose(targets.numpy().sum(axis=1), 1, rtol=1e-6)
    return images.numpy(), targets.numpy()


def find_shift(images: np.ndarray) -> int:
    """The rotation of the batch: the only one that explains every pixel."""

    def explains(shift: int) -> bool:
        low, high = np.minimum(VALUES, np.roll(VALUES, shift)), np.maximum(VALUES, np.roll(VALUES, shift))
        flat = images.reshape(COUNT, -1)
        return bool(((flat >= low[:, None]) & (flat <= high[:, None])).all())

    shifts = [shift for shift in range(1, COUNT) if explains(shift)]
    assert len(shifts) == 1
    return shifts[0]


@pytest.mark.parametrize("key", range(3))
def test_cutmix_pastes_one_rectangle_and_the_targets_have_its_share(key: int) -> None:
    images, targets = mix(0, 1.0, key)
    shift = find_shift(images)
    for number in range(COUNT):
        partner = VALUES[number - shift]
        pasted = (images[number] == partner).all(axis=-1)
        assert ((images[number] == VALUES[number]).all(axis=-1) | pasted).all()
        rows, columns = np.flatnonzero(pasted.any(axis=1)), np.flatnonzero(pasted.any(axis=0))
        assert pasted.sum() == len(rows) * len(columns), "a rectangle"
        assert not len(rows) or (np.ptp(rows) == len(rows) - 1 and np.ptp(columns) == len(columns) - 1)
        share = pasted.mean()
        expected = (1 - share) * np.eye(CLASSES)[LABELS[number]] + share * np.eye(CLASSES)[LABELS[number - shift]]
        np.testing.assert_allclose(targets[number], expected, atol=1e-6)


@pytest.mark.parametrize("key", range(3))
def test_mixup_blends_pixels_with_the_weights_of_the_targets(key: int) -> None:
    images, targets = mix(1.0, 0, key)
    shift = find_shift(images)
    for number in range(COUNT):
        mine, partner = LABELS[number], LABELS[number - shift]
        if mine == partner:
            continue
        own = targets[number, mine]
        assert targets[number, partner] == pytest.approx(1 - own, abs=1e-6)
        value = own * VALUES[number] + (1 - own) * VALUES[number - shift]
        np.testing.assert_allclose(images[number], value, atol=0.501)


def test_with_both_each_image_draws_one_of_the_two() -> None:
    images, _ = mix(1.0, 1.0)
    flat = images.reshape(COUNT, -1)
    shift = find_shift(images)
    partner = np.roll(VALUES, shift)
    blended = ((flat != VALUES[:, None]) & (flat != partner[:, None])).all(axis=1)
    pasted = ((flat == VALUES[:, None]) | (flat == partner[:, None])).all(axis=1)
    assert (blended | pasted).all()
    assert 15 < blended.sum() < 49


@pytest.mark.slow
def test_the_same_key_mixes_in_the_same_way_and_another_key_does_not() -> None:
    for parameters in ((0.4, 0), (0, 0.4), (0.4, 0.4)):
        first, repeated, other = (mix(*parameters, key=key) for key in (1, 1, 2))
        for a, b in zip(first, repeated, strict=True):
            np.testing.assert_array_equal(a, b)
        assert (first[0] != other[0]).any()


def test_mixing_works_for_grayscale_and_a_single_image() -> None:
    one = tf.constant(np.full((1, 8, 9, 1), 100, np.uint8))
    images, targets = mixing.mix_batch(one, tf.constant([2]), 4, 0.2, 1.0, tf.constant([0, 0]))
    np.testing.assert_array_equal(images, one)
    np.testing.assert_allclose(targets, [[0, 0, 1, 0]], atol=1e-6)


@pytest.mark.parametrize("concentration", [0.2, 1.0, 4.0])
def test_samples_have_the_beta_distribution(concentration: float) -> None:
    draws = mixing.sample_beta(tf.constant(4000), concentration, tf.constant([3, 1])).numpy()
    assert stats.kstest(draws, stats.beta(concentration, concentration).cdf).pvalue > 1e-3
    assert stats.kstest(draws, stats.beta(concentration * 1.5, concentration * 1.5).cdf).pvalue < 1e-3


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_rectangle_covers_the_partners_share_of_the_area(weight: float) -> None:
    centre = tf.constant([0.5])
    inside, area = mixing.rectangle_masks(centre, centre, tf.constant([weight]), 100, 60)
    assert area.numpy()[0] == pytest.approx(inside.numpy().mean(), abs=1e-6)
    assert area.numpy()[0] == pytest.approx(1 - weight, abs=0.03)
