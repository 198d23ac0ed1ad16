"""Loads images with Keras 3: `image_dataset_from_directory`, then random crops of whole batches; uint8 output.

Keras decodes every image and scales it to one size, here 256x256, before the image can be cropped. The scaled images
are then cropped and scaled again, one batch at a time. Small images are cached after decoding.
"""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import loading
import loading_tf
import tensorflow as tf

DECODED_SIDE = 256


def prepare(threads: int, folder: str):
    work = loading.read_work(folder)
    side = work.size if work.small else DECODED_SIDE
    ds = keras.utils.image_dataset_from_directory(
        str(work.files), image_size=(side, side), batch_size=None, shuffle=not work.small, seed=0, verbose=False
    )
    if work.small:
        ds = ds.map(lambda image, label: (tf.cast(tf.round(image), tf.uint8), label)).cache()
        ds = ds.shuffle(work.images).repeat()
        ds = ds.map(
            lambda image, label: (loading_tf.padded_crop(image, work.size), label), num_parallel_calls=tf.data.AUTOTUNE
        )
        ds = ds.batch(work.batch, drop_remainder=True)
    else:
        ds = ds.repeat().batch(work.batch, drop_remainder=True)
        ds = ds.map(lambda images, labels: (random_crops(images, work), labels), num_parallel_calls=tf.data.AUTOTUNE)
    ds = ds.prefetch(tf.data.AUTOTUNE).with_options(loading_tf.thread_options(threads))
    about = f"keras {keras.__version__}, tensorflow {tf.__version__}, uint8 out, {threads} threads"
    return loading_tf.serve_dataset(ds, work, about)


def random_crops(images: tf.Tensor, work: loading.Work) -> tf.Tensor:
    """Crops and flips images float32 [b, side, side, 3] -> uint8 [b, size, size, 3]; a box with left > right flips."""
    batch = work.batch
    area = tf.random.uniform([batch], *loading.AREA)
    low, high = (tf.math.log(ratio) for ratio in loading.ASPECT)
    aspect = tf.exp(tf.random.uniform([batch], low, high))
    height, width = tf.minimum(tf.sqrt(area / aspect), 1.0), tf.minimum(tf.sqrt(area * aspect), 1.0)
    top, left = tf.random.uniform([batch]) * (1 - height), tf.random.uniform([batch]) * (1 - width)
    flip = tf.random.uniform([batch]) < 0.5
    right = left + width
    boxes = tf.stack([top, tf.where(flip, right, left), top + height, tf.where(flip, left, right)], axis=1)
    images = tf.image.crop_and_resize(images, boxes, tf.range(batch), [work.size, work.size])
    return tf.saturate_cast(tf.round(images), tf.uint8)
