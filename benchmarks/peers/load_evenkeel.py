"""Loading with evenkeel: `training_batches` as `tools.train` reads them; uint8 out."""

from __future__ import annotations

from pathlib import Path

import loading
import loading_tf
import tensorflow as tf

from evenkeel.pipeline.build import training_batches
from evenkeel.pipeline.config import AugmentConfig, DataConfig, PrepareConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.index.shuffle import ReplicaShard
from evenkeel.pipeline.prepare import prepare as preparing


def prepare(threads: int, folder: str):
    work = loading.read(folder)
    source = str(work.folder / "files")
    if work.task == "raw224":
        source = raw_tier(source, work.folder / "evenkeel")
    if work.small:
        size = work.size
        augment = AugmentConfig(pad_crop=loading.PAD, flip=0.5, cutout=loading.CUTOUT / size)
    else:
        augment = AugmentConfig(random_resized_crop=1 - loading.AREA[0], flip=0.5)
    files = work.task not in ("raw224", "small32")
    config = DataConfig(
        source, image_size=work.size, batch_size=work.batch, threads=threads, augment=augment, entries=files
    )
    data = load_dataset(config)
    work = loading.Work(work.task, work.folder, len(data.train))
    batches = training_batches(data, config, seed=0, share=ReplicaShard(work.batch))
    return loading_tf.served(batches, work, f"tensorflow {tf.__version__}, uint8 out, {threads} threads")


def raw_tier(source: str, output: Path) -> str:
    """The files' pixels as a TFDS directory, written once; they are not larger than the tier, so nothing is scaled."""
    if not output.is_dir():
        preparing.prepare(PrepareConfig(source=source, tier="raw:256", outliers="keep"), str(output))
    return str(output)
