"""Loads images with tf.data as tutorials do: every operation per image, z-scores in the pipeline; float32 output.

The whole image is decoded, then cropped, scaled, flipped, and made darker or lighter. Small images are kept decoded in
memory. The loaders with uint8 output leave brightness and z-scores to the device, or compute them for a whole batch.
This loader shows the cost of these two operations in the input pipeline.
"""

from __future__ import annotations

import loading
import loading_tf
import tensorflow as tf

MEAN, DEVIATION = 127.5, 73.9
BRIGHTNESS = 0.1 * 255


def prepare(threads: int, folder: str):
    work = loading.read_work(folder)
    if work.small:
        images, labels = work.small_images(), work.labels()
    else:
        images, labels = work.paths()

    def augment(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if work.small:
            image = tf.cast(loading_tf.padded_crop(image, work.size), tf.float32)
        else:
            image = tf.io.decode_jpeg(tf.io.read_file(image), channels=3)
            image = loading_tf.random_resized_crop(image, work.size)
            image = tf.image.random_brightness(image, BRIGHTNESS)
        return (image - MEAN) / DEVIATION, label

    ds = tf.data.Dataset.from_tensor_slices((images, labels))
    ds = ds.shuffle(work.images).repeat()
    ds = ds.map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    ds = ds.batch(work.batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    ds = ds.with_options(loading_tf.thread_options(threads))
    about = f"tensorflow {tf.__version__}, float32 out, {threads} threads"
    return loading_tf.serve_dataset(ds, work, about, (DEVIATION, MEAN))
