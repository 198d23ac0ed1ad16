"""Any source -> an evenly sharded TFDS directory with its index, statistics, schema, anomalies and outliers.

    summary = prepare(PrepareConfig(source="/data/pets", tier="jpeg:256:90"), "/data/pets-256")

Everything is written into `OUTPUT.unfinished`, which becomes OUTPUT at the very end, so nothing partial ever looks
complete. A run that was killed goes on with the shards that are missing: what it is about stands in `plan.json`, and
the order of images is a function of the seed, so any shard can be written at any time, in bounded memory.
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

from evenkeel.pipeline.config import DataConfig, PrepareConfig, parse_tier
from evenkeel.pipeline.errors import UsageError, require
from evenkeel.pipeline.index import index, shuffle
from evenkeel.pipeline.prepare import report, shards
from evenkeel.pipeline.prepare.shards import Storing, Written
from evenkeel.pipeline.sources import examples as located
from evenkeel.pipeline.sources import resolve
from evenkeel.pipeline.sources.examples import Examples
from evenkeel.pipeline.system.atomic_write import write_text
from evenkeel.pipeline.system.cpu import cores

# A change of what is written for the same plan gets a new number.
VERSION = 2
PLAN = "plan.json"
SAMPLED = 64  # images stored on trial, to know how many shards they make


def prepare(config: PrepareConfig, output: str, overwrite: bool = False) -> dict[str, Any]:
    """Prepares `config.source` into the directory `output`; one that is finished is only checked again.

    Returns:
      The summary, which also stands in `summary.json`: counts by split, what was left out, anomalies by severity.

    Raises:
      UsageError: source or output unusable, too many corrupt images or outliers, a bad schema.
    """
    require("://" not in output, f"output ({output}) must be a local directory: prepare it here and copy it there.")
    output = os.path.normpath(output)
    examples = locate(config)
    plan = make_plan(config, examples)
    if _plan_in(output) == plan and not overwrite:
        logging.info("%s is finished; only its reports are written anew", output)
        return report.write(config, output, open_prepared(output, config))
    if os.path.exists(output) and not overwrite:
        raise UsageError(f"output ({output}) exists and was not prepared from this: --overwrite replaces it.")
    with claimed(f"{output}.unfinished") as place:
        data, beside = begin(place, plan, overwrite)
        written = write_shards(data, beside, config, examples, plan)
        write_quarantine(data, examples, written)
        write_metadata(data, config, examples, written)
        summary = report.write(config, data, store_index(data, config, written))
        if os.path.exists(output):
            os.rename(output, os.path.join(place, "replaced"))
        os.rename(data, output)
        shutil.rmtree(place)
    return summary


@contextlib.contextmanager
def claimed(place: str) -> Iterator[str]:
    """The directory `place`, made and held against another process that would write into it."""
    os.makedirs(place, exist_ok=True)
    with open(os.path.join(place, "lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"another process is writing {place}: wait for it, or stop it.") from error
        yield place


def _plan_in(directory: str) -> dict[str, Any] | None:
    """The plan a directory was or is being written by; None where there is none."""
    try:
        with open(os.path.join(directory, PLAN)) as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def locate(config: PrepareConfig) -> Examples:
    """The images of the source, of a folder without the copy that training from it would make."""
    data_config = DataConfig(source=config.source, data_dir=config.data_dir, shapes=config.shapes)
    with resolve.told_in_one_line(config.source):
        files = resolve.files_of_folder(config.source)
        examples = (
            located.of_folder(config.source, files) if files else located.of_builder(resolve.resolve(data_config))
        )
    require(
        examples.shapes is None or config.tier != "jpeg",
        f"tier (jpeg) stores files as they are, and {config.source} holds pixels: use jpeg:SIDE:QUALITY or raw:SIDE.",
    )
    for split, rows in examples.splits.items():
        require(len(rows) > 0, f"split {split!r} of {config.source} holds no image: fill or remove it.")
    return examples


def make_plan(config: PrepareConfig, examples: Examples) -> dict[str, Any]:
    """What the bytes of the shards depend on; an unfinished run goes on only with an equal one."""
    counts = {split: config.shards or _shards_for(config, examples, rows) for split, rows in examples.splits.items()}
    return {
        "version": VERSION,
        "name": examples.name,
        "state": examples.state,
        "tier": config.tier,
        "bound": config.bound,
        "seed": config.seed,
        "max_pixels": config.max_pixels,
        "shards": {split: min(counts[split], len(rows)) for split, rows in examples.splits.items()},
    }


def _shards_for(config: PrepareConfig, examples: Examples, rows: np.ndarray) -> int:
    """So many shards that each takes about `shard_mb`, judged by some images spread evenly over the split."""
    some = rows[np.linspace(0, len(rows) - 1, min(SAMPLED, len(rows))).astype(np.int64)]
    sizes = examples.length[rows]
    if config.tier != "jpeg":
        sizes = np.array([len(stored.contents) for stored in shards.stored_images(examples, some, storing(config), {})])
    size = float(sizes.mean()) if len(sizes) else 0.0
    return max(1, round(size * len(rows) / (config.shard_mb << 20)))


def storing(config: PrepareConfig) -> Storing:
    threads = config.threads or cores()
    return Storing(parse_tier(config.tier), config.bound, config.max_pixels, threads)


def begin(place: str, plan: dict[str, Any], overwrite: bool) -> tuple[str, str]:
    """The directories of the shards and of what is kept beside them, new or as a killed run left them."""
    data, beside = os.path.join(place, "data"), os.path.join(place, "beside")
    found = _plan_in(data)
    if found is not None and found != plan and not overwrite:
        changed = ", ".join(key for key in plan if found.get(key) != plan[key])
        raise UsageError(
            f"{place} holds an unfinished run that differs in {changed}: repeat that one's options to finish it,"
            " or start over with --overwrite."
        )
    if found != plan:
        for directory in (data, beside):
            shutil.rmtree(directory, ignore_errors=True)
            os.makedirs(directory)
        write_text(os.path.join(data, PLAN), json.dumps(plan, indent=2) + "\n")
    return data, beside


def shard_name(plan: dict[str, Any], split: str, number: int) -> str:
    return f"{plan['name']}-{split}.tfrecord-{number:05d}-of-{plan['shards'][split]:05d}"


def rows_of_shard(rows: np.ndarray, number: int, shards: int, seed: int) -> np.ndarray:
    """Which of a split's `rows` shard `number` holds, in order: its part of one permutation of all of them."""
    first, last = number * len(rows) // shards, (number + 1) * len(rows) // shards
    return rows[shuffle.rows_at(tf.range(first, last, dtype=tf.int64), len(rows), seed).numpy()]


