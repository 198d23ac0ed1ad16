"""Runs an augmentation alone and inside tf.data, which must agree in everything."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.augment.stage import Stage

KEY = (3, 5)
LARGEST = np.nextafter(np.float32(1), np.float32(0))


def batch(count: int, height: int = 16, width: int = 16, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), np.uint8)


def smooth(count: int, height: int = 16, width: int = 16, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Images that look like some: noise scaled up four times."""
    noise = np.random.default_rng(seed).uniform(0, 256, (count, height // 4 + 2, width // 4 + 2, channels))
    return tf.image.resize(noise, [height, width]).numpy().astype(np.uint8)


def uniform(count: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, columns), np.float32)


def alone(stage: Stage | None, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
    assert stage is not None
    assert draws.shape[1] == stage.draw_columns
    changed = stage(tf.constant(images), tf.constant(draws, tf.float32), tf.constant(KEY))
    assert changed.dtype == tf.uint8
    assert changed.shape == images.shape
    return changed.numpy()


def run(stage: Stage | None, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
    changed = alone(stage, images, draws)
    ds = tf.data.Dataset.from_tensor_slices((images, draws.astype(np.float32))).batch(len(images))
    ds = ds.map(lambda images, draws: stage(images, draws, tf.constant(KEY)))
    assert ds.element_spec == tf.TensorSpec([None, *images.shape[1:]], tf.uint8)
    np.testing.assert_array_equal(next(iter(ds)), changed)
    return changed
