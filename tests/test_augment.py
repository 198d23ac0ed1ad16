"""Augmentations of whole batches against numpy, alone and inside tf.data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import augment
from pipeline.config import AugmentConfig

CASES = pytest.mark.parametrize(("height", "width", "channels"), [(16, 16, 3), (16, 16, 1), (9, 20, 3), (20, 9, 1)])
ALL = AugmentConfig(pad_crop=3, flip=0.5, brightness=0.2, contrast=0.4)


def batch(count: int, height: int = 16, width: int = 16, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), np.uint8)


def uniform(count: int, columns: int = augment.COLUMNS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, columns), np.float32)


def alone(op: Callable | None, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
    assert op is not None
    changed = op(tf.constant(images), tf.constant(draws, tf.float32))
    assert changed.dtype == tf.uint8
    assert changed.shape == images.shape
    return changed.numpy()


def run(op: Callable | None, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Alone and inside tf.data, which must agree in everything."""
    changed = alone(op, images, draws)
    ds = tf.data.Dataset.from_tensor_slices((images, draws)).batch(len(images)).map(op)
    assert ds.element_spec == tf.TensorSpec([None, *images.shape[1:]], tf.uint8)
    np.testing.assert_array_equal(next(iter(ds)), changed)
    return changed


@CASES
def test_flip_mirrors_exactly_the_images_whose_draw_is_below_the_probability(
    height: int, width: int, channels: int
) -> None:
    images = batch(5, height, width, channels)
    found = run(augment.flip(0.4), images, np.array([[0.0], [0.39], [0.4], [0.41], [0.99]], np.float32))
    np.testing.assert_array_equal(found[:2], images[:2, :, ::-1])
    np.testing.assert_array_equal(found[2:], images[2:])


def test_flip_of_probability_1_mirrors_every_image() -> None:
    images, largest = batch(3), np.nextafter(np.float32(1), np.float32(0))
    np.testing.assert_array_equal(run(augment.flip(1), images, np.full((3, 1), largest)), images[:, :, ::-1])


@CASES
@pytest.mark.parametrize("pad", [1, 4, 8])
def test_pad_crop_cuts_a_window_out_of_the_reflected_image(height: int, width: int, channels: int, pad: int) -> None:
    images, draws = batch(40, height, width, channels), uniform(40, 2)
    found = run(augment.pad_crop(pad), images, draws)
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), "reflect")
    for number, (y, x) in enumerate(np.floor(draws.astype(float) * (2 * pad + 1)).astype(int)):
        np.testing.assert_array_equal(found[number], padded[number, y : y + height, x : x + width])


def test_pad_crop_reaches_every_offset_equally_often() -> None:
    pad, count = 2, 2500
    images = np.repeat(np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1), count, axis=0)
    found = alone(augment.pad_crop(pad), images, uniform(count, 2))
    # The pixel that lands in the middle tells the offset.
    values, counts = np.unique(found[:, 4, 4, 0], return_counts=True)
    np.testing.assert_array_equal(values, (np.arange(2, 7)[:, None] * 8 + np.arange(2, 7)).ravel())
    assert np.sum((counts - 100) ** 2 / 100) < 66  # chi squared with 24 degrees of freedom: p = 1e-5


@pytest.mark.parametrize("pad", [1, 3, 4, 7, 15])
def test_the_largest_possible_draw_stays_inside(pad: int) -> None:
    images, largest = batch(1), np.full((1, 2), np.nextafter(np.float32(1), np.float32(0)))
    found = alone(augment.pad_crop(pad), images, largest)
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), "reflect")
    np.testing.assert_array_equal(found, padded[:, 2 * pad :, 2 * pad :])


def adjusted(images: np.ndarray, draws: np.ndarray, brightness: float, contrast: float) -> np.ndarray:
    """Before rounding and saturation, float64."""
    x, u = images.astype(np.float64), 2 * draws.astype(np.float64)[:, :, None, None, None] - 1
    mean = x.mean(axis=(1, 2, 3), keepdims=True)
    return mean + (1 + u[:, 1] * contrast) * (x - mean) + u[:, 0] * brightness * 255


