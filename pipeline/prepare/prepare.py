"""Prepares any source into a TFDS directory of evenly sized shards, with its index and reports.

    summary = prepare(PrepareConfig(source="/data/pets", tier="jpeg:256:90"), "/data/pets-256")

Everything is written into the workspace `OUTPUT.unfinished`; its directory `data` is renamed to OUTPUT at the very end,
so an incomplete directory never looks complete. If a run is killed, the next run writes only the missing shards.
`plan.json` holds the options that both runs must share. The order of the images is a function of the seed, so any shard
can be written at any time, in bounded memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from tqdm import tqdm

from evenkeel.pipeline.config import DataConfig, PrepareConfig, parse_color, parse_tier
from evenkeel.pipeline.errors import UsageError, require
from evenkeel.pipeline.images.sample_bits import ALL_BITS
from evenkeel.pipeline.index import index, shuffle, storage
from evenkeel.pipeline.index.features import find_features
from evenkeel.pipeline.index.tfrecord import shard_lengths
from evenkeel.pipeline.prepare import report, shards
from evenkeel.pipeline.prepare.shards import StorageOptions, WrittenShard
from evenkeel.pipeline.sources import resolve
from evenkeel.pipeline.sources.cache_dir import cache_dir
from evenkeel.pipeline.sources.examples import Examples, locate_folder_images, locate_tfds_images
from evenkeel.pipeline.sources.image_folder import list_folder
from evenkeel.pipeline.system.atomic_write import write_text
from evenkeel.pipeline.system.cpu import cores

# Increase this number whenever the same plan would write different bytes or columns.
PLAN_VERSION = 5
PLAN_FILE = "plan.json"
TRIAL_IMAGES = 64  # images that are encoded to estimate the number of shards


def prepare(config: PrepareConfig, output: str, overwrite: bool = False) -> dict[str, Any]:
    """Prepares `config.source` into the directory `output`; if `output` is finished already, only writes its reports.

    Returns:
      The contents of `summary.json`: images by split, images left out, anomalies by severity (`report.write_reports`).

    Raises:
      UsageError: source or output cannot be used, too many images are corrupt or outliers, or the schema is invalid.
    """
    require(
        "://" not in output,
        f"output ({output}) must be a local directory: give a local directory, then copy the result to {output}.",
    )
    output = os.path.normpath(output)
    examples = find_examples(config)
    plan = make_plan(config, examples)
    if _read_plan(output) == plan and not overwrite:
        logging.info("%s is complete: only its reports are written again", output)
        return report.write_reports(config, output, open_prepared(output, config))
    if os.path.exists(output) and not overwrite:
        raise UsageError(
            f"output ({output}) exists, but was made from another source or with other options: choose another"
            " directory, or replace this one with --overwrite."
        )
    with exclusive_workspace(f"{output}.unfinished") as workspace:
        data, side = start_or_resume(workspace, plan, overwrite)
        written = write_shards(data, side, config, examples, plan)
        check_classes(config, examples, written)
        write_quarantine(data, examples, written)
        write_metadata(data, config, examples, written)
        summary = report.write_reports(config, data, write_index(data, config, written))
        if os.path.exists(output):
            os.rename(output, os.path.join(workspace, "replaced"))
        os.rename(data, output)
        shutil.rmtree(workspace)
    return summary


def find_examples(config: PrepareConfig) -> Examples:
    """The images of the source. Images of a folder are read in place; training would make a copy of them.

    Raises:
      UsageError: the source cannot be read, does not suit the tier, or has a split without images.
    """
    data_config = DataConfig(source=config.source, data_dir=config.data_dir, shapes=config.shapes)
    with resolve.convert_errors(config.source):
        files = list_folder(config.source)
        examples = (
            locate_folder_images(config.source, files) if files else locate_tfds_images(resolve.resolve(data_config))
        )
    require(
        examples.shapes is None or config.tier != "jpeg",
        f"tier (jpeg) stores files unchanged, but {config.source} holds pixels: use jpeg:SIDE:QUALITY or raw:SIDE.",
    )
    for split, rows in examples.splits.items():
        require(len(rows) > 0, f"split {split!r} of {config.source} holds no images: add images or remove the split.")
    return examples


def make_plan(config: PrepareConfig, examples: Examples) -> dict[str, Any]:
    """Everything that the bytes of the shards depend on; only an unfinished run with an equal plan is resumed."""
    counts = {split: config.shards or _shard_count(config, examples, rows) for split, rows in examples.splits.items()}
    return {
        "version": PLAN_VERSION,
        "name": examples.name,
        "state": examples.fingerprint,
        "tier": config.tier,
        "bound": config.bound,
        "seed": config.seed,
        "max_pixels": config.max_pixels,
        "background": config.background,
        "shards": {split: min(counts[split], len(rows)) for split, rows in examples.splits.items()},
    }


def _shard_count(config: PrepareConfig, examples: Examples, rows: np.ndarray) -> int:
    """The number of shards with about `shard_mb` each, estimated from images spread evenly over the split."""
    trial = rows[np.linspace(0, len(rows) - 1, min(TRIAL_IMAGES, len(rows))).astype(np.int64)]
    sizes = examples.length[rows]
    if config.tier != "jpeg":
        encoded = shards.encode_images(examples, trial, storage_options(config, examples), {})
        sizes = np.array([len(stored.contents) for stored in encoded])
    size = float(sizes.mean()) if len(sizes) else 0.0
    return max(1, round(size * len(rows) / (config.shard_mb << 20)))


def storage_options(config: PrepareConfig, examples: Examples) -> StorageOptions:
    tier, background = parse_tier(config.tier), parse_color("background", config.background)
    sample_bits = shards.largest_sample_bits(examples, config.max_pixels) if tier.side else ALL_BITS
    return StorageOptions(tier, config.bound, config.max_pixels, background, config.threads or cores(), sample_bits)


@contextlib.contextmanager
def exclusive_workspace(directory: str) -> Iterator[str]:
    """Creates `directory` and locks it against other processes while the block runs.

    Raises:
      UsageError: another process holds the lock.
    """
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"another process is writing {directory}: wait until it ends, or stop it.") from error
        yield directory


def start_or_resume(workspace: str, plan: dict[str, Any], overwrite: bool) -> tuple[str, str]:
    """The directories of shards and side files: empty, or with the files of an interrupted run that had this plan.

    Raises:
      UsageError: the interrupted run had a different plan, and `overwrite` is off.
    """
    data, side = os.path.join(workspace, "data"), os.path.join(workspace, "beside")
    unfinished = _read_plan(data)
    if unfinished is not None and unfinished != plan and not overwrite:
        changed = ", ".join(key for key in plan if unfinished.get(key) != plan[key])
        raise UsageError(
            f"{workspace} holds an unfinished run that differs in {changed}: repeat the options of that run to finish"
            " it, or start again with --overwrite."
        )
    if unfinished != plan:
        for directory in (data, side):
            shutil.rmtree(directory, ignore_errors=True)
            os.makedirs(directory)
        write_text(os.path.join(data, PLAN_FILE), json.dumps(plan, indent=2) + "\n")
    return data, side


def _read_plan(directory: str) -> dict[str, Any] | None:
    """The plan with which a directory was written, completely or not; None if the directory has no plan."""
    try:
        with open(os.path.join(directory, PLAN_FILE)) as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def write_shards(
    data: str, side: str, config: PrepareConfig, examples: Examples, plan: dict[str, Any]
) -> dict[str, WrittenShard]:
    """Writes the missing shards; returns all shards by file name.

    Raises:
      UsageError: more images cannot be stored than `max_corrupt_fraction` allows, or a file cannot be read or written.
    """
    total = sum(len(rows) for rows in examples.splits.values()) + len(examples.unreadable)
    written: dict[str, WrittenShard] = {}
    rejected = [f"{name}: {reason}" for _, name, reason in examples.unreadable]
    with tqdm(total=total, desc="preparing", unit=" images", disable=None) as bar:
        for split_number, (split, rows) in enumerate(examples.splits.items()):
            seed = config.seed * len(examples.splits) + split_number
            for number in range(plan["shards"][split]):
                _check_corrupt_fraction(config, rejected, total)
                name = shard_name(plan, split, number)
                side_path = os.path.join(side, f"{name}.npz")
                if os.path.exists(side_path):
                    shard = shards.load_written_shard(side_path)
                    bar.update(len(shard.columns["label"]))
                else:
                    in_shard = shard_rows(rows, number, plan["shards"][split], seed)
                    shard = _write_shard(os.path.join(data, name), side_path, config, examples, in_shard, bar)
                bar.update(len(shard.rejected))
                rejected += [f"{examples.names[row]}: {reason}" for row, reason in shard.rejected.items()]
                written[name] = shard
    _check_corrupt_fraction(config, rejected, total)
    return written


def shard_name(plan: dict[str, Any], split: str, number: int) -> str:
    return f"{plan['name']}-{split}.tfrecord-{number:05d}-of-{plan['shards'][split]:05d}"


def shard_rows(rows: np.ndarray, number: int, shards: int, seed: int) -> np.ndarray:
    """The rows in shard `number` of `shards`, in order: its part of a random permutation of the split's `rows`."""
    first, last = number * len(rows) // shards, (number + 1) * len(rows) // shards
    return rows[shuffle.shuffled_rows(tf.range(first, last, dtype=tf.int64), len(rows), seed).numpy()]


