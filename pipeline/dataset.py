"""A data set to train on: opens a source, indexes its images and selects the rows of the splits.

data = load_dataset(DataConfig(source="tfds:cifar10"))
data.train, data.validation    # rows of the index, for `build`
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
from absl import logging

from evenkeel.pipeline import selection
from evenkeel.pipeline.config import DataConfig, PrepareConfig
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.storage import open_index
from evenkeel.pipeline.jpeg.seek_index import open_seek_index
from evenkeel.pipeline.prepare import prepare
from evenkeel.pipeline.reading.reader import use_memory_map
from evenkeel.pipeline.sources import resolve
from evenkeel.pipeline.sources.cache_dir import cache_dir
from evenkeel.pipeline.sources.splits import validation_split
from evenkeel.pipeline.system import file_lock

MAX_LOGGED_IMAGES = 10  # skipped images that the log names; `Dataset.skipped` has all of them


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set that is ready to be read.

        data = evenkeel.load_dataset(evenkeel.DataConfig(source="photos"))

    Attributes:
      train: rows of the training split that can be used.
      validation: rows of the validation split that can be used.
      classes: names of the classes, by label.
      mean: mean of each channel over the training pixels, 0 to 255; zeros without `data.normalize`.
      std: standard deviation of each channel over the training pixels; ones without `data.normalize`.
      class_counts: int64 [classes], training images of each class.
      skipped: a line for each image that is not used: split, name and reason.
    """

    train: Index
    validation: Index
    classes: tuple[str, ...]
    mean: list[float]
    std: list[float]
    class_counts: np.ndarray
    skipped: tuple[str, ...]


def load_dataset(config: DataConfig) -> Dataset:
    """The data set of `config`: prepares the source if needed, opens its index and selects the splits.

        data = evenkeel.load_dataset(evenkeel.DataConfig(source="photos"))
        print(data.classes, len(data.train), len(data.validation))

    Raises:
      UsageError: the source or a split cannot be used, it has fewer than two classes, or too many images are corrupt.
    """
    builder = resolve.resolve(prepare_storage_tier(config))
    index = open_index(builder, cache_dir(), config.max_pixels)
    if config.entries and use_memory_map(config, index):
        index = open_seek_index(index, str(builder.data_dir), cache_dir())
    elif config.entries:
        logging.warning(
            "data.entries has no effect: %s is streamed, and JPEGs are read whole; copy it to a local disk",
            config.source,
        )
    splits = {"train": config.train_split, "validation": validation_split(builder, config)}
    rows = {use: _check_corrupt(index.split(builder, split), split, config) for use, split in splits.items()}
    if config.drop:
        rows["train"] = _drop_rows(rows["train"], rows["validation"], index, config)
    train = rows["train"].kept_rows
    mean, std = (
        train.channel_statistics(config.channels)
        if config.normalize
        else ([0.0] * config.channels, [1.0] * config.channels)
    )
    return Dataset(
        train=train,
        validation=rows["validation"].kept_rows,
        classes=index.features.classes,
        mean=mean,
        std=std,
        class_counts=np.bincount(train.columns["label"], minlength=len(index.features.classes)),
        skipped=tuple(f"{split}: {line}" for use, split in splits.items() for line in rows[use].skip_reasons),
    )


def prepare_storage_tier(config: DataConfig) -> DataConfig:
    """`config` with its source prepared in the storage tier that `data.cache` names, once, in the cache directory.

    `config` itself if `data.cache` names no storage tier.
    """
    if ":" not in config.cache:
        return config
    with resolve.convert_errors(config.source):
        name = f"{resolve.source_fingerprint(config)}-{config.cache.replace(':', '-')}"
    output = os.path.join(cache_dir(), "tiers", name)
    with file_lock.exclusive_lock(output):
        if os.path.exists(output):
            return dataclasses.replace(config, source=output)
        prepare_config = PrepareConfig(
            source=config.source,
            data_dir=config.data_dir,
            tier=config.cache,
            max_pixels=config.max_pixels,
            max_corrupt_fraction=config.max_corrupt_fraction,
            outliers="keep",
            threads=config.threads,
            shapes=config.shapes,
        )
        prepare.prepare(prepare_config, output)
    return dataclasses.replace(config, source=output)


def _drop_rows(train: Index, validation: Index, index: Index, config: DataConfig) -> Index:
    """`train` without the rows on the drop list of `data.drop`; the log counts them."""
    # The drop list numbers the rows that are kept; `kept` has their numbers among all rows of the split.
    kept = np.flatnonzero(train.columns["keep"])
    dropped = selection.drop_list(config.drop, train.kept_rows, validation.kept_rows, index)
    if len(dropped) == len(kept):
        raise UsageError(f"data.drop ({config.drop}) leaves no training image: drop less.")
    logging.warning("%d of %d training images are dropped (data.drop=%s)", len(dropped), len(kept), config.drop)
    return train.drop({int(kept[row]): reason for row, reason in dropped.items()})


def _check_corrupt(index: Index, split: str, config: DataConfig) -> Index:
    """`index` itself; the log counts and names its corrupt images.

    Raises:
      UsageError: more than `data.max_corrupt_fraction` of the images are corrupt, or all of them.
    """
    corrupt = index.corrupt_rows.skip_reasons
    if corrupt:
        for line in corrupt[:MAX_LOGGED_IMAGES]:
            logging.warning("skipped in split %s: %s", split, line)
        logging.warning("%d of %d images of split %s are skipped", len(corrupt), len(index), split)
    if len(corrupt) > config.max_corrupt_fraction * len(index):
        raise UsageError(
            f"{len(corrupt)} of {len(index)} images of split {split!r} are corrupt, more than"
            f" data.max_corrupt_fraction ({config.max_corrupt_fraction}) allows; the first is {corrupt[0]}."
            " Repair them or raise that fraction."
        )
    if len(corrupt) == len(index):
        raise UsageError(
            f"split {split!r} holds no image that can be decoded; the first is {corrupt[0]}. Repair the images or"
            " choose another split."
        )
    return index