def write_shards(
    data: str, beside: str, config: PrepareConfig, examples: Examples, plan: dict[str, Any]
) -> dict[str, Written]:
    """Writes the shards that are missing; {file name: what it holds} of all of them.

    Raises:
      UsageError: more images must be left out than `max_corrupt_fraction` allows, or one cannot be read.
    """
    total = sum(len(rows) for rows in examples.splits.values()) + len(examples.lost)
    written: dict[str, Written] = {}
    lost = [f"{name}: {why}" for _, name, why in examples.lost]
    with tqdm(total=total, desc="preparing", unit=" images", disable=None) as bar:
        for number_of_split, (split, rows) in enumerate(examples.splits.items()):
            for number in range(plan["shards"][split]):
                _check_corrupt(config, lost, total)
                name = shard_name(plan, split, number)
                kept = os.path.join(beside, f"{name}.npz")
                if os.path.exists(kept):
                    written[name] = shards.read_written(kept)
                    bar.update(len(written[name].columns["label"]))
                else:
                    seed = config.seed * len(examples.splits) + number_of_split
                    mine = rows_of_shard(rows, number, plan["shards"][split], seed)
                    path = os.path.join(data, name)
                    try:
                        written[name] = shards.write_shard(path, kept, examples, mine, storing(config), bar.update)
                    except (OSError, tf.errors.OpError) as error:
                        raise UsageError(
                            f"{name} could not be written: {' '.join(str(error).split())[:300]};"
                            " put that right and start again: what is finished stays."
                        ) from error
                bar.update(len(written[name].lost))
                lost += [f"{examples.names[row]}: {why}" for row, why in written[name].lost.items()]
    _check_corrupt(config, lost, total)
    return written


