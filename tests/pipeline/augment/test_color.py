"""Colours, histograms, bits and edges against numpy in float64, and against Pillow where Pillow is the definition."""

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
    affine,
    colour,
    equalize,
    means,
    posterize,
    sharpened,
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

CASES = pytest.mark.parametrize(("height", "width", "channels"), [(16, 16, 3), (16, 16, 1), (9, 20, 3), (20, 9, 1)])
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def adjusted(images: np.ndarray, draws: np.ndarray, brightness: float, contrast: float) -> np.ndarray:
    """Before rounding and saturation, float64."""
    x, u = images.astype(np.float64), 2 * draws.astype(np.float64)[:, :, None, None, None] - 1
    mean = x.mean(axis=(1, 2, 3), keepdims=True)
    return mean + (1 + u[:, CONTRAST] * contrast) * (x - mean) + u[:, BRIGHTNESS] * brightness * 255


@CASES
@pytest.mark.parametrize(("brightness", "contrast"), [(0.3, 0.0), (0.0, 0.7), (0.2, 0.4), (1.0, 1.0)])
def test_brightness_and_contrast_follow_the_formula(
    height: int, width: int, channels: int, brightness: float, contrast: float
) -> None:
    images, draws = batch(6, height, width, channels), uniform(6, 2)
    draws[0], draws[1] = 0, LARGEST
    found = run(colour(brightness, contrast), images, draws)
    exact = np.clip(adjusted(images, draws, brightness, contrast), 0, 255)
    assert np.abs(found - exact).max() <= 0.5 + 1e-3


def test_contrast_keeps_the_mean_of_an_image_and_brightness_moves_it() -> None:
    images = np.random.default_rng(0).integers(100, 156, (50, 16, 16, 3), np.uint8)
    mean, draws = images.mean(axis=(1, 2, 3)), uniform(50, 2)
    contrast = alone(colour(contrast=0.5), images, draws)
    assert np.abs(contrast.mean(axis=(1, 2, 3)) - mean).max() < 0.1
    brightness = alone(colour(brightness=0.2), images, draws)
    moved = brightness.mean(axis=(1, 2, 3)) - mean
    assert np.abs(moved - (2 * draws[:, 0] - 1) * 51).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("value", [0, 1, 255])
def test_the_mean_is_exact_however_large_the_image(value: int) -> None:
    # In float32 the sum would be off from 2**24 on.
    images = np.full((2, 600, 601, 3), value, np.uint8)
    images[1, 0, 0, 0] = 7
    found = means(tf.constant(images)).numpy()
    np.testing.assert_allclose(found, [value, value + (7 - value) / (600 * 601 * 3)], rtol=1e-15)


@pytest.mark.parametrize("size", [(16, 16), (9, 20)])
def test_colours_follow_yiq(size: tuple[int, int]) -> None:
    images, draws = batch(8, *size), uniform(8, 4)
    draws[0], draws[1] = 0, LARGEST
    found = run(colour(0.1, 0.3, 0.8, 0.5), images, draws)
    u = 2 * draws.astype(np.float64) - 1
    for number, image in enumerate(adjusted(images, draws, 0.1, 0.3)):
        angle, factor = 2 * math.pi * 0.5 * u[number, HUE], 1 + 0.8 * u[number, SATURATION]
        yiq = image @ YIQ.T
        chroma = (yiq[..., 1] + 1j * yiq[..., 2]) * factor * np.exp(1j * angle)
        exact = np.stack([yiq[..., 0], chroma.real, chroma.imag], axis=-1) @ np.linalg.inv(YIQ).T
        assert np.abs(found[number] - np.clip(exact, 0, 255)).max() <= 0.5 + 0.2  # factors are multiples of 1/4096


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), saturation=st.floats(0, 1), hue=st.floats(0, 0.5))
def test_gray_stays_gray(seed: int, saturation: float, hue: float) -> None:
    images = np.repeat(batch(4, channels=1, seed=seed), 3, axis=3)
    stage = colour(saturation=saturation, hue=hue)
    if stage is not None and stage.columns == 4:
        np.testing.assert_array_equal(alone(stage, images, uniform(4, 4, seed)), images)


def test_hue_reaches_every_colour_and_saturation_0_is_gray() -> None:
    red = np.tile(np.array([200, 60, 60], np.uint8), (400, 2, 2, 1))
    draws = np.full((400, 4), 0.5, np.float32)
    draws[:, HUE] = np.linspace(0, LARGEST, 400)
    found = alone(colour(hue=0.5), red, draws)[:, 0, 0] / 255
    hues = sorted(colorsys.rgb_to_hsv(*pixel)[0] for pixel in found)
    assert max(np.diff(hues)) < 0.05
    assert hues[0] < 0.05
    assert hues[-1] > 0.95
    draws[:, HUE], draws[:, SATURATION] = 0.5, 0
    gray = alone(colour(saturation=1, hue=0.1), red, draws)
    assert (gray == round(0.299 * 200 + 0.587 * 60 + 0.114 * 60)).all()


