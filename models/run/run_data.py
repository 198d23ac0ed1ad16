"""The data set that a run was trained on: its classes and normalization, and a fingerprint of its images.

    run_data = describe_data(config.data, data)
    write_run_data(model_dir, run_data, data)
    data = read_run_data(model_dir).apply(data)    # as the run's model understands it

The folder of a run's images may change after training. A run therefore keeps what its outputs and inputs mean, in
data.json and in the state of each checkpoint, and the names of its images with hashes of their pixels, in data.npz.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.system.atomic_write import atomic_write, write_text

DATA_FILE, CONTENTS_FILE = "data.json", "data.npz"
USES = ("train", "validation")
MAX_LISTED = 3  # names in a message


@dataclasses.dataclass(frozen=True)
class SplitSummary:
    """The images of a split.

    Attributes:
      split: the split, in TFDS syntax.
      images: number of images by class, in the order of the run's classes.
      fingerprint: 32 hex digits, which change when an image is added, removed, replaced or gets another class.
    """

    split: str
    images: tuple[int, ...]
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class RunData:
    """What the model of a run means, and the images it was trained on.

    Attributes:
      source: `data.source` of the run.
      classes: names of the classes, in the order of the model's outputs.
      normalize: whether `mean` and `std` are of the training images; if not, they are zeros and ones.
      mean, std: one number per channel, in units of 0 to 255, as in `Dataset`.
      standardize: whether each image is normalized by its own mean and deviation instead.
      image_size: `data.image_size`: what the model sees, in pixels.
      channels: 3 for colour, 1 for gray.
      sample_bits: the bits that the samples of 16-bit files are taken to hold.
      view, eval_crop, background: the options of `data` with these names: what evaluation shows of an image.
      train, validation: the splits.
    """

    source: str
    classes: tuple[str, ...]
    normalize: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    standardize: bool
    image_size: int | str
    channels: int
    sample_bits: int
    view: str
    eval_crop: float
    background: str
    train: SplitSummary
    validation: SplitSummary

    def state(self) -> dict[str, Any]:
        """JSON values, from which `from_state` makes an equal object."""
        return dataclasses.asdict(self)

    def apply(self, data: Dataset) -> Dataset:
        """Returns `data` with the run's classes, matched by their names, and the run's normalization.

        Training images of a class that the run does not know are left out.

        Raises:
          UsageError: the validation images have a class that the run does not know.
        """
        number_of = {name: number for number, name in enumerate(self.classes)}
        mapping = np.array([number_of.get(name, -1) for name in data.classes], np.int64)
        unknown = np.flatnonzero((mapping < 0) & (_count(data.validation, data.classes) > 0))
        if len(unknown):
            absent = [name for name in self.classes if name not in data.classes]
            raise UsageError(
                f"the run knows the classes {_join(self.classes)}, but the data now has"
                f" {_join([data.classes[number] for number in unknown])}"
                + (f" and no longer {_join(absent)}" if absent else "")
                + ": give the folders the names that the run knows, or train again."
            )
        train, validation = (
            dataclasses.replace(_relabel(index, mapping), sample_bits=self.sample_bits)
            for index in (data.train, data.validation)
        )
        return dataclasses.replace(
            data,
            train=train,
            validation=validation,
            classes=self.classes,
            mean=list(self.mean),
            std=list(self.std),
            class_counts=_count(train, self.classes),
        )


def from_state(state: dict[str, Any]) -> RunData:
    """The object whose `state()` was stored."""
    tuples = {name: tuple(state[name]) for name in ("classes", "mean", "std")}
    splits = {
        name: SplitSummary(**{**state[name], "images": tuple(state[name]["images"])})
        for name in ("train", "validation")
    }
    return RunData(**{**state, **tuples, **splits})


def describe_data(config: DataConfig, data: Dataset) -> RunData:
    """What a run with this configuration that is trained on `data` means."""
    return RunData(
        source=config.source,
        classes=data.classes,
        normalize=config.normalize,
        mean=tuple(data.mean),
        std=tuple(data.std),
        standardize=config.standardize,
        image_size=config.image_size,
        channels=config.channels,
        sample_bits=data.train.sample_bits,
        view=config.view,
        eval_crop=config.eval_crop,
        background=config.background,
        train=_summarize(config.train_split, data.train, data.classes),
        validation=_summarize(data.validation_split, data.validation, data.classes),
    )


def _summarize(split: str, index: Index, classes: tuple[str, ...]) -> SplitSummary:
    digest = hashlib.blake2b(digest_size=16)
    for name, contents in sorted(image_contents(index, classes).items()):
        digest.update(name + b"\0" + contents.to_bytes(8, "big", signed=True))
    return SplitSummary(split, tuple(_count(index, classes).tolist()), digest.hexdigest())


@functools.lru_cache(maxsize=2)  # a start asks twice, to describe the data and to store the names
def image_contents(index: Index, classes: tuple[str, ...]) -> dict[bytes, int]:
    """{name of an image: 64 bits of its pixels and its class}; equal names are numbered."""
    class_hashes = tf.strings.to_hash_bucket_fast([name.encode() for name in classes], 2**63 - 1).numpy()
    columns = index.columns
    contents = columns["fingerprint"] ^ class_hashes[columns["label"]]
    shards = [os.path.basename(path).encode() for path in index.shards]
    records = zip(*(columns[name].tolist() for name in ("name", "shard", "record")), contents.tolist(), strict=True)
    result: dict[bytes, int] = {}
    for name, shard, record, value in records:
        key = name or b"%s record %d" % (shards[shard], record)
        result[key if key not in result else b"%s (%d)" % (key, len(result))] = value
    return result


def _count(index: Index, classes: tuple[str, ...]) -> np.ndarray:
    return np.bincount(index.columns["label"], minlength=len(classes))


def _relabel(index: Index, mapping: np.ndarray) -> Index:
    """The rows of `index` whose class number has a `mapping`, with the new number; -1 leaves a class out."""
    labels = mapping[index.columns["label"]]
    mapped = dataclasses.replace(index, columns={**index.columns, "label": labels})
    return mapped if (labels >= 0).all() else mapped.take(labels >= 0)


def write_run_data(model_dir: str, run_data: RunData, data: Dataset) -> None:
    """Writes data.json and data.npz; `data` is what `run_data` describes.

    Raises:
      OSError, OpError: the directory cannot be written to.
    """
    arrays = {}
    for use in USES:
        contents = image_contents(getattr(data, use), data.classes)
        arrays[f"{use}_names"] = np.frombuffer(b"\0".join(contents), np.uint8)
        arrays[f"{use}_contents"] = np.array(list(contents.values()), np.int64)
    with atomic_write(os.path.join(model_dir, CONTENTS_FILE)) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    write_text(os.path.join(model_dir, DATA_FILE), json.dumps(run_data.state(), indent=2) + "\n")


def read_run_data(model_dir: str) -> RunData | None:
    """Reads data.json; None if the run has none, as runs of version 0.2.0 and earlier.

    Raises:
      UsageError: the file does not hold a run's data.
    """
    path = os.path.join(model_dir, DATA_FILE)
    if not tf.io.gfile.exists(path):
        return None
    try:
        with tf.io.gfile.GFile(path) as file:
            return from_state(json.loads(file.read()))
    except (ValueError, KeyError, TypeError, tf.errors.OpError) as error:
        raise UsageError(
            f"{path} is damaged ({type(error).__name__}: {error}): copy the entry `data` of state.json in the newest"
            " checkpoint into it, or start over with --overwrite."
        ) from error


def find_changes(
    model_dir: str, stored: RunData, config: DataConfig, data: Dataset, uses: Sequence[str] = USES
) -> list[str]:
    """One line for each difference between the `stored` data of a run and `data`, loaded as `config` says.

    `uses` names the splits to compare.
    """
    current = describe_data(config, data)
    changes = []
    added = [name for name in current.classes if name not in stored.classes]
    removed = [name for name in stored.classes if name not in current.classes]
    if added:
        changes.append(f"new classes: {_join(added)}")
    if removed:
        changes.append(f"missing classes: {_join(removed)}")
    for use in uses:
        before, now = getattr(stored, use), getattr(current, use)
        if before.split != now.split:
            changes.append(f"{use} images come from split {now.split}, in the run from {before.split}")
        elif before.fingerprint != now.fingerprint:
            contents = image_contents(getattr(data, use), data.classes)
            changes.append(f"{use}: {_compare_images(_read_contents(model_dir, use), contents, before)}")
    return changes


def _compare_images(stored: dict[bytes, int] | None, now: dict[bytes, int], before: SplitSummary) -> str:
    counts = f"{sum(before.images)} images in the run, {len(now)} now"
    if stored is None:
        return counts
    changes = {
        "removed": stored.keys() - now.keys(),
        "added": now.keys() - stored.keys(),
        "replaced": {name for name in stored.keys() & now.keys() if stored[name] != now[name]},
    }
    lists = [
        f"{len(names)} {change} ({_join(sorted(name.decode(errors='backslashreplace') for name in names))})"
        for change, names in changes.items()
        if names
    ]
    return f"{counts}: {', '.join(lists)}"


def _read_contents(model_dir: str, use: str) -> dict[bytes, int] | None:
    """The `image_contents` that `write_run_data` stored; None if they cannot be read."""
    try:
        with (
            tf.io.gfile.GFile(os.path.join(model_dir, CONTENTS_FILE), "rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            names, contents = arrays[f"{use}_names"].tobytes().split(b"\0"), arrays[f"{use}_contents"].tolist()
            return dict(zip(names, contents, strict=True))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, tf.errors.OpError) as error:
        logging.info("%s of %s cannot be read (%s)", CONTENTS_FILE, model_dir, error)
        return None


def resume_data(model_dir: str, config: DataConfig, data: Dataset, allow_change: bool) -> Dataset:
    """Returns `data` as the run in `model_dir` understands it, for going on with the run.

    Raises:
      UsageError: the images or classes differ from those of the run, and `allow_change` is off or they do not fit.
    """
    stored = read_run_data(model_dir)
    if stored is None:
        logging.warning(
            "%s has no %s: classes and normalization are those of the data as it is now", model_dir, DATA_FILE
        )
        return data
    changes = "; ".join(find_changes(model_dir, stored, config, data))
    if changes and not allow_change:
        raise UsageError(
            f"--resume: {config.source} is not the data that the run in {model_dir} was trained on: {changes}. Restore"
            " it, or go on with it as it is now by --allow_data_change."
        )
    if changes:
        logging.warning("resuming with other data: %s", changes)
    resumed = stored.apply(data)
    if config.normalize != stored.normalize:  # --allow_config_change
        return dataclasses.replace(resumed, mean=data.mean, std=data.std)
    return resumed


def _join(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