def _write_shard(
    path: str, side_path: str, config: PrepareConfig, examples: Examples, rows: np.ndarray, bar: Any
) -> WrittenShard:
    try:
        return shards.write_shard(path, side_path, examples, rows, storage_options(config, examples), bar.update)
    except (OSError, tf.errors.OpError) as error:
        raise UsageError(
            f"shard {os.path.basename(path)} could not be written: {' '.join(str(error).split())[:300]}; fix this cause"
            " and run the command again: finished shards are kept."
        ) from error


def _check_corrupt_fraction(config: PrepareConfig, rejected: list[str], total: int) -> None:
    require(
        len(rejected) <= max(1, config.max_corrupt_fraction * total),  # one image may always be left out
        f"{len(rejected)} of {total} images cannot be stored, more than --max_corrupt_fraction"
        f" ({config.max_corrupt_fraction}) allows; the first is {rejected[0] if rejected else ''}. Repair or remove"
        " them, or raise --max_corrupt_fraction, and run the command again: finished shards are kept.",
    )


def check_classes(config: PrepareConfig, examples: Examples, written: dict[str, WrittenShard]) -> None:
    """Raises `UsageError` if no image of a class could be stored."""
    stored = {int(label) for shard in written.values() for label in np.unique(shard.columns["label"])}
    rejected = {row: reason for shard in written.values() for row, reason in shard.rejected.items()}
    for row, reason in rejected.items():
        label = int(examples.label[row])
        require(
            label in stored or not 0 <= label < len(examples.classes),
            f"no image of class {examples.classes[label]!r} of {config.source} can be stored, the first because of"
            f" {examples.names[row]}: {reason}. Repair the images, or remove the class.",
        )


