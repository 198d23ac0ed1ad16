"""Images in memory, and indexes made of them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from PIL import Image

from evenkeel.pipeline.images.perceptual_hash import hash_pictures, shrink_to_gray
from evenkeel.pipeline.index.features import Features
from evenkeel.pipeline.index.index import COLUMNS, Index
from evenkeel.pipeline.index.pixel_sums import pixel_sums
from evenkeel.pipeline.sources import shapes

IMAGE = [tf.TensorSpec([None, None, 3], tf.uint8)]
# Compiled: one image after the other, operation by operation, would take most of the time of these tests.
compiled_sums = tf.function(pixel_sums, input_signature=IMAGE)
compiled_gray = tf.function(shrink_to_gray, input_signature=IMAGE)


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
        columns["perceptual_hash"][row] = hash_image(images[row])
    return Index(("shard",), (0,), Features("image", "label", "filename", ("a", "b")), columns, {})


def hash_image(image: np.ndarray) -> np.ndarray:
    """The perceptual hash of one image, int64 [4]."""
    return hash_pictures(compiled_gray(tf.constant(image)).numpy()[None])[0]


def images(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8) for seed in range(count)]


def enlarge(image: np.ndarray, factor: int = 3) -> np.ndarray:
    """The image with each side `factor` times as long, uint8."""
    size = image.shape[1] * factor, image.shape[0] * factor
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def render_images(count: int, size: int = 24) -> list[np.ndarray]:
    return [shapes.render(seed % 10, size, np.random.default_rng(seed)) for seed in range(count)]
