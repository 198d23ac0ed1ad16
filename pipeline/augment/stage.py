"""What an augmentation is: a function of images and of uniform numbers, which says how many of these it needs.

both = chain([flip(0.5), None, cutout(0.25)])    # None: an augmentation that is off
images = both(images, draws)                     # draws: float32 [batch, both.columns] in [0, 1)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable

import tensorflow as tf

VALUES = 1 << 16  # in a chunk of images that compiled code gets at once


@dataclasses.dataclass(frozen=True)
class Stage:
    """uint8 images [b, h, w, c] -> the same shape and type, changed as uniforms float32 [b, columns] in [0, 1) say.

    `change` also gets the step's `key` (int32 [2]), for numbers that all images of a global batch share: equal on all
    replicas. Same draws and key, same pixels, whatever else is in the batch; h, w and c must be known statically.
    """

    columns: int
    change: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]

    def __call__(self, images: tf.Tensor, draws: tf.Tensor, key: tf.Tensor = (0, 0)) -> tf.Tensor:
        return self.change(images, draws, key)


def chain(stages: Iterable[Stage | None]) -> Stage | None:
    """One stage that applies `stages` in order, each to columns of its own; None where all of them are."""
    used = [stage for stage in stages if stage is not None]
    if not used:
        return None
    widths = [stage.columns for stage in used]

    def change(images: tf.Tensor, draws: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        for stage, own in zip(used, tf.split(draws, widths, axis=1), strict=True):
            images = stage(images, own, key)
        return images

    return Stage(sum(widths), change)


def where_drawn(images: tf.Tensor, drawn: tf.Tensor, change: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """`change` of the images for which `drawn` (bool [b]) holds; computed for these only."""
    branch = tf.cast(drawn, tf.int32)
    places = tf.dynamic_partition(tf.range(tf.size(branch)), branch, 2)
    left, chosen = tf.dynamic_partition(images, branch, 2)
    return tf.ensure_shape(tf.dynamic_stitch(places, [left, change(chosen)]), images.shape)


def in_chunks(compiled: Callable[..., tf.Tensor], images: tf.Tensor, *others: tf.Tensor) -> tf.Tensor:
    """`compiled(images, *others)`, some images at a time: all tensors are [b, ...], and so is uint8 the result.

    For functions that XLA compiles, which it does for every shape anew: chunks are of one size, whatever b is, so that
    it is once. The last chunk is filled up with zeros.
    """
    size = max(1, VALUES // math.prod(images.shape[1:]))
    missing = -tf.shape(images)[0] % size

    def chunks(of: tf.Tensor) -> tf.Tensor:
        if size > 1:
            of = tf.concat([of, tf.zeros([missing, *of.shape[1:]], of.dtype)], axis=0)
        return tf.reshape(of, [-1, size, *of.shape[1:]])

    done = tf.map_fn(
        lambda chunk: compiled(*chunk),
        tuple(chunks(of) for of in (images, *others)),
        fn_output_signature=tf.TensorSpec([size, *images.shape[1:]], tf.uint8),
    )
    return tf.ensure_shape(tf.reshape(done, [-1, *images.shape[1:]])[: tf.shape(images)[0]], images.shape)
