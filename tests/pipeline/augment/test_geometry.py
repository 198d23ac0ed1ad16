"""Flips and crops exactly; sampling matrices and resampling against numpy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.pipeline.augment.geometry import (
    flip,
    geometry,
    resample,
    sampling_matrices,
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
FLIP, CROP_Y, CROP_X, ANGLE, SHEAR_X, SHEAR_Y, ZOOM, X, Y = range(9)


def neutral_draws(count: int, **columns: float) -> np.ndarray:
    """float32 [count, 9]: draws that change nothing, except for the `columns` given."""
    draws = np.full((count, 9), 0.5, np.float32)
    draws[:, FLIP] = LARGEST
    for name, value in columns.items():
        draws[:, globals()[name]] = value
    return draws


def sample_bilinearly(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """float64 [h, w, c]: `image` sampled at `matrix` (x, y, 1), reflected without repeating the border pixels."""
    height, width, _ = image.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    x, y = (m[0] * columns + m[1] * rows + m[2] for m in matrix)

    def reflect(pixel: np.ndarray, size: int) -> np.ndarray:
        pixel = np.abs(pixel.astype(int)) % (2 * (size - 1))
        return np.where(pixel >= size, 2 * (size - 1) - pixel, pixel)

    x0, y0 = np.floor(x), np.floor(y)
    total = np.zeros(image.shape)
    for dy in (0, 1):
        for dx in (0, 1):
            weight = np.abs(1 - dy - (y - y0)) * np.abs(1 - dx - (x - x0))
            total += weight[..., None] * image[reflect(y0 + dy, height), reflect(x0 + dx, width)]
    return total


def forward_matrix(
    flipped: bool, scale: float, shear_x: float, shear_y: float, angle: float, x: float, y: float
) -> np.ndarray:
    """float64 [3, 3]: where the content moves, about the center; the product of one matrix per step."""
    cos, sin = math.cos(angle), math.sin(angle)
    steps = [
        [[1, 0, x], [0, 1, y], [0, 0, 1]],
        [[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]],  # counterclockwise where y points down
        [[1, shear_x, 0], [0, 1, 0], [0, 0, 1]],
        [[1, 0, 0], [shear_y, 1, 0], [0, 0, 1]],
        [[scale, 0, 0], [0, scale, 0], [0, 0, 1]],
        [[-1 if flipped else 1, 0, 0], [0, 1, 0], [0, 0, 1]],
    ]
    return np.linalg.multi_dot([np.array(step, np.float64) for step in steps])


@SHAPES
def test_flip_mirrors_exactly_the_images_whose_draw_is_below_the_probability(
    height: int, width: int, channels: int
) -> None:
    images = batch(5, height, width, channels)
    output = run(flip(0.4), images, np.array([[0.0], [0.39], [0.4], [0.41], [0.99]], np.float32))
    np.testing.assert_array_equal(output[:2], images[:2, :, ::-1])
    np.testing.assert_array_equal(output[2:], images[2:])


def test_flip_of_probability_1_mirrors_every_image() -> None:
    images = batch(3)
    np.testing.assert_array_equal(run(flip(1), images, np.full((3, 1), LARGEST)), images[:, :, ::-1])


def test_strength_0_gives_no_stage() -> None:
    assert flip(0) is None
    assert geometry(flip=0.5) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("height", "width", "channels", "pad"),
    [(16, 16, 3, 1), (16, 16, 1, 4), (9, 20, 3, 4), (9, 20, 3, 8), (20, 9, 1, 1), (20, 9, 1, 8)],
)
def test_pad_crop_equals_cropping_the_reflected_image(height: int, width: int, channels: int, pad: int) -> None:
    images, draws = batch(40, height, width, channels), uniform(40, 9)
    output = run(geometry(flip=0.5, pad_crop=pad), images, draws)
    turned = np.where(draws[:, FLIP, None, None, None] < 0.5, images[:, :, ::-1], images)
    padded = np.pad(turned, ((0, 0), (pad, pad), (pad, pad), (0, 0)), "reflect")
    offsets = np.floor(draws[:, [CROP_Y, CROP_X]].astype(float) * (2 * pad + 1)).astype(int)
    for number, (y, x) in enumerate(offsets):
        np.testing.assert_array_equal(output[number], padded[number, y : y + height, x : x + width])


def test_pad_crop_reaches_every_offset_equally_often() -> None:
    pad, count = 2, 2500
    images = np.repeat(np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1), count, axis=0)
    output = alone(geometry(pad_crop=pad), images, uniform(count, 9))
    # The value of the middle pixel identifies the offset.
    values, counts = np.unique(output[:, 4, 4, 0], return_counts=True)
    np.testing.assert_array_equal(values, (np.arange(2, 7)[:, None] * 8 + np.arange(2, 7)).ravel())
    assert np.sum((counts - 100) ** 2 / 100) < 66  # chi squared with 24 degrees of freedom: p = 1e-5


@pytest.mark.parametrize("pad", [1, 3, 4, 7, 15])
def test_the_largest_draw_stays_inside_the_padded_image(pad: int) -> None:
    images = batch(1)
    output = alone(geometry(pad_crop=pad), images, neutral_draws(1, CROP_Y=LARGEST, CROP_X=LARGEST))
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), "reflect")
    np.testing.assert_array_equal(output, padded[:, 2 * pad :, 2 * pad :])


@SHAPES
def test_neutral_draws_change_nothing_and_a_flip_mirrors(height: int, width: int, channels: int) -> None:
    images = batch(6, height, width, channels)
    stage = geometry(flip=0.5, pad_crop=2, rotation=40, translation=0.3, shear=0.3, zoom=0.5)
    output = run(stage, images, np.concatenate([neutral_draws(3), neutral_draws(3, FLIP=0.49)]))
    np.testing.assert_array_equal(output[:3], images[:3])
    np.testing.assert_array_equal(output[3:], images[3:, :, ::-1])


@pytest.mark.parametrize("side", [8, 9])
def test_a_right_angle_rotates_counterclockwise_exactly(side: int) -> None:
    images = batch(4, side, side)
    output = run(geometry(rotation=90), images, np.concatenate([neutral_draws(2, ANGLE=1), neutral_draws(2, ANGLE=0)]))
    np.testing.assert_array_equal(output[:2], np.rot90(images[:2], 1, axes=(1, 2)))
    np.testing.assert_array_equal(output[2:], np.rot90(images[2:], 3, axes=(1, 2)))


def test_a_translation_moves_right_and_down() -> None:
    images = batch(1, 10, 20)
    output = run(geometry(translation=0.1), images, neutral_draws(1, X=1, Y=1))
    np.testing.assert_array_equal(output[:, 1:, 2:], images[:, :-1, :-2])


def test_zooming_in_enlarges_the_middle_and_zooming_out_reflects_the_border() -> None:
    images = batch(1, 9, 9)
    draws = np.concatenate([neutral_draws(1, ZOOM=1), neutral_draws(1, ZOOM=0)])
    near, far = np.split(run(geometry(zoom=1), np.concatenate([images, images]), draws), 2)
    np.testing.assert_array_equal(near[:, ::2, ::2], images[:, 2:7, 2:7])
    np.testing.assert_array_equal(far, np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)), "reflect")[:, ::2, ::2])


@settings(max_examples=100)
@given(
    sides=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    flipped=st.booleans(),
    scale=st.floats(0.5, 2),
    shears=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    angle=st.floats(-math.pi, math.pi),
    moved=st.tuples(st.floats(-300, 300), st.floats(-300, 300)),
)
def test_the_sampling_matrix_is_the_inverse_of_the_movement(
    sides: tuple[int, int],
    flipped: bool,
    scale: float,
    shears: tuple[float, float],
    angle: float,
    moved: tuple[float, float],
) -> None:
    height, width = sides
    (output,) = sampling_matrices(height, width, flipped, scale, *shears, angle, *moved).numpy()
    center = np.array([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1]])
    forward = center @ forward_matrix(flipped, scale, *shears, angle, *moved) @ np.linalg.inv(center)
    np.testing.assert_allclose(np.vstack([output, [0, 0, 1]]) @ forward, np.eye(3), atol=1e-9)


@SHAPES
def test_random_geometry_samples_as_numpy_does(height: int, width: int, channels: int) -> None:
    images, draws = smooth(12, height, width, channels), uniform(12, 9)
    output = run(geometry(0.5, 2, 30, 0.2, 0.2, 0.3), images, draws)
    u = 2 * draws.astype(np.float64) - 1
    for number in range(12):
        crop_x, crop_y = (2 - math.floor(draws[number, column] * 5) for column in (CROP_X, CROP_Y))
        matrix = sampling_matrices(
            height,
            width,
            bool(draws[number, FLIP] < 0.5),
            1.3 ** u[number, ZOOM],
            0.2 * u[number, SHEAR_X],
            0.2 * u[number, SHEAR_Y],
            math.radians(30) * u[number, ANGLE],
            0.2 * width * u[number, X] + crop_x,
            0.2 * height * u[number, Y] + crop_y,
        ).numpy()[0]
        expected = sample_bilinearly(images[number].astype(np.float64), matrix)
        # Weights are multiples of 1/256: each of two is at most half of that off, of a difference of up to 255.
        assert np.abs(output[number] - expected).max() <= 0.5 + 255 / 256


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), reach=st.floats(0, 1))
def test_resampling_equals_numpy_up_to_three_sides_away(seed: int, reach: float) -> None:
    images = smooth(4, 12, 17, seed=seed)
    random = np.random.default_rng(seed)
    matrices = np.concatenate(
        [random.uniform(-0.7, 0.7, (4, 2, 2)), random.uniform(-24, 24, (4, 2, 1)) * reach], axis=2
    )
    output = resample(tf.constant(images), tf.constant(matrices)).numpy()
    for number in range(4):
        farthest = np.abs(matrices[number]) @ [16, 11, 1]
        assert (farthest < [4 * 16, 4 * 11]).all()  # `resample` reflects no farther
        expected = sample_bilinearly(images[number].astype(np.float64), matrices[number])
        assert np.abs(output[number] - expected).max() <= 0.5 + 255 / 256


@pytest.mark.parametrize("off", [-0.4, 0.0, 0.4])
def test_weights_and_values_are_rounded_to_the_nearest(off: float) -> None:
    image = np.zeros((1, 4, 8, 1), np.uint8)
    image[:, :, 1::2] = 255
    weights = np.arange(1, 256)
    matrices = np.tile(np.eye(2, 3), (255, 1, 1))
    matrices[:, 0, 2] = (weights + off) / 256
    output = resample(tf.constant(np.repeat(image, 255, axis=0)), tf.constant(matrices)).numpy()
    np.testing.assert_array_equal(output[:, 0, 0, 0], np.floor(255 * weights / 256 + 0.5))


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (2, 3)])
def test_tiny_images_stay_in_range(height: int, width: int) -> None:
    images = batch(6, height, width)
    output = run(geometry(0.5, 0, 180, 1, 1, 1), images, uniform(6, 9))
    for number in range(6):
        assert output[number].min() >= images[number].min()
        assert output[number].max() <= images[number].max()


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 50))
def test_the_same_draws_give_the_same_pixels_in_any_batch(seed: int, count: int) -> None:
    stage, images, draws = geometry(0.5, 3, 30, 0.2, 0.2, 0.3), batch(60, seed=seed), uniform(60, 9, seed)
    np.testing.assert_array_equal(alone(stage, images[:count], draws[:count]), alone(stage, images, draws)[:count])