def _check_corrupt(config: PrepareConfig, lost: list[str], total: int) -> None:
    require(
        len(lost) <= config.max_corrupt_fraction * total,
        f"{len(lost)} of {total} images must be left out so far, more than --max_corrupt_fraction"
        f" ({config.max_corrupt_fraction}) allows; the first is {lost[0] if lost else ''}."
        " Mend them or raise that fraction: what is finished stays.",
    )


def write_quarantine(data: str, examples: Examples, written: dict[str, Written]) -> None:
    """quarantine.csv: file, split and reason of every image that is left out."""
    split_of = {int(row): split for split, rows in examples.splits.items() for row in rows}
    lines = [(name, split, why) for split, name, why in examples.lost]
    for shard in written.values():
        lines += [(examples.names[row], split_of[row], why) for row, why in shard.lost.items()]
    report.write_csv(os.path.join(data, report.QUARANTINE), ("file", "split", "reason"), sorted(lines))
    for name, split, why in sorted(lines)[:10]:
        logging.warning("left out of split %s: %s: %s", split, name, why)


def write_metadata(data: str, config: PrepareConfig, examples: Examples, written: dict[str, Written]) -> None:
    """features.json and dataset_info.json: from now on TFDS opens the directory."""
    tier = parse_tier(config.tier)
    if tier.kind == "raw":
        image = tfds.features.Tensor(shape=(None, None, 3), dtype=np.uint8, encoding="bytes")
    else:
        # With three channels TFDS would ask the decoder for them, and that of BMP refuses to convert gray ones.
        image = tfds.features.Image(shape=(None, None, 3 if tier.side else None))
    template = tfds.core.ShardedFileTemplate(data_dir=data, dataset_name=examples.name, filetype_suffix="tfrecord")
    infos = []
    for split in examples.splits:
        mine = [name for name in written if name.startswith(f"{examples.name}-{split}.tfrecord-")]
        counts = [len(written[name].columns["label"]) for name in mine]
        require(
            sum(counts) > 0, f"split {split!r} of {config.source} holds no image that can be used: mend or remove it."
        )
        size = sum(os.path.getsize(os.path.join(data, name)) for name in mine)
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


def store_index(data: str, config: PrepareConfig, written: dict[str, Written]) -> report.Prepared:
    """The index put together from what was measured while the shards were written: no second pass."""
    builder = tfds.builder_from_directory(data)
    paths = list(index.shard_lengths(builder))
    parts = []
    for number, path in enumerate(paths):
        columns = written[os.path.basename(path)].columns
        parts.append(columns | {"shard": np.full(len(columns["label"]), number, np.int32)})
    columns = {name: np.concatenate([part[name] for part in parts]) for name in index.COLUMNS}
    state = index.state_of(paths, data, config.max_pixels)
    whole = index.Index(tuple(paths), tuple(state["sizes"]), index.find_features(builder), columns, {})
    index.store(os.path.join(data, index.STORED), state, whole)
    return report.Prepared(builder, whole)


def open_prepared(output: str, config: PrepareConfig) -> report.Prepared:
    builder = tfds.builder_from_directory(output)
    found = index.open_index(builder, resolve.cache_dir(), config.max_pixels)
    return report.Prepared(builder, found.undropped)
