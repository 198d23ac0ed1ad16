"""Loads images with evenkeel: `training_batches`, as `evenkeel train` uses it; uint8 output."""

from __future__ import annotations

from pathlib import Path

import loading
import loading_tf
import tensorflow as tf

from evenkeel.pipeline.build import training_batches
from evenkeel.pipeline.config import AugmentConfig, DataConfig, PrepareConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.prepare.prepare import prepare as prepare_data


def prepare(threads: int, folder: str):
    work = loading.read_work(folder)
    source = str(work.folder / "files")
    if work.task == "raw224":
        source = write_raw_tier(source, work.folder / "evenkeel")
    if work.small:
        size = work.size
        augment = AugmentConfig(pad_crop=loading.PAD, flip=0.5, cutout=loading.CUTOUT / size)
    else:
        augment = AugmentConfig(random_resized_crop=1 - loading.AREA[0], flip=0.5)
    jpeg_files = work.task not in ("raw224", "small32")
    config = DataConfig(
        source, image_size=work.size, batch_size=work.batch, threads=threads, augment=augment, entries=jpeg_files
    )
    data = load_dataset(config)
    work = loading.Work(work.task, work.folder, len(data.train))
    batches = training_batches(data, config, seed=0, replica_shard=ReplicaShard(work.batch))
    return loading_tf.serve_dataset(batches, work, f"tensorflow {tf.__version__}, uint8 out, {threads} threads")


def write_raw_tier(source: str, output: Path) -> str:
    """Writes the pixels of the files as a TFDS directory, once. No file is larger than the tier, so none is scaled."""
    if not output.is_dir():
        prepare_data(PrepareConfig(source=source, tier="raw:256", outliers="keep"), str(output))
    return str(output)
