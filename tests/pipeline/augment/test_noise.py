"""Noise by its statistics and by the strip it comes from; cutout by the position of its square."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from evenkeel.pipeline.augment.noise import (
    GRAY,
    STRIP_IMAGES,
    cutout,
    noise,
)
from tests.stages import (
    KEY,
    LARGEST,
    alone,
    batch,
    run,
    uniform,
)

SHAPES = pytest.mark.parametrize(("height", "width", "channels"), [(16, 16, 3), (16, 16, 1), (9, 20, 3), (20, 9, 1)])


@SHAPES
def test_noise_is_a_signed_part_of_the_strip_that_the_step_draws(height: int, width: int, channels: int) -> None:
    images, draws = batch(20, height, width, channels), uniform(20, 2)
    draws[0, 0], draws[1, 0] = 0, LARGEST
    output = run(noise(20), images, draws)
    strip = 20 * tf.random.stateless_normal([STRIP_IMAGES * height, width * channels], KEY).numpy().astype(np.float64)
    for number, (offset, sign) in enumerate(draws):
        first = int(float(offset) * ((STRIP_IMAGES - 1) * height + 1))
        window = strip[first : first + height].reshape(height, width, channels)
        expected = np.clip(images[number] + (-1 if sign < 0.5 else 1) * window, 0, 255)
        assert np.abs(output[number] - expected).max() <= 0.5 + 1e-3


def test_noise_is_gaussian_with_the_given_deviation() -> None:
    images = np.full((50, 32, 32, 3), 128, np.uint8)
    added = alone(noise(10), images, uniform(50, 2)).astype(float) - 128
    assert abs(added.mean()) < 0.5
    assert added.std() == pytest.approx(10, rel=0.03)
    assert np.mean(np.abs(added) > 19.6) == pytest.approx(0.05, abs=0.01)


def test_noise_of_two_steps_and_of_two_images_is_uncorrelated() -> None:
    images, draws = np.full((2, 32, 32, 3), 128, np.uint8), np.array([[0.1, 0.9], [0.9, 0.9]], np.float32)
    stage = noise(20)
    assert stage is not None
    first, second = (stage(images, draws, tf.constant(key)).numpy() - 128.0 for key in ((1, 2), (1, 3)))
    for a, b in ((first[0], second[0]), (first[0], first[1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.1


@pytest.mark.slow
@SHAPES
@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 1.0])
def test_cutout_fills_a_square_around_its_center(height: int, width: int, channels: int, share: float) -> None:
    images, draws = batch(40, height, width, channels), uniform(40, 2)
    draws[0], draws[1] = 0, LARGEST
    output = run(cutout(share), images, draws)
    side = max(1, round(share * min(height, width)))
    for number, center in enumerate(draws.astype(float) * [height, width]):
        y, x = np.floor(center).astype(int) - side // 2
        expected = images[number].copy()
        expected[max(0, y) : max(0, y + side), max(0, x) : max(0, x + side)] = GRAY
        np.testing.assert_array_equal(output[number], expected)


def test_every_pixel_is_the_center_of_a_cutout_equally_often() -> None:
    output = alone(cutout(0.2), np.zeros((2500, 5, 5, 1), np.uint8), uniform(2500, 2))  # a square of one pixel
    counts = (output[..., 0] == GRAY).sum(axis=0)
    assert counts.sum() == 2500
    assert np.sum((counts - 100) ** 2 / 100) < 66  # chi squared with 24 degrees of freedom: p = 1e-5


def test_strength_0_gives_no_stage() -> None:
    assert noise(0) is None
    assert cutout(0) is None


@pytest.mark.parametrize("stage", [noise(20), cutout(0.5)])
def test_the_same_draws_give_the_same_pixels_in_any_batch(stage) -> None:
    images, draws = batch(20, 33, 31), uniform(20, 2)
    for count in (1, 7):
        np.testing.assert_array_equal(alone(stage, images[:count], draws[:count]), alone(stage, images, draws)[:count])
