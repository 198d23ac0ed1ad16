"""A source, prepared and chosen from: what the chain in `build` starts with.

data = open_data(DataConfig(source="cifar10"))
data.train, data.validation    # rows of the index
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
from absl import logging

from evenkeel.pipeline import selection
from evenkeel.pipeline.config import DataConfig, PrepareConfig
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.index import Index, open_index
from evenkeel.pipeline.jpeg.seek_index import with_entries
from evenkeel.pipeline.prepare import prepare
from evenkeel.pipeline.reading.reader import use_mapping
from evenkeel.pipeline.sources import resolve
from evenkeel.pipeline.system import file_lock

NAMED = 10  # skipped images named in the log; all of them stand in `Data.skipped`


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set ready to be read: training and validation rows, class names, normalization constants."""

    train: Index
    validation: Index
    classes: tuple[str, ...]
    mean: list[float]
    std: list[float]
    class_counts: np.ndarray  # training images of each class
    skipped: tuple[str, ...]  # a line for each image that cannot be used: name and reason


def load_dataset(config: DataConfig) -> Dataset:
    """Prepares the source where needed, opens its index and chooses the splits.

    Raises:
      UsageError: source or split unusable, fewer than two classes, or too many corrupt images.
    """
    builder = resolve.resolve(in_tier(config))
    index = open_index(builder, resolve.cache_dir(), config.max_pixels)
    if config.entries and use_mapping(config, index):
        index = with_entries(index, str(builder.data_dir), resolve.cache_dir())
    elif config.entries:
        logging.warning(
            "data.entries: %s is streamed, and JPEGs are read whole: copy it to a local disk", config.source
        )
    splits = {"train": config.train_split, "validation": resolve.validation_split(builder, config)}
    chosen = {use: _usable(index.split(builder, split), split, config) for use, split in splits.items()}
    if config.drop:
        chosen["train"] = _selected(chosen["train"], chosen["validation"], index, config)
    train = chosen["train"].kept
    mean, std = (
        train.channel_statistics(config.channels)
        if config.normalize
        else ([0.0] * config.channels, [1.0] * config.channels)
    )
    return Dataset(
        train=train,
        validation=chosen["validation"].kept,
        classes=index.features.classes,
        mean=mean,
        std=std,
        class_counts=np.bincount(train.columns["label"], minlength=len(index.features.classes)),
        skipped=tuple(f"{split}: {line}" for use, split in splits.items() for line in chosen[use].skipped),
    )


def in_tier(config: DataConfig) -> DataConfig:
    """`config` with its source prepared in the storage tier that `data.cache` names, if it names one: once, on disk."""
    if ":" not in config.cache:
        return config
    with resolve.told_in_one_line(config.source):
        name = f"{resolve.state(config)}-{config.cache.replace(':', '-')}"
    output = os.path.join(resolve.cache_dir(), "tiers", name)
    with file_lock.exclusive_lock(output):
        if os.path.exists(output):
            return dataclasses.replace(config, source=output)
        wanted = PrepareConfig(
            source=config.source,
            data_dir=config.data_dir,
            tier=config.cache,
            max_pixels=config.max_pixels,
            max_corrupt_fraction=config.max_corrupt_fraction,
            outliers="keep",
            threads=config.threads,
            shapes=config.shapes,
        )
        prepare.prepare(wanted, output)
    return dataclasses.replace(config, source=output)


def _selected(train: Index, validation: Index, index: Index, config: DataConfig) -> Index:
    """`train` without what `data.drop` names, which is counted in the log and stands among the skipped ones."""
    # Numbered by all rows of the split, corrupt ones too; those are never chosen.
    kept = np.flatnonzero(train.columns["keep"])
    unwanted = selection.unwanted(config.drop, train.kept, validation.kept, index)
    if len(unwanted) == len(kept):
        raise UsageError(f"data.drop ({config.drop}) leaves no training image: drop less.")
    logging.warning("%d of %d training images are dropped (data.drop=%s)", len(unwanted), len(kept), config.drop)
    return train.drop({int(kept[row]): reason for row, reason in unwanted.items()})


def _usable(index: Index, split: str, config: DataConfig) -> Index:
    """`index` itself, with its corrupt images counted and named; stops when there are too many."""
    corrupt = index.corrupt.skipped
    if corrupt:
        for line in corrupt[:NAMED]:
            logging.warning("skipped in split %s: %s", split, line)
        logging.warning("%d of %d images of split %s are skipped", len(corrupt), len(index), split)
    if len(corrupt) > config.max_corrupt_fraction * len(index):
        raise UsageError(
            f"{len(corrupt)} of {len(index)} images of split {split!r} are corrupt, more than"
            f" data.max_corrupt_fraction ({config.max_corrupt_fraction}) allows; the first is {corrupt[0]}."
            " Mend them or raise that fraction."
        )
    if len(corrupt) == len(index):
        raise UsageError(f"split {split!r} holds no image that can be decoded; the first is {corrupt[0]}.")
    return index
