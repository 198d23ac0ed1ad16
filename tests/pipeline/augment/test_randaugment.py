"""RandAugment: every operation against the plain one, each drawn equally often, one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.pipeline.augment.color import (
    affine,
    equalized,
    means,
    posterized,
    sharpened,
)
from evenkeel.pipeline.augment.geometry import resample, sampling_matrices
from evenkeel.pipeline.augment.randaugment import OPERATIONS, one_operation, randaugment
from tests.stages import (
    LARGEST,
    alone,
    batch,
    run,
    smooth,
    uniform,
)

NAMES = list(OPERATIONS)


def drawing(name: str, count: int, sign: int = 1) -> np.ndarray:
    """Draws of `count` images that all get `name`."""
    middle = (NAMES.index(name) + 0.5) / len(NAMES)
    return np.tile(np.array([middle, 0.75 if sign > 0 else 0.25], np.float32), (count, 1))


def moved(**arguments: float) -> Callable[[np.ndarray], tf.Tensor]:
    def change(images: np.ndarray) -> tf.Tensor:
        matrices = sampling_matrices(*images.shape[1:3], **arguments)
        return resample(tf.constant(images), tf.repeat(matrices, len(images), axis=0))

    return change


def recoloured(scale: float = 1, saturation: float = 1, around_mean: bool = False) -> Callable[[np.ndarray], tf.Tensor]:
    def change(images: np.ndarray) -> tf.Tensor:
        each = tf.ones(len(images), tf.float64)
        offset = (1 - scale) * means(tf.constant(images)) if around_mean else 0 * each
        return affine(tf.constant(images), scale * each, offset, saturation * each, 0 * each)

    return change


def expected(name: str, strength: float, side: int) -> Callable[[np.ndarray], tf.Tensor]:
    """What operation `name` does at signed `strength`, by the ranges of AutoAugment's table 6."""
    return {
        "identity": tf.constant,
        "rotate": moved(angle=math.radians(30 * strength)),
        "shear_x": moved(shear_x=0.3 * strength),
        "shear_y": moved(shear_y=0.3 * strength),
        "translate_x": moved(x=0.45 * strength * side),
        "translate_y": moved(y=0.45 * strength * side),
        "brightness": recoloured(scale=1 + 0.9 * strength),
        "contrast": recoloured(scale=1 + 0.9 * strength, around_mean=True),
        "saturation": recoloured(saturation=1 + 0.9 * strength),
        "sharpness": lambda images: sharpened(tf.constant(images), tf.fill([len(images)], 1 + 0.9 * strength)),
        "posterize": lambda images: posterized(tf.constant(images), tf.fill([len(images)], round(4 * abs(strength)))),
        "equalize": equalized,
    }[name]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", NAMES)
def test_an_operation_is_the_plain_one_at_its_strength(name: str, sign: int) -> None:
    images = smooth(3)
    found = run(one_operation(0.8), images, drawing(name, 3, sign))
    np.testing.assert_array_equal(found, expected(name, 0.8 * sign, 16)(images))
    assert (found != images).any() == (name != "identity")


def test_each_image_gets_its_own_operation() -> None:
    images = smooth(len(NAMES), 20, 20)
    draws = np.concatenate([drawing(name, 1) for name in NAMES])
    found = run(one_operation(0.9), images, draws)
    for number, name in enumerate(NAMES):
        one = images[number : number + 1]
        np.testing.assert_array_equal(found[number : number + 1], expected(name, 0.9, 20)(one))


def test_rounds_follow_each_other_with_draws_of_their_own() -> None:
    images, draws = smooth(30), uniform(30, 6)
    step = one_operation(0.7)
    found = images
    for first in (0, 2, 4):
        found = alone(step, found, draws[:, first : first + 2])
    np.testing.assert_array_equal(run(randaugment(3, 7), images, draws), found)


def test_operations_are_drawn_equally_often_and_signs_too() -> None:
    # A ramp to the right, dark enough not to saturate: brightness and shifts show what was drawn.
    images = np.tile(np.arange(40, 104, 4, dtype=np.uint8)[:, None, None].repeat(16, 1), (6000, 1, 1, 1))
    images = images.reshape(6000, 16, 16, 1)
    found = alone(one_operation(1), images, uniform(6000, 2))
    kinds = {name: expected(name, 1, 16)(images[:1]).numpy()[0] for name in ("translate_y", "brightness")}
    kinds["darker"] = expected("brightness", -1, 16)(images[:1]).numpy()[0]
    kinds["up"] = expected("translate_y", -1, 16)(images[:1]).numpy()[0]
    for kind in kinds.values():
        assert abs((found == kind).all(axis=(1, 2, 3)).sum() - 250) < 75  # binomial, deviation 15.5


@pytest.mark.parametrize(("height", "width", "channels"), [(16, 16, 1), (9, 20, 3), (20, 9, 1), (3, 3, 3)])
def test_any_shape_of_image_goes_through(height: int, width: int, channels: int) -> None:
    images, draws = batch(40, height, width, channels), uniform(40, 4)
    assert (run(randaugment(2, 9), images, draws) != images).any()


def test_gray_images_have_no_saturation_to_change() -> None:
    images = batch(2, channels=1)
    np.testing.assert_array_equal(run(one_operation(1), images, drawing("saturation", 2)), images)


def test_magnitude_0_leaves_all_but_the_equalized() -> None:
    images, draws = smooth(60), uniform(60, 2)
    found = run(randaugment(1, 0), images, draws)
    equalize = np.floor(draws[:, 0] * len(NAMES)) == NAMES.index("equalize")
    assert 0 < equalize.sum() < 60
    np.testing.assert_array_equal(found[~equalize], images[~equalize])


def test_no_operations_are_no_stage() -> None:
    assert randaugment(0, 9) is None


def test_the_largest_draws_are_in_range() -> None:
    images = batch(1)
    found = alone(one_operation(0.5), images, np.full((1, 2), LARGEST))
    np.testing.assert_array_equal(found, equalized(images))


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 30))
def test_the_same_draws_give_the_same_pixels_whatever_else_is_in_the_batch(seed: int, count: int) -> None:
    stage, images, draws = randaugment(2, 9), batch(30, 33, 31, seed=seed), uniform(30, 4, seed)
    np.testing.assert_array_equal(alone(stage, images[:count], draws[:count]), alone(stage, images, draws)[:count])