@CASES
@pytest.mark.parametrize(("brightness", "contrast"), [(0.3, 0.0), (0.0, 0.7), (0.2, 0.4), (1.0, 1.0)])
def test_brightness_and_contrast_follow_the_formula(
    height: int, width: int, channels: int, brightness: float, contrast: float
) -> None:
    images, draws = batch(6, height, width, channels), uniform(6, 2)
    draws[0], draws[1] = 0, np.nextafter(np.float32(1), np.float32(0))
    found = run(augment.brightness_contrast(brightness, contrast), images, draws)
    exact = np.clip(adjusted(images, draws, brightness, contrast), 0, 255)
    assert np.abs(found - exact).max() <= 0.5 + 1e-3


def test_draws_in_the_middle_leave_brightness_and_contrast_alone() -> None:
    images = batch(4)
    found = run(augment.brightness_contrast(0.5, 0.5), images, np.full((4, 2), 0.5, np.float32))
    np.testing.assert_array_equal(found, images)


def test_contrast_keeps_the_mean_of_an_image_and_brightness_moves_it() -> None:
    images = np.random.default_rng(0).integers(100, 156, (50, 16, 16, 3), np.uint8)
    mean, draws = images.mean(axis=(1, 2, 3)), uniform(50, 2)
    contrast = alone(augment.brightness_contrast(0, 0.5), images, draws)
    assert np.abs(contrast.mean(axis=(1, 2, 3)) - mean).max() < 0.1
    brightness = alone(augment.brightness_contrast(0.2, 0), images, draws)
    moved = brightness.mean(axis=(1, 2, 3)) - mean
    assert np.abs(moved - (2 * draws[:, 0] - 1) * 51).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("op", [augment.flip(0), augment.pad_crop(0), augment.brightness_contrast(0, 0)])
def test_strength_0_is_no_op_at_all(op: object) -> None:
    assert op is None


def test_augmentation_is_none_when_all_is_off_or_only_the_crop_is_on() -> None:
    assert augment.augmentation(AugmentConfig()) is None
    assert augment.augmentation(AugmentConfig(random_resized_crop=0.5)) is None


@CASES
def test_the_chain_is_flip_then_crop_then_colour_each_with_its_own_draws(
    height: int, width: int, channels: int
) -> None:
    images, draws = batch(12, height, width, channels), uniform(12)
    expected = images
    for stage, columns in (
        (augment.flip(0.5), slice(0, 1)),
        (augment.pad_crop(3), slice(1, 3)),
        (augment.brightness_contrast(0.2, 0.4), slice(3, 5)),
    ):
        expected = alone(stage, expected, draws[:, columns])
    found = run(augment.augmentation(ALL), images, draws)
    np.testing.assert_array_equal(found, expected)
    assert (found != images).any()


@pytest.mark.parametrize(
    ("config", "columns"),
    [
        (AugmentConfig(flip=0.5), {0}),
        (AugmentConfig(pad_crop=3), {1, 2}),
        (AugmentConfig(brightness=0.5), {3}),
        (AugmentConfig(contrast=0.5), {4}),
    ],
)
def test_each_strength_alone_answers_to_its_own_draws_only(config: AugmentConfig, columns: set[int]) -> None:
    op, images, draws = augment.augmentation(config), batch(30), uniform(30)
    plain = alone(op, images, draws)
    for column in range(augment.COLUMNS):
        others = draws.copy()
        others[:, column] = uniform(30, 1, seed=1)[:, 0]
        assert (alone(op, images, others) != plain).any() == (column in columns)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 8))
def test_the_same_draws_give_the_same_pixels_whatever_else_is_in_the_batch(seed: int, count: int) -> None:
    op, images, draws = augment.augmentation(ALL), batch(8, seed=seed), uniform(8, seed=seed)
    np.testing.assert_array_equal(alone(op, images[:count], draws[:count]), alone(op, images, draws)[:count])
