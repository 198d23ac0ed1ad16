"""Images in memory, and indexes made of them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.index.features import Features
from evenkeel.pipeline.index.index import COLUMNS, Index
from evenkeel.pipeline.index.pixel_sums import pixel_sums
from evenkeel.pipeline.sources import shapes

# Compiled: one image after the other, operation by operation, would take most of the time of these tests.
compiled_sums = tf.function(pixel_sums, input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])


def index_of(images: list[np.ndarray]) -> Index:
    """An index of these images, as if they were in one shard; labels alternate."""
    sums = [[value.numpy() for value in compiled_sums(tf.constant(image))] for image in images]
    columns = {name: np.zeros((len(images), *shape), kind) for name, (kind, shape) in COLUMNS.items()}
    columns["keep"][:] = True
    columns["record"], columns["label"] = np.arange(len(images)), np.arange(len(images)) % 2
    columns["name"] = np.array([f"image_{number}.png" for number in range(len(images))], np.bytes_)
    for row, (size, *values) in enumerate(sums):
        columns["height"][row], columns["width"][row] = size
        for name, value in zip(("sums", "squares", "laplacian", "fingerprint"), values, strict=True):
            columns[name][row] = value
    return Index(("shard",), (0,), Features("image", "label", "filename", ("a", "b")), columns, {})


def images(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8) for seed in range(count)]


def render_images(count: int, size: int = 24) -> list[np.ndarray]:
    return [shapes.render(seed % 10, size, np.random.default_rng(seed)) for seed in range(count)]