@pytest.mark.parametrize("strengths", [(0.5, 0.5, 0, 0), (0.5, 0.5, 0.5, 0.5)])
def test_draws_in_the_middle_leave_colours_alone(strengths: tuple[float, ...]) -> None:
    images, stage = batch(4), colour(*strengths)
    assert stage is not None
    np.testing.assert_array_equal(run(stage, images, np.full((4, stage.columns), 0.5, np.float32)), images)


def test_a_gray_image_has_brightness_and_contrast_only() -> None:
    images, scale = batch(3, channels=1), tf.constant([0.5, 1.0, 1.5], tf.float64)
    found = affine(tf.constant(images), scale, tf.constant([10.0, 0, -50], tf.float64), 2 * scale, scale).numpy()
    exact = images * np.array([0.5, 1, 1.5])[:, None, None, None] + np.array([10, 0, -50])[:, None, None, None]
    assert np.abs(found - np.clip(exact, 0, 255)).max() <= 0.5


def test_strength_0_is_no_stage_at_all() -> None:
    assert [colour(), sharpness(0), equalize(0), posterize(0)] == [None] * 4


@CASES
def test_sharpness_is_pillows_up_to_its_two_roundings(height: int, width: int, channels: int) -> None:
    images, draws = smooth(6, height, width, channels), uniform(6, 1)
    draws[0], draws[1] = 0, LARGEST
    found = run(sharpness(0.9), images, draws)
    for number, image in enumerate(images):
        factor = 1 + 0.9 * (2 * float(draws[number, 0]) - 1)
        expected = np.asarray(ImageEnhance.Sharpness(picture(image)).enhance(factor)).reshape(image.shape)
        assert np.abs(found[number].astype(int) - expected).max() <= 2
        assert (np.abs(found[number].astype(int) - expected) <= 1).mean() > 0.98


@CASES
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
    exact = np.clip(mean + factor * (x - mean), 0, 255)
    assert np.abs(run(sharpness(0.9), images, draws) - exact).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 9), (9, 2)])
def test_images_that_are_all_border_have_no_sharpness(height: int, width: int) -> None:
    images = batch(3, height, width)
    np.testing.assert_array_equal(run(sharpness(1), images, uniform(3, 1)), images)


def test_sharpness_of_factor_1_and_of_no_images_changes_nothing() -> None:
    images = batch(3)
    np.testing.assert_array_equal(run(sharpness(1), images, np.full((3, 1), 0.5, np.float32)), images)
    assert sharpened(tf.constant(images[:0]), tf.zeros([0])).shape == (0, 16, 16, 3)


def picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def equalized_by_pillow(images: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(ImageOps.equalize(picture(image))).reshape(image.shape) for image in images])


@CASES
def test_equalize_is_pillows(height: int, width: int, channels: int) -> None:
    images = np.concatenate(
        [batch(3, height, width, channels), smooth(3, height, width, channels), smooth(3, height, width, channels) // 8]
    )
    np.testing.assert_array_equal(run(equalize(1), images, np.full((9, 1), LARGEST)), equalized_by_pillow(images))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    levels=st.integers(1, 256),
    largest=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    size=st.sampled_from([(4, 4), (17, 15), (16, 16), (32, 32)]),
)
def test_equalize_is_pillows_on_odd_histograms(seed: int, levels: int, largest: float, size: tuple[int, int]) -> None:
    random = np.random.default_rng(seed)
    images = random.integers(0, levels, (2, *size, 3), np.uint8)
    images[random.random(images.shape) < largest] = levels - 1
    np.testing.assert_array_equal(alone(equalize(1), images, uniform(2, 1)), equalized_by_pillow(images))


def test_equalize_changes_exactly_the_images_whose_draw_is_below_the_probability() -> None:
    images = smooth(5)
    found = run(equalize(0.4), images, np.array([[0.0], [0.39], [0.4], [0.41], [0.99]], np.float32))
    np.testing.assert_array_equal(found[:2], equalized_by_pillow(images[:2]))
    np.testing.assert_array_equal(found[2:], images[2:])
    assert (found[:2] != images[:2]).any()


@CASES
def test_posterize_is_pillows_and_clears_each_number_of_bits_equally_often(
    height: int, width: int, channels: int
) -> None:
    images, draws = batch(400, height, width, channels), uniform(400, 1)
    found = run(posterize(3), images, draws)
    bits = np.floor(draws[:, 0] * 4).astype(int)
    assert np.sum((np.bincount(bits, minlength=4) - 100) ** 2 / 100) < 26  # 3 degrees of freedom: p = 1e-5
    for image, changed, cleared in zip(images[:20], found, bits, strict=False):
        expected = np.asarray(ImageOps.posterize(picture(image), 8 - cleared)).reshape(image.shape)
        np.testing.assert_array_equal(changed, expected)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 20))
def test_the_same_draws_give_the_same_pixels_whatever_else_is_in_the_batch(seed: int, count: int) -> None:
    for stage in (colour(0.2, 0.4), colour(0.2, 0.4, 0.5, 0.5), sharpness(0.9), equalize(0.5), posterize(7)):
        assert stage is not None
        images, draws = batch(20, 33, 31, seed=seed), uniform(20, stage.columns, seed)
        np.testing.assert_array_equal(alone(stage, images[:count], draws[:count]), alone(stage, images, draws)[:count])
