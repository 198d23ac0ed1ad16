"""A data set to train on: opens a source, indexes its images and selects the rows of the splits.

data = load_dataset(DataConfig(source="tfds:cifar10"))
data.train, data.validation    # rows of the index, for `build`
"""

from __future__ import annotations

import collections
import dataclasses
import os

import numpy as np
from absl import logging

from evenkeel.pipeline import selection
from evenkeel.pipeline.config import DataConfig, PrepareConfig
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.images.sample_bits import ALL_BITS
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.split_rows import tfds_splits
from evenkeel.pipeline.index.storage import open_index
from evenkeel.pipeline.jpeg.seek_index import open_seek_index
from evenkeel.pipeline.prepare import prepare
from evenkeel.pipeline.reading.reader import use_memory_map
from evenkeel.pipeline.sources import resolve
from evenkeel.pipeline.sources.cache_dir import cache_dir, cache_errors
from evenkeel.pipeline.sources.cache_entries import remove_superseded, use_entry
from evenkeel.pipeline.sources.folder_store import OpenedSource, open_folder, real_path
from evenkeel.pipeline.sources.image_folder import list_folder
from evenkeel.pipeline.splits import find_held_out, select_splits
from evenkeel.pipeline.system import file_lock

MAX_LOGGED_REASONS = 4
MAX_LOGGED_IMAGES = 10  # skipped images that the log names; `Dataset.skipped` names all of them


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set that is ready to be read.

        data = evenkeel.load_dataset(evenkeel.DataConfig(source="photos"))

    Attributes:
      train: the usable rows of the training split.
      validation: the usable rows of the validation split.
      classes: names of the classes, by label.
      mean: mean of each channel over the training pixels, 0 to 255; zeros if `data.normalize` is off.
      std: standard deviation of each channel over the training pixels; ones if `data.normalize` is off.
      class_counts: int64 [classes], number of training images of each class.
      skipped: one line for each image that is not used, with its split, its name and the reason.
      dropped: number of images that `data.drop` leaves out, by the kind of reason.
      validation_split: where the validation images come from, in TFDS syntax or as `holdout 0.1 of train`.
    """

    train: Index
    validation: Index
    classes: tuple[str, ...]
    mean: list[float]
    std: list[float]
    class_counts: np.ndarray
    skipped: tuple[str, ...]
    validation_split: str = "validation"
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)


def load_dataset(config: DataConfig) -> Dataset:
    """Loads the data set of `config`: prepares the source if needed, opens its index and selects the splits.

        data = evenkeel.load_dataset(evenkeel.DataConfig(source="photos"))
        print(data.classes, len(data.train), len(data.validation))

    Raises:
      UsageError: the source or a split cannot be used, the data set has fewer than two classes, or too many images are
        corrupt.
    """
    source = open_source(prepare_storage_tier(config))
    index = source.index
    if config.entries and use_memory_map(config, index):
        with cache_errors():
            index = open_seek_index(index, source.directory, cache_dir())
    elif config.entries:
        logging.warning(
            "data.entries has no effect: %s is streamed, so its JPEGs are read whole; copy it to a local disk",
            config.source,
        )
    index = index.fit_sample_bits()
    if index.sample_bits < ALL_BITS:
        logging.warning(
            "16-bit images of %s hold only %d bits: %d is shown as white",
            config.source,
            index.sample_bits,
            2**index.sample_bits - 1,
        )
    splits = select_splits(index, source.splits, config)
    split_names = {"train": splits.train_name, "validation": splits.validation_name}
    rows = {use: _check_corrupt(getattr(splits, use), name, config) for use, name in split_names.items()}
    dropped: dict[str, int] = {}
    if config.drop:
        held_out = find_held_out(index, source.splits, splits)
        rows["train"], dropped = _drop_rows(rows["train"], held_out, index, config)
    _check_classes(rows["train"])
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
        skipped=tuple(f"{split}: {line}" for use, split in split_names.items() for line in rows[use].skip_reasons),
        validation_split=splits.validation_name,
        dropped=dropped,
    )


def open_source(config: DataConfig) -> OpenedSource:
    """The index of all images of `config.source`, its splits, and the directory of its shards.

    Raises:
      UsageError: the source cannot be used, or the cache cannot be written to.
    """
    with resolve.convert_errors(config.source):
        files = list_folder(config.source)
    if files:
        return open_folder(config.source, files, config.max_pixels, config.background)
    builder = resolve.resolve(config)
    index = open_index(builder, cache_dir(), config.max_pixels, config.background)
    return OpenedSource(index, tfds_splits(builder, index), str(builder.data_dir))


def prepare_storage_tier(config: DataConfig) -> DataConfig:
    """Prepares the source, once, in the storage tier that `data.cache` names, below the cache directory.

    Returns `config` with the prepared directory as its source, or `config` itself if `data.cache` names no storage
    tier.
    """
    if ":" not in config.cache:
        return config
    with resolve.convert_errors(config.source):
        name = f"{resolve.source_fingerprint(config)}-{config.cache.replace(':', '-')}"
        if config.background != DataConfig.background:
            name += f"-{config.background}"
    output = os.path.join(cache_dir(), "tiers", name)
    prepared = dataclasses.replace(config, source=output)
    if os.path.exists(output):  # without the lock, which a cache that is read-only does not have
        use_entry(output, real_path(config.source))
        return prepared
    with cache_errors(), file_lock.exclusive_lock(output):
        use_entry(output, real_path(config.source))
        if os.path.exists(output):
            return prepared
        prepare_config = PrepareConfig(
            source=config.source,
            data_dir=config.data_dir,
            tier=config.cache,
            max_pixels=config.max_pixels,
            background=config.background,
            max_corrupt_fraction=config.max_corrupt_fraction,
            outliers="keep",
            threads=config.threads,
            shapes=config.shapes,
        )
        prepare.prepare(prepare_config, output)
        remove_superseded(output)
    return prepared


def _drop_rows(
    train: Index, held_out: dict[str, Index], index: Index, config: DataConfig
) -> tuple[Index, dict[str, int]]:
    """Returns `train` with the rows that `data.drop` selects marked as dropped, and logs and returns their counts."""
    # The drop list holds positions among the rows with keep=true. `kept` converts these positions to row numbers of the
    # whole split.
    kept = np.flatnonzero(train.columns["keep"])
    usable = {name: split.kept_rows for name, split in held_out.items()}
    dropped = selection.drop_list(config.drop, train.kept_rows, usable, index)
    if len(dropped) == len(kept):
        raise UsageError(
            f"data.drop ({config.drop}) leaves no training image: shorten the drop list, or leave data.drop out."
        )
    counts = dict(sorted(collections.Counter(drop.kind for drop in dropped.values()).items()))
    listed = ": " + ", ".join(f"{count} {kind}" for kind, count in counts.items()) if counts else ""
    logging.warning(
        "%d of %d training images are dropped (data.drop=%s)%s", len(dropped), len(kept), config.drop, listed
    )
    return train.drop({int(kept[row]): drop.reason for row, drop in dropped.items()}), counts


def _check_corrupt(index: Index, split: str, config: DataConfig) -> Index:
    """Logs the corrupt images of `index` and returns `index` unchanged.

    Raises:
      UsageError: more than `data.max_corrupt_fraction` of the images are corrupt, or all of them.
    """
    corrupt = index.corrupt_rows.skip_reasons
    if corrupt:
        for line in corrupt[:MAX_LOGGED_IMAGES]:
            logging.warning("skipped in split %s: %s", split, line)
        reasons = collections.Counter(line.rpartition(": ")[2] for line in corrupt).most_common(MAX_LOGGED_REASONS)
        logging.warning(
            "%d of %d images of split %s are skipped because they are corrupt: %s",
            len(corrupt),
            len(index),
            split,
            ", ".join(f"{count} times: {reason}" for reason, count in reasons),
        )
    if len(corrupt) > max(1, config.max_corrupt_fraction * len(index)):  # one image may always be skipped
        raise UsageError(
            f"{len(corrupt)} of {len(index)} images of split {split!r} are corrupt, more than"
            f" data.max_corrupt_fraction ({config.max_corrupt_fraction}) allows; the first is {corrupt[0]}."
            " Repair them or raise data.max_corrupt_fraction."
        )
    if len(corrupt) == len(index):
        raise UsageError(
            f"no image of split {split!r} can be decoded; the first corrupt one is {corrupt[0]}. Repair the images or"
            " choose another split."
        )
    return index


def _check_classes(index: Index) -> None:
    """Raises `UsageError` if a class of the training split has lost all of its images."""
    classes = index.features.classes
    found = np.bincount(index.columns["label"], minlength=len(classes))
    usable = np.bincount(index.kept_rows.columns["label"], minlength=len(classes))
    lost = np.flatnonzero((found > 0) & (usable == 0))
    if len(lost):
        of_class = index.take(index.columns["label"] == lost[0])
        raise UsageError(
            f"all {found[lost[0]]} training images of class {classes[lost[0]]!r} are left out, the first because of"
            f" {of_class.skip_reasons[0]}. Repair the images, or remove the class."
        )
