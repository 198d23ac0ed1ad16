"""RandAugment: each operation equals the plain function, is drawn equally often, and follows the one before."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.pipeline.augment.color import (
    adjust_colors,
    adjust_sharpness,
    clear_low_bits,
    equalize_histograms,
    image_means,
)
from evenkeel.pipeline.augment.geometry import resample, sampling_matrices
from evenkeel.pipeline.augment.randaugment import OPERATIONS, randaugment, random_operation
from tests.stages import (
    LARGEST,
    alone,
    batch,
    run,
    smooth,
    uniform,
)

NAMES = list(OPERATIONS)


def draws_of(name: str, count: int, sign: int = 1) -> np.ndarray:
    """float32 [count, 2]: draws with which every image gets operation `name`."""
    middle = (NAMES.index(name) + 0.5) / len(NAMES)
    return np.tile(np.array([middle, 0.75 if sign > 0 else 0.25], np.float32), (count, 1))


def move_pixels(**arguments: float) -> Callable[[np.ndarray], tf.Tensor]:
    def change(images: np.ndarray) -> tf.Tensor:
        matrices = sampling_matrices(*images.shape[1:3], **arguments)
        return resample(tf.constant(images), tf.repeat(matrices, len(images), axis=0))

    return change


def change_colors(
    scale: float = 1, saturation: float = 1, around_mean: bool = False
) -> Callable[[np.ndarray], tf.Tensor]:
    def change(images: np.ndarray) -> tf.Tensor:
        each = tf.ones(len(images), tf.float64)
        offset = (1 - scale) * image_means(tf.constant(images)) if around_mean else 0 * each
        return adjust_colors(tf.constant(images), scale * each, offset, saturation * each, 0 * each)

    return change


def plain_operation(name: str, strength: float, side: int) -> Callable[[np.ndarray], tf.Tensor]:
    """The function of operation `name` at signed `strength`, with the ranges of AutoAugment's table 6."""
    return {
        "identity": tf.constant,
        "rotate": move_pixels(angle=math.radians(30 * strength)),
        "shear_x": move_pixels(shear_x=0.3 * strength),
        "shear_y": move_pixels(shear_y=0.3 * strength),
        "translate_x": move_pixels(x=0.45 * strength * side),
        "translate_y": move_pixels(y=0.45 * strength * side),
        "brightness": change_colors(scale=1 + 0.9 * strength),
        "contrast": change_colors(scale=1 + 0.9 * strength, around_mean=True),
        "saturation": change_colors(saturation=1 + 0.9 * strength),
        "sharpness": lambda images: adjust_sharpness(tf.constant(images), tf.fill([len(images)], 1 + 0.9 * strength)),
        "posterize": lambda images: clear_low_bits(
            tf.constant(images), tf.fill([len(images)], round(4 * abs(strength)))
        ),
        "equalize": equalize_histograms,
    }[name]


@functools.cache
def outputs_of_all_operations() -> np.ndarray:
    """uint8 [name, sign, 3, 16, 16, 3]: three images under every operation, all made in one batch."""
    draws = np.concatenate([draws_of(name, 3, sign) for name in NAMES for sign in (1, -1)])
    images = np.tile(smooth(3), (2 * len(NAMES), 1, 1, 1))
    return run(random_operation(0.8), images, draws).reshape(len(NAMES), 2, 3, 16, 16, 3)


@pytest.mark.slow
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", NAMES)
def test_an_operation_equals_the_plain_function_at_its_strength(name: str, sign: int) -> None:
    images = smooth(3)
    output = outputs_of_all_operations()[NAMES.index(name), int(sign < 0)]
    np.testing.assert_array_equal(output, plain_operation(name, 0.8 * sign, 16)(images))
    assert (output != images).any() == (name != "identity")


@pytest.mark.slow
def test_each_image_gets_its_own_operation() -> None:
    images = smooth(len(NAMES), 20, 20)
    draws = np.concatenate([draws_of(name, 1) for name in NAMES])
    output = run(random_operation(0.9), images, draws)
    for number, name in enumerate(NAMES):
        image = images[number : number + 1]
        np.testing.assert_array_equal(output[number : number + 1], plain_operation(name, 0.9, 20)(image))


@pytest.mark.slow
def test_operations_follow_each_other_each_with_its_own_draws() -> None:
    images, draws = smooth(30), uniform(30, 6)
    operation = random_operation(0.7)
    output = images
    for first in (0, 2, 4):
        output = alone(operation, output, draws[:, first : first + 2])
    np.testing.assert_array_equal(run(randaugment(3, 7), images, draws), output)


def test_operations_and_signs_are_drawn_equally_often() -> None:
    # A ramp, dark enough not to saturate: brightness and vertical shifts show which operation was drawn.
    images = np.tile(np.arange(40, 104, 4, dtype=np.uint8)[:, None, None].repeat(16, 1), (6000, 1, 1, 1))
    images = images.reshape(6000, 16, 16, 1)
    output = alone(random_operation(1), images, uniform(6000, 2))
    kinds = {name: plain_operation(name, 1, 16)(images[:1]).numpy()[0] for name in ("translate_y", "brightness")}
    kinds["darker"] = plain_operation("brightness", -1, 16)(images[:1]).numpy()[0]
    kinds["up"] = plain_operation("translate_y", -1, 16)(images[:1]).numpy()[0]
    for kind in kinds.values():
        assert abs((output == kind).all(axis=(1, 2, 3)).sum() - 250) < 75  # binomial, deviation 15.5


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width", "channels"), [(16, 16, 1), (9, 20, 3), (20, 9, 1), (3, 3, 3)])
def test_images_of_any_shape_are_accepted(height: int, width: int, channels: int) -> None:
    images, draws = batch(40, height, width, channels), uniform(40, 4)
    assert (run(randaugment(2, 9), images, draws) != images).any()


def test_saturation_leaves_gray_images_unchanged() -> None:
    images = batch(2, channels=1)
    np.testing.assert_array_equal(run(random_operation(1), images, draws_of("saturation", 2)), images)


def test_magnitude_0_changes_only_the_images_that_draw_equalize() -> None:
    images, draws = smooth(60), uniform(60, 2)
    output = run(randaugment(1, 0), images, draws)
    equalize = np.floor(draws[:, 0] * len(NAMES)) == NAMES.index("equalize")
    assert 0 < equalize.sum() < 60
    np.testing.assert_array_equal(output[~equalize], images[~equalize])


def test_zero_operations_give_no_stage() -> None:
    assert randaugment(0, 9) is None


def test_the_largest_draws_choose_the_last_operation() -> None:
    images = batch(1)
    output = alone(random_operation(0.5), images, np.full((1, 2), LARGEST))
    np.testing.assert_array_equal(output, equalize_histograms(images))


@pytest.mark.slow
@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 30))
def test_the_same_draws_give_the_same_pixels_in_any_batch(seed: int, count: int) -> None:
    stage, images, draws = randaugment(2, 9), batch(30, 33, 31, seed=seed), uniform(30, 4, seed)
    np.testing.assert_array_equal(alone(stage, images[:count], draws[:count]), alone(stage, images, draws)[:count])
