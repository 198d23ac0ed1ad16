"""Loads images with TFDS: `as_dataset` decodes, then each image is cropped, scaled and flipped; uint8 output.

Reads a TFDS directory of the unchanged files, which `evenkeel prepare` writes. Small images are cached after decoding,
as the performance guide of TFDS advises. Large images are not cached: by default, TFDS caches only data sets below 250
MB, and real data sets are larger, although this sample is not.
"""

from __future__ import annotations

import loading
import loading_tf
import tensorflow as tf
import tensorflow_datasets as tfds

from evenkeel.pipeline.config import PrepareConfig
from evenkeel.pipeline.prepare.prepare import prepare as prepare_directory


def prepare(threads: int, folder: str):
    work = loading.read_work(folder)
    directory = str(work.folder / "tfds")
    prepare_directory(PrepareConfig(source=str(work.folder / "files"), outliers="keep"), directory)
    builder = tfds.builder_from_directory(directory)

    def augment(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if work.small:
            return loading_tf.padded_crop(tf.ensure_shape(image, [work.size, work.size, 3]), work.size), label
        return tf.cast(tf.round(loading_tf.random_resized_crop(image, work.size)), tf.uint8), label

    read_config = tfds.ReadConfig(try_autocache=False)
    ds = builder.as_dataset("train", as_supervised=True, shuffle_files=True, read_config=read_config)
    # A shuffle buffer of all large decoded images would take gigabytes.
    ds = ds.cache().shuffle(work.images).repeat() if work.small else ds.repeat().shuffle(256)
    ds = ds.map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    ds = ds.batch(work.batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    ds = ds.with_options(loading_tf.thread_options(threads))
    about = f"tensorflow-datasets {tfds.__version__}, tensorflow {tf.__version__}, uint8 out, {threads} threads"
    work = loading.Work(work.task, work.folder, builder.info.splits["train"].num_examples)
    return loading_tf.serve_dataset(ds, work, about)