def write_quarantine(data: str, examples: Examples, written: dict[str, WrittenShard]) -> None:
    """Writes quarantine.csv: file, split and reason of every image that could not be stored."""
    split_of = {int(row): split for split, rows in examples.splits.items() for row in rows}
    lines = [(name, split, reason) for split, name, reason in examples.unreadable]
    for shard in written.values():
        lines += [(examples.names[row], split_of[row], reason) for row, reason in shard.rejected.items()]
    report.write_csv(os.path.join(data, report.QUARANTINE_FILE), ("file", "split", "reason"), sorted(lines))
    for name, split, reason in sorted(lines)[:10]:
        logging.warning("split %s: image %s is left out: %s", split, name, reason)


def write_metadata(data: str, config: PrepareConfig, examples: Examples, written: dict[str, WrittenShard]) -> None:
    """Writes features.json and dataset_info.json, with which TFDS can open the directory.

    Raises:
      UsageError: no image of a split could be stored.
    """
    tier = parse_tier(config.tier)
    if tier.kind == "raw":
        image = tfds.features.Tensor(shape=(None, None, 3), dtype=np.uint8, encoding="bytes")
    else:
        # With three channels, TFDS would ask the decoder for three, and the BMP decoder does not convert gray images.
        image = tfds.features.Image(shape=(None, None, 3 if tier.side else None))
    template = tfds.core.ShardedFileTemplate(data_dir=data, dataset_name=examples.name, filetype_suffix="tfrecord")
    infos = []
    for split in examples.splits:
        names = [name for name in written if name.startswith(f"{examples.name}-{split}.tfrecord-")]
        counts = [len(written[name].columns["label"]) for name in names]
        require(
            sum(counts) > 0,
            f"no image of split {split!r} of {config.source} can be stored: repair the images or remove the split.",
        )
        size = sum(os.path.getsize(os.path.join(data, name)) for name in names)
        infos.append(
            tfds.core.SplitInfo(
                name=split, shard_lengths=counts, num_bytes=size, filename_template=template.replace(split=split)
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=data,
        features={
            "image": image,
            "label": tfds.features.ClassLabel(names=examples.classes),
            "filename": tfds.features.Text(),
        },
        split_infos=infos,
        version="1.0.0",
        filename_template=tfds.core.naming.DEFAULT_FILENAME_TEMPLATE,
        check_data=False,
        description=f"Images of {config.source}, tier {config.tier}.",
        supervised_keys=("image", "label"),
    )


def write_index(data: str, config: PrepareConfig, written: dict[str, WrittenShard]) -> report.PreparedDataset:
    """Writes the index from the columns of the written shards, without a second pass over the images."""
    builder = tfds.builder_from_directory(data)
    paths = list(shard_lengths(builder))
    parts = []
    for number, path in enumerate(paths):
        columns = written[os.path.basename(path)].columns
        parts.append(columns | {"shard": np.full(len(columns["label"]), number, np.int32)})
    columns = {name: np.concatenate([part[name] for part in parts]) for name in index.COLUMNS}
    state = storage.index_state(paths, data, config.max_pixels, config.background)
    whole = index.Index(tuple(paths), tuple(state["sizes"]), find_features(builder), columns, {})
    storage.save_index(os.path.join(data, storage.INDEX_FILE), state, whole)
    return report.PreparedDataset(builder, whole)


def open_prepared(output: str, config: PrepareConfig) -> report.PreparedDataset:
    """Opens a finished directory with its index; rows that were dropped are included."""
    builder = tfds.builder_from_directory(output)
    whole = storage.open_index(builder, cache_dir(), config.max_pixels, config.background)
    return report.PreparedDataset(builder, whole.undrop())
