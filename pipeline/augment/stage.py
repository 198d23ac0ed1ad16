"""A `Stage` is one augmentation: a function of images and random numbers, and how many numbers it needs per image.

both = compose([flip(0.5), None, cutout(0.25)])    # None: an augmentation that is off
images = both(images, draws)                       # draws: float32 [batch, both.draw_columns] in [0, 1)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable

import tensorflow as tf

CHUNK_VALUES = 1 << 16  # pixel values that a compiled function gets per call


@dataclasses.dataclass(frozen=True)
class Stage:
    """A function of a batch: uint8 images [b, h, w, c] -> uint8 [b, h, w, c].

    The result for an image depends on its pixels, its draws and the key alone, not on the rest of the batch. The shape
    [h, w, c] must be known statically.

    Attributes:
      draw_columns: number of columns of `draws` that the stage uses.
      apply: (images uint8 [b, h, w, c], draws float32 [b, draw_columns] in [0, 1), key int32 [2]) -> images. The key
        changes with every step and is equal on all replicas: a seed for random numbers that a global batch shares.
    """

    draw_columns: int
    apply: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]

    def __call__(self, images: tf.Tensor, draws: tf.Tensor, key: tf.Tensor = (0, 0)) -> tf.Tensor:
        return self.apply(images, draws, key)


def compose(stages: Iterable[Stage | None]) -> Stage | None:
    """One stage that applies `stages` in order, each with its own columns of draws; None if all of them are None."""
    active = [stage for stage in stages if stage is not None]
    if not active:
        return None
    widths = [stage.draw_columns for stage in active]

    def apply(images: tf.Tensor, draws: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        for stage, stage_draws in zip(active, tf.split(draws, widths, axis=1), strict=True):
            images = stage(images, stage_draws, key)
        return images

    return Stage(sum(widths), apply)


def apply_where(images: tf.Tensor, selected: tf.Tensor, function: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Applies `function` to the images that the mask `selected` (bool [b]) selects; the other images are unchanged.

    `function` is computed for the selected images only.
    """
    branch = tf.cast(selected, tf.int32)
    positions = tf.dynamic_partition(tf.range(tf.size(branch)), branch, 2)
    unchanged, chosen = tf.dynamic_partition(images, branch, 2)
    return tf.ensure_shape(tf.dynamic_stitch(positions, [unchanged, function(chosen)]), images.shape)


def map_in_chunks(function: Callable[..., tf.Tensor], images: tf.Tensor, *others: tf.Tensor) -> tf.Tensor:
    """Computes `function(images, *others)`, uint8 [b, h, w, c], in chunks of one size; every tensor is [b, ...].

    XLA compiles a function again for every shape. With chunks of one size it compiles once, whatever b is. The last
    chunk is padded with zeros.
    """
    size = max(1, CHUNK_VALUES // math.prod(images.shape[1:]))
    padding = -tf.shape(images)[0] % size

    def split_into_chunks(tensor: tf.Tensor) -> tf.Tensor:
        if size > 1:
            tensor = tf.concat([tensor, tf.zeros([padding, *tensor.shape[1:]], tensor.dtype)], axis=0)
        return tf.reshape(tensor, [-1, size, *tensor.shape[1:]])

    chunks = tf.map_fn(
        lambda chunk: function(*chunk),
        tuple(split_into_chunks(tensor) for tensor in (images, *others)),
        fn_output_signature=tf.TensorSpec([size, *images.shape[1:]], tf.uint8),
    )
    return tf.ensure_shape(tf.reshape(chunks, [-1, *images.shape[1:]])[: tf.shape(images)[0]], images.shape)
