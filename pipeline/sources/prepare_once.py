"""TFDS's download_and_prepare, run by one process at a time."""

from __future__ import annotations

import glob
import os
import shutil
from typing import Any

import tensorflow as tf

from evenkeel.pipeline.sources.cache_dir import cache_dir
from evenkeel.pipeline.system.file_lock import exclusive_lock


def prepare_once(builder: Any, **options: Any) -> None:
    """Runs `builder.download_and_prepare(**options)` into TFRecords if the data set is not prepared yet.

    Processes take turns. If two processes prepare the same data set at once, TFDS lets one process remove files that
    the other process is writing. `builder.info` may be out of date if another process prepared the data set; open the
    directory again with `tfds.builder_from_directory`.
    """
    directory = str(builder.data_dir)
    # Not builder.is_prepared(), which logs a warning if the directory does not exist.
    if not tf.io.gfile.exists(os.path.join(directory, "dataset_info.json")):
        with exclusive_lock(directory):
            if directory.startswith(os.path.join(cache_dir(), "")):
                # TFDS writes into such directories and renames them at the end. No other process writes one here now.
                parent, name = os.path.split(directory)
                for leftover in glob.glob(os.path.join(glob.escape(parent), f"incomplete.*_{name}")):
                    shutil.rmtree(leftover)
            builder.download_and_prepare(file_format="tfrecord", **options)
