"""Code that the tf.data loaders share: turns that pull batches inside a compiled loop, as training does, and crops.

facts, run = serve_dataset(dataset, work, "tensorflow 2.21.0")
"""

from __future__ import annotations

import loading
import tensorflow as tf


def serve_dataset(
    dataset: tf.data.Dataset, work: loading.Work, about: str, to_levels: tuple[float, float] = (1.0, 0.0)
) -> loading.Facts:
    """Returns (facts, run) for `worker.py`, for an endless data set of (images, labels).

    `to_levels` is (scale, shift), for which images * scale + shift has values from 0 to 255.
    """
    iterator = iter(dataset)
    spec = dataset.element_spec[0]

    @tf.function
    def pull(count: tf.Tensor) -> tf.Tensor:
        images = tf.zeros([work.batch, work.size, work.size, 3], spec.dtype)
        for _ in tf.range(count):
            images, _ = next(iterator)
            images = tf.ensure_shape(images, [work.batch, work.size, work.size, 3])
        return images

    def next_images():
        scale, shift = to_levels
        return pull(tf.constant(1)).numpy() * scale + shift if to_levels != (1.0, 0.0) else pull(tf.constant(1)).numpy()

    def run(steps: int) -> dict[str, float]:
        pull(tf.constant(steps))
        return {}

    return loading.describe_output(work, next_images, about), run


def thread_options(threads: int) -> tf.data.Options:
    """Returns options for a private thread pool with `threads` threads, the number that every loader gets."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    return options


def random_resized_crop(image: tf.Tensor, size: int) -> tf.Tensor:
    """Crops, scales and flips an image uint8 [h, w, 3] -> float32 [size, size, 3], 0 to 255, with TensorFlow's ops."""
    start, extent, _ = tf.image.sample_distorted_bounding_box(
        tf.shape(image),
        bounding_boxes=tf.zeros([1, 0, 4]),
        area_range=loading.AREA,
        aspect_ratio_range=loading.ASPECT,
        min_object_covered=0.0,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    image = tf.image.resize(tf.slice(image, start, extent), [size, size])
    return tf.image.random_flip_left_right(tf.ensure_shape(image, [size, size, 3]))


def padded_crop(image: tf.Tensor, size: int) -> tf.Tensor:
    """Augments an image uint8 [size, size, 3]: reflects the border, crops and flips randomly, cuts out a square."""
    pad, side = loading.PAD, loading.CUTOUT
    image = tf.pad(image, [[pad, pad], [pad, pad], [0, 0]], "REFLECT")
    image = tf.image.random_flip_left_right(tf.image.random_crop(image, [size, size, 3]))
    corner = tf.random.uniform([2], 0, size - side + 1, tf.int32)
    positions = tf.range(size)
    rows, columns = ((positions >= corner[axis]) & (positions < corner[axis] + side) for axis in (0, 1))
    return tf.where((rows[:, None] & columns)[..., None], tf.constant(loading.GRAY, tf.uint8), image)
