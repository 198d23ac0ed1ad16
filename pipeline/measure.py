"""A decoded image -> the whole numbers that the index keeps of it.

    size, sums, squares, laplacian, fingerprint = measure(image)    # inside tf.data, per image

Integer sums are exact, and so is whatever follows from them for any choice of rows: channel means and deviations, an
image's brightness, contrast and sharpness.
"""

from __future__ import annotations

import tensorflow as tf

from pipeline.decode import luma

STRIP = 1 << 18  # pixels worked on at once: 40 bytes each beside the image, which is 3
# int32 holds the sum of as many squared Laplacians, at most 1020^2 each; sums of int64 throughout cost twice as much.
IN_INT32 = 1024


def measure(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """What the index keeps of uint8 [height, width, 3].

    Returns:
      size: int32 [2], height and width.
      sums, squares: int64 [4], over red, green, blue and luma.
      laplacian: int64 [2], sum and sum of squares of 4 y[i, j] - y[i-1, j] - y[i+1, j] - y[i, j-1] - y[i, j+1] over
        the inner pixels of the luma y.
      fingerprint: int64, FarmHash64 of the pixels: equal images have equal ones.
    """
    size = tf.shape(image)[:2]
    height, width = size[0], size[1]
    rows = tf.maximum(1, STRIP // tf.maximum(width, 1))

    def add(y: tf.Tensor, sums: tf.Tensor, squares: tf.Tensor, laplacian: tf.Tensor) -> tuple[tf.Tensor, ...]:
        first = tf.maximum(y - 1, 0)  # the Laplacian looks a row up and a row down
        strip = image[first : y + rows + 1]
        gray = tf.cast(luma(strip), tf.int32)
        pixels = tf.concat([tf.cast(strip, tf.int32), gray], axis=2)[y - first :][:rows]
        edges = 4 * gray[1:-1, 1:-1] - gray[:-2, 1:-1] - gray[2:, 1:-1] - gray[1:-1, :-2] - gray[1:-1, 2:]
        laplacian += tf.concat([_total(edges, 1), _total(edges * edges, 1)], axis=0)
        return y + rows, sums + _total(pixels, 4), squares + _total(pixels * pixels, 4), laplacian

    start = (0, *(tf.zeros([n], tf.int64) for n in (4, 4, 2)))
    _, sums, squares, laplacian = tf.while_loop(lambda y, *_: y < height, add, start, parallel_iterations=1)
    fingerprint = tf.raw_ops.Fingerprint(data=tf.reshape(image, [1, -1]), method="farmhash64")
    return size, sums, squares, laplacian, tf.bitcast(fingerprint[0], tf.int64)


def _total(values: tf.Tensor, channels: int) -> tf.Tensor:
    """int64 [channels]: sums of int32 [..., channels] over all else."""
    values = tf.reshape(values, [-1, channels])
    values = tf.pad(values, [[0, -tf.shape(values)[0] % IN_INT32], [0, 0]])
    partial = tf.reduce_sum(tf.reshape(values, [-1, IN_INT32, channels]), axis=1)
    return tf.reduce_sum(tf.cast(partial, tf.int64), axis=0)
