"""The chain of augmentations: its order, the effect of each option, and training batches that went through it."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.pipeline.augment.chain import build_augmentation
from evenkeel.pipeline.augment.color import (
    color_jitter,
    equalize,
    posterize,
    sharpness,
)
from evenkeel.pipeline.augment.geometry import flip, geometry
from evenkeel.pipeline.augment.noise import cutout, noise
from evenkeel.pipeline.augment.randaugment import randaugment
from evenkeel.pipeline.augment.stage import Stage
from evenkeel.pipeline.build import training_batches
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from tests.stages import (
    alone,
    batch,
    run,
    uniform,
)

STRENGTHS = {
    "pad_crop": 3, "flip": 0.5, "rotation": 30.0, "translation": 0.2, "shear": 0.2, "zoom": 0.3, "brightness": 0.2,
    "contrast": 0.4, "saturation": 0.5, "hue": 0.2, "sharpness": 0.9, "equalize": 0.5, "posterize": 4, "noise": 8.0,
    "cutout": 0.4, "randaugment_ops": 2,
}  # fmt: skip
COLOR_ONLY = {"saturation", "hue"}
ALL_ON = AugmentConfig(**STRENGTHS)  # type: ignore[arg-type]
ALL_ON_GRAY = dataclasses.replace(ALL_ON, saturation=0.0, hue=0.0)
# Without rotation and the like, crops and flips move pixels in another way than as a part of the whole chain.
OTHERWISE_ALONE = ("pad_crop", "flip")


def test_every_option_has_a_strength_here() -> None:
    decoding = {"random_resized_crop", "randaugment_magnitude"}
    assert {field.name for field in dataclasses.fields(AugmentConfig)} == {*STRENGTHS, *decoding}


def test_augmentation_is_none_if_all_is_off_or_only_the_random_crop_is_on() -> None:
    assert build_augmentation(AugmentConfig()) is None
    assert build_augmentation(AugmentConfig(random_resized_crop=0.5)) is None


@pytest.mark.slow
def test_the_order_is_geometry_randaugment_color_equalize_posterize_sharpness_noise_cutout() -> None:
    whole, images = build_augmentation(ALL_ON), batch(12)
    assert whole is not None
    stages: list[Stage | None] = [
        geometry(0.5, 3, 30, 0.2, 0.2, 0.3),
        randaugment(2, 9),
        color_jitter(0.2, 0.4, 0.5, 0.2),
        equalize(0.5),
        posterize(4),
        sharpness(0.9),
        noise(8),
        cutout(0.4),
    ]
    draws, column = uniform(12, whole.draw_columns), 0
    expected = images
    for stage in stages:
        assert stage is not None
        expected = alone(stage, expected, draws[:, column : column + stage.draw_columns])
        column += stage.draw_columns
    assert column == whole.draw_columns
    np.testing.assert_array_equal(run(whole, images, draws), expected)
    assert (expected != images).any()


def test_a_flip_alone_does_not_resample() -> None:
    images, draws = batch(20), uniform(20, 1)
    np.testing.assert_array_equal(
        run(build_augmentation(AugmentConfig(flip=0.5)), images, draws), alone(flip(0.5), images, draws)
    )


@pytest.mark.parametrize(
    ("strength", "stage"),
    [("saturation", color_jitter), ("hue", color_jitter), ("zoom", geometry), ("pad_crop", geometry)],
)
def test_each_option_reaches_the_argument_of_its_name(strength: str, stage) -> None:
    value = STRENGTHS[strength]
    chained, plain = build_augmentation(AugmentConfig(**{strength: value})), stage(**{strength: value})
    images, draws = batch(8), uniform(8, plain.draw_columns)
    np.testing.assert_array_equal(alone(chained, images, draws), alone(plain, images, draws))
    assert strength in inspect.signature(stage).parameters


# Other tests of the chain have square images, of one and of three channels.
@pytest.mark.slow
@pytest.mark.parametrize(("height", "width", "channels"), [(9, 20, 3), (20, 9, 1)])
def test_the_whole_chain_accepts_images_of_any_shape(height: int, width: int, channels: int) -> None:
    config = ALL_ON if channels == 3 else ALL_ON_GRAY
    stage, images = build_augmentation(config), batch(12, height, width, channels)
    assert stage is not None
    assert (run(stage, images, uniform(12, stage.draw_columns)) != images).any()


@pytest.mark.slow
@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 8))
def test_the_same_draws_give_the_same_pixels_in_any_batch(seed: int, count: int) -> None:
    stage, images = build_augmentation(ALL_ON), batch(8, seed=seed)
    assert stage is not None
    draws = uniform(8, stage.draw_columns, seed)
    np.testing.assert_array_equal(alone(stage, images[:count], draws[:count]), alone(stage, images, draws)[:count])


def training_images(
    data: Dataset, config: DataConfig, replica_shard: ReplicaShard, first: int, count: int
) -> np.ndarray:
    ds = training_batches(data, config, 0, replica_shard, start_step=first).take(count)
    return np.concatenate([images for images, _ in ds.as_numpy_iterator()])


@pytest.fixture(scope="module")
def unchanged_images(small: DataConfig, data: Dataset) -> np.ndarray:
    """The training images of step 3 without augmentation."""
    return training_images(data, small, ReplicaShard(20), 3, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", STRENGTHS)
def test_each_option_changes_training_images_and_replicas_see_the_same(
    small: DataConfig, data: Dataset, unchanged_images: np.ndarray, name: str
) -> None:
    """Most options are compared between replicas by the test of the whole chain, all in one graph."""
    config = dataclasses.replace(small, augment=AugmentConfig(**{name: STRENGTHS[name]}))
    images = training_images(data, config, ReplicaShard(20, 4, 0, 4), 3, 4)
    assert images.dtype == np.uint8
    assert images.shape == (20, 16, 16, 3)
    assert (images != unchanged_images).any()
    if name in OTHERWISE_ALONE:
        np.testing.assert_array_equal(training_images(data, config, ReplicaShard(20), 3, 1), images)


@pytest.mark.parametrize("name", [name for name in STRENGTHS if name not in COLOR_ONLY])
def test_each_option_changes_gray_images(name: str) -> None:
    """Gray images have no saturation or hue; DataConfig refuses these two options."""
    stage, images = build_augmentation(AugmentConfig(**{name: STRENGTHS[name]})), batch(20, channels=1)
    assert stage is not None
    assert (alone(stage, images, uniform(20, stage.draw_columns)) != images).any()


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "workers"), [(3, 2), (1, 1)])
def test_the_whole_chain_gives_the_same_pixels_on_one_replica_as_on_four_per_worker(
    small: DataConfig, data: Dataset, channels: int, workers: int
) -> None:
    augment = ALL_ON if channels == 3 else ALL_ON_GRAY
    config = dataclasses.replace(small, batch_size=24, channels=channels, augment=augment)
    parts = [
        training_images(data, config, ReplicaShard(24, 4 * workers, 4 * worker, 4), 5, 4) for worker in range(workers)
    ]
    whole = training_images(data, config, ReplicaShard(24), 5, 1)
    assert whole.shape == (24, 16, 16, channels)
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_every_step_draws_its_own_noise(small: DataConfig, data: Dataset) -> None:
    config = dataclasses.replace(small, augment=AugmentConfig(noise=30))
    added = training_images(data, config, ReplicaShard(20), 0, 2).astype(float) - training_images(
        data, small, ReplicaShard(20), 0, 2
    )
    rows = added.reshape(2, 20 * 16, 16 * 3)
    alike = np.abs(np.corrcoef(*rows)) > 0.85  # rows of 48 values: not by chance
    within, between = alike[:320, :320], alike[:320, 320:]
    assert within.sum() > 2 * 320  # the images of a step share its strip of noise
    assert between.sum() == 0
