"""Loading with Keras 3: `image_dataset_from_directory`, then random crops of whole batches; uint8 out.

It decodes and scales every image to one size, here 256x256, before anything can be cropped: the crop is taken out of
that and scaled again, for a batch at a time. Small images are cached decoded.
"""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import loading
import loading_tf
import tensorflow as tf

SIDE = 256


def prepare(threads: int, folder: str):
    work = loading.read(folder)
    side = work.size if work.small else SIDE
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
        ds = ds.map(lambda images, labels: (cropped(images, work), labels), num_parallel_calls=tf.data.AUTOTUNE)
    ds = ds.prefetch(tf.data.AUTOTUNE).with_options(loading_tf.options(threads))
    about = f"keras {keras.__version__}, tensorflow {tf.__version__}, uint8 out, {threads} threads"
    return loading_tf.served(ds, work, about)


def cropped(images: tf.Tensor, work: loading.Work) -> tf.Tensor:
    """float32 [b, side, side, 3] -> uint8 [b, size, size, 3]; a box with its left and right exchanged is a flip."""
    batch = work.batch
    area = tf.random.uniform([batch], *loading.AREA)
    low, high = (tf.math.log(ratio) for ratio in loading.ASPECT)
    aspect = tf.exp(tf.random.uniform([batch], low, high))
    tall, wide = tf.minimum(tf.sqrt(area / aspect), 1.0), tf.minimum(tf.sqrt(area * aspect), 1.0)
    top, left = tf.random.uniform([batch]) * (1 - tall), tf.random.uniform([batch]) * (1 - wide)
    flip = tf.random.uniform([batch]) < 0.5
    right = left + wide
    boxes = tf.stack([top, tf.where(flip, right, left), top + tall, tf.where(flip, left, right)], axis=1)
    images = tf.image.crop_and_resize(images, boxes, tf.range(batch), [work.size, work.size])
    return tf.saturate_cast(tf.round(images), tf.uint8)
