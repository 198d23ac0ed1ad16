"""Augmentations of pixel values against numpy in float64, and against Pillow where Pillow defines the operation."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from evenkeel.pipeline.augment.color import (
    adjust_colors,
    adjust_sharpness,
    color_jitter,
    equalize,
    image_means,
    posterize,
    sharpness,
)
from tests.stages import (
    LARGEST,
    alone,
    batch,
    run,
    smooth,
    uniform,
)

SHAPES = pytest.mark.parametrize(("height", "width", "channels"), [(16, 16, 3), (16, 16, 1), (9, 20, 3), (20, 9, 1)])
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def expected_brightness_contrast(
    images: np.ndarray, draws: np.ndarray, brightness: float, contrast: float
) -> np.ndarray:
    """float64 [b, h, w, c], before rounding and clipping to 0 to 255."""
    x, u = images.astype(np.float64), 2 * draws.astype(np.float64)[:, :, None, None, None] - 1
    mean = x.mean(axis=(1, 2, 3), keepdims=True)
    return mean + (1 + u[:, CONTRAST] * contrast) * (x - mean) + u[:, BRIGHTNESS] * brightness * 255


@pytest.mark.slow
@SHAPES
@pytest.mark.parametrize(("brightness", "contrast"), [(0.3, 0.0), (0.0, 0.7), (0.2, 0.4), (1.0, 1.0)])
def test_brightness_and_contrast_follow_the_formula(
    height: int, width: int, channels: int, brightness: float, contrast: float
) -> None:
    images, draws = batch(6, height, width, channels), uniform(6, 2)
    draws[0], draws[1] = 0, LARGEST
    output = run(color_jitter(brightness, contrast), images, draws)
    expected = np.clip(expected_brightness_contrast(images, draws, brightness, contrast), 0, 255)
    assert np.abs(output - expected).max() <= 0.5 + 1e-3


def test_contrast_keeps_the_mean_of_an_image_and_brightness_moves_it() -> None:
    images = np.random.default_rng(0).integers(100, 156, (50, 16, 16, 3), np.uint8)
    mean, draws = images.mean(axis=(1, 2, 3)), uniform(50, 2)
    contrast = alone(color_jitter(contrast=0.5), images, draws)
    assert np.abs(contrast.mean(axis=(1, 2, 3)) - mean).max() < 0.1
    brightness = alone(color_jitter(brightness=0.2), images, draws)
    moved = brightness.mean(axis=(1, 2, 3)) - mean
    assert np.abs(moved - (2 * draws[:, 0] - 1) * 51).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("value", [0, 1, 255])
def test_the_mean_of_a_large_image_is_exact(value: int) -> None:
    # A float32 sum would be inexact from 2**24 on.
    images = np.full((2, 600, 601, 3), value, np.uint8)
    images[1, 0, 0, 0] = 7
    output = image_means(tf.constant(images)).numpy()
    np.testing.assert_allclose(output, [value, value + (7 - value) / (600 * 601 * 3)], rtol=1e-15)


@pytest.mark.parametrize("size", [(16, 16), (9, 20)])
def test_saturation_and_hue_follow_yiq(size: tuple[int, int]) -> None:
    images, draws = batch(8, *size), uniform(8, 4)
    draws[0], draws[1] = 0, LARGEST
    output = run(color_jitter(0.1, 0.3, 0.8, 0.5), images, draws)
    u = 2 * draws.astype(np.float64) - 1
    for number, image in enumerate(expected_brightness_contrast(images, draws, 0.1, 0.3)):
        angle, factor = 2 * math.pi * 0.5 * u[number, HUE], 1 + 0.8 * u[number, SATURATION]
        yiq = image @ YIQ.T
        chroma = (yiq[..., 1] + 1j * yiq[..., 2]) * factor * np.exp(1j * angle)
        expected = np.stack([yiq[..., 0], chroma.real, chroma.imag], axis=-1) @ np.linalg.inv(YIQ).T
        assert np.abs(output[number] - np.clip(expected, 0, 255)).max() <= 0.5 + 0.2  # factors are multiples of 1/4096


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), saturation=st.floats(0, 1), hue=st.floats(0, 0.5))
def test_gray_stays_gray(seed: int, saturation: float, hue: float) -> None:
    images = np.repeat(batch(4, channels=1, seed=seed), 3, axis=3)
    stage = color_jitter(saturation=saturation, hue=hue)
    if stage is not None and stage.draw_columns == 4:
        np.testing.assert_array_equal(alone(stage, images, uniform(4, 4, seed)), images)


def test_hue_reaches_every_color_and_saturation_0_gives_gray() -> None:
    red = np.tile(np.array([200, 60, 60], np.uint8), (400, 2, 2, 1))
    draws = np.full((400, 4), 0.5, np.float32)
    draws[:, HUE] = np.linspace(0, LARGEST, 400)
    output = alone(color_jitter(hue=0.5), red, draws)[:, 0, 0] / 255
    hues = sorted(colorsys.rgb_to_hsv(*pixel)[0] for pixel in output)
    assert max(np.diff(hues)) < 0.05
    assert hues[0] < 0.05
    assert hues[-1] > 0.95
    draws[:, HUE], draws[:, SATURATION] = 0.5, 0
    gray = alone(color_jitter(saturation=1, hue=0.1), red, draws)
    assert (gray == round(0.299 * 200 + 0.587 * 60 + 0.114 * 60)).all()


@pytest.mark.parametrize("strengths", [(0.5, 0.5, 0, 0), (0.5, 0.5, 0.5, 0.5)])
def test_draws_of_one_half_change_no_color(strengths: tuple[float, ...]) -> None:
    images, stage = batch(4), color_jitter(*strengths)
    assert stage is not None
    np.testing.assert_array_equal(run(stage, images, np.full((4, stage.draw_columns), 0.5, np.float32)), images)


def test_a_gray_image_gets_brightness_and_contrast_only() -> None:
    images, scale = batch(3, channels=1), tf.constant([0.5, 1.0, 1.5], tf.float64)
    output = adjust_colors(
        tf.constant(images), scale, tf.constant([10.0, 0, -50], tf.float64), 2 * scale, scale
    ).numpy()
    expected = images * np.array([0.5, 1, 1.5])[:, None, None, None] + np.array([10, 0, -50])[:, None, None, None]
    assert np.abs(output - np.clip(expected, 0, 255)).max() <= 0.5


def test_strength_0_gives_no_stage() -> None:
    assert [color_jitter(), sharpness(0), equalize(0), posterize(0)] == [None] * 4


@SHAPES
def test_sharpness_equals_pillow_except_for_its_second_rounding(height: int, width: int, channels: int) -> None:
    images, draws = smooth(6, height, width, channels), uniform(6, 1)
    draws[0], draws[1] = 0, LARGEST
    output = run(sharpness(0.9), images, draws)
    for number, image in enumerate(images):
        factor = 1 + 0.9 * (2 * float(draws[number, 0]) - 1)
        expected = np.asarray(ImageEnhance.Sharpness(to_pillow(image)).enhance(factor)).reshape(image.shape)
        assert np.abs(output[number].astype(int) - expected).max() <= 2
        assert (np.abs(output[number].astype(int) - expected) <= 1).mean() > 0.98


@SHAPES
def test_sharpness_follows_the_formula(height: int, width: int, channels: int) -> None:
    images, draws = batch(6, height, width, channels), uniform(6, 1)
    x = images.astype(np.float64)
    mean = x.copy()
    inner = sum(
        x[:, dy : height - 2 + dy, dx : width - 2 + dx] * (5 if dy == dx == 1 else 1)
        for dy in range(3)
        for dx in range(3)
    )
    mean[:, 1:-1, 1:-1] = inner / 13
    factor = 1 + 0.9 * (2 * draws.astype(np.float64)[..., None, None] - 1)
    expected = np.clip(mean + factor * (x - mean), 0, 255)
    assert np.abs(run(sharpness(0.9), images, draws) - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 9), (9, 2)])
def test_images_without_an_inner_pixel_are_not_sharpened(height: int, width: int) -> None:
    images = batch(3, height, width)
    np.testing.assert_array_equal(run(sharpness(1), images, uniform(3, 1)), images)


def test_sharpness_factor_1_changes_nothing_and_an_empty_batch_works() -> None:
    images = batch(3)
    np.testing.assert_array_equal(run(sharpness(1), images, np.full((3, 1), 0.5, np.float32)), images)
    assert adjust_sharpness(tf.constant(images[:0]), tf.zeros([0])).shape == (0, 16, 16, 3)


def to_pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def equalize_with_pillow(images: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(ImageOps.equalize(to_pillow(image))).reshape(image.shape) for image in images])


@pytest.mark.slow
@SHAPES
def test_equalize_equals_pillow(height: int, width: int, channels: int) -> None:
    images = np.concatenate(
        [batch(3, height, width, channels), smooth(3, height, width, channels), smooth(3, height, width, channels) // 8]
    )
    np.testing.assert_array_equal(run(equalize(1), images, np.full((9, 1), LARGEST)), equalize_with_pillow(images))


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    levels=st.integers(1, 256),
    largest=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    size=st.sampled_from([(4, 4), (17, 15), (16, 16), (32, 32)]),
)
def test_equalize_equals_pillow_on_uneven_histograms(
    seed: int, levels: int, largest: float, size: tuple[int, int]
) -> None:
    random = np.random.default_rng(seed)
    images = random.integers(0, levels, (2, *size, 3), np.uint8)
    images[random.random(images.shape) < largest] = levels - 1
    np.testing.assert_array_equal(alone(equalize(1), images, uniform(2, 1)), equalize_with_pillow(images))


def test_equalize_changes_exactly_the_images_whose_draw_is_below_the_probability() -> None:
    images = smooth(5)
    output = run(equalize(0.4), images, np.array([[0.0], [0.39], [0.4], [0.41], [0.99]], np.float32))
    np.testing.assert_array_equal(output[:2], equalize_with_pillow(images[:2]))
    np.testing.assert_array_equal(output[2:], images[2:])
    assert (output[:2] != images[:2]).any()


@SHAPES
def test_posterize_equals_pillow_and_clears_each_number_of_bits_equally_often(
    height: int, width: int, channels: int
) -> None:
    images, draws = batch(400, height, width, channels), uniform(400, 1)
    output = run(posterize(3), images, draws)
    bits = np.floor(draws[:, 0] * 4).astype(int)
    assert np.sum((np.bincount(bits, minlength=4) - 100) ** 2 / 100) < 26  # 3 degrees of freedom: p = 1e-5
    for image, changed, cleared in zip(images[:20], output, bits, strict=False):
        expected = np.asarray(ImageOps.posterize(to_pillow(image), 8 - cleared)).reshape(image.shape)
        np.testing.assert_array_equal(changed, expected)


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 20))
def test_the_same_draws_give_the_same_pixels_in_any_batch(seed: int, count: int) -> None:
    for stage in (
        color_jitter(0.2, 0.4),
        color_jitter(0.2, 0.4, 0.5, 0.5),
        sharpness(0.9),
        equalize(0.5),
        posterize(7),
    ):
        assert stage is not None
        images, draws = batch(20, 33, 31, seed=seed), uniform(20, stage.draw_columns, seed)
        np.testing.assert_array_equal(alone(stage, images[:count], draws[:count]), alone(stage, images, draws)[:count])
