"""The reports of a prepared data set: statistics, schema, anomalies, outliers, duplicates, summary.

    summary = write_reports(config, directory, PreparedDataset(builder, full_index))

Every file is written atomically.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow_metadata.proto.v0 import statistics_pb2

from evenkeel.pipeline.config import PrepareConfig
from evenkeel.pipeline.errors import UsageError, require
from evenkeel.pipeline.index import storage
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.split_rows import tfds_splits
from evenkeel.pipeline.prepare import schema
from evenkeel.pipeline.prepare.contact_sheet import draw_contact_sheet
from evenkeel.pipeline.prepare.duplicates import find_first_copies
from evenkeel.pipeline.prepare.near_duplicates import find_near_duplicates
from evenkeel.pipeline.prepare.outliers import Outlier, find_outliers, outlier_reasons
from evenkeel.pipeline.prepare.statistics import CHANNELS, compute_statistics, features_by_name
from evenkeel.pipeline.system.atomic_write import atomic_write, write_text

STATISTICS_FILE, SCHEMA_FILE, ANOMALIES_FILE = "statistics.pb", "schema.pbtxt", "anomalies.pbtxt"
OUTLIERS_FILE, CONTACT_SHEET_FILE, DUPLICATES_FILE = "outliers.csv", "outliers.png", "duplicates.csv"
NEAR_DUPLICATES_FILE, PAIRS_SHEET_FILE = "near_duplicates.csv", "near_duplicates.png"
QUARANTINE_FILE, SUMMARY_FILE = "quarantine.csv", "summary.json"
CONTACT_SHEET_IMAGES, CONTACT_SHEET_PAIRS = 60, 50
Row = tuple[str, str, str]  # name, split, class
COPY_COLUMNS = ("file", "split", "class", "same_as", "same_as_split", "same_as_class")


class PreparedDataset(NamedTuple):
    """A prepared directory.

    Attributes:
      builder: the TFDS builder of the directory.
      full_index: the index of all its rows, none of them dropped.
    """

    builder: Any
    full_index: Index


def write_reports(config: PrepareConfig, directory: str, prepared: PreparedDataset) -> dict[str, Any]:
    """Writes the reports into `directory` and returns the contents of its summary.json.

    Raises:
      UsageError: the schema or the previous directory cannot be used, or more outliers than `max_outlier_fraction`
        would be dropped.
    """
    path_of = lambda name: os.path.join(directory, name)  # noqa: E731
    splits = {
        split: prepared.full_index.take(rows).kept_rows
        for split, rows in tfds_splits(prepared.builder, prepared.full_index).rows.items()
    }
    training = "train" if "train" in splits else max(splits, key=lambda split: len(splits[split]))

    statistics = compute_statistics(splits)
    expected = schema.read_schema(config.schema) if config.schema else schema.infer_schema(statistics)
    previous = _read_previous_statistics(config.previous) if config.previous else None
    anomalies = schema.validate_statistics(statistics, expected, previous)
    # Training images come first, so a copy of a training image in another split is listed under that split.
    ordered = {split: splits[split] for split in sorted(splits, key=lambda split: split != training)}
    sizes = {split: len(index) for split, index in splits.items() if split != training}
    rows = _describe_rows(ordered)
    copies = _write_duplicates(path_of(DUPLICATES_FILE), ordered, rows)
    schema.add_duplicates(anomalies, copies, sizes)
    near_copies = _write_near_duplicates(path_of, ordered, rows)
    schema.add_duplicates(anomalies, near_copies, sizes, near=True)
    with atomic_write(path_of(STATISTICS_FILE)) as file:
        file.write(statistics.SerializeToString(deterministic=True))
    write_text(path_of(SCHEMA_FILE), text_format.MessageToString(expected))
    write_text(path_of(ANOMALIES_FILE), text_format.MessageToString(anomalies))

    outliers = _write_outliers(config, path_of, splits, training)
    dropped = _update_drop_list(config, directory, prepared, splits[training], training, outliers[training])
    with open(path_of(QUARANTINE_FILE), encoding="utf-8", newline="") as file:
        left_out = list(csv.DictReader(file))
    channels = [features_by_name(schema.training_split(statistics))[name].num_stats for name in CHANNELS]
    summary = {
        "images": {split: len(index) for split, index in splits.items()},
        "bytes": sum(prepared.full_index.sizes),
        "shards": len(prepared.full_index.shards),
        "mean": [stats.mean for stats in channels],
        "std": [stats.std_dev for stats in channels],
        "left_out": len(left_out),
        "outliers": {split: len({outlier.row for outlier in in_split}) for split, in_split in outliers.items()},
        "dropped": dropped,
        "duplicates": copies,
        "near_duplicates": near_copies,
        "anomalies": schema.count_anomalies(anomalies),
        "anomaly_lines": schema.anomaly_lines(anomalies),
    }
    write_text(path_of(SUMMARY_FILE), json.dumps(summary, indent=2) + "\n")
    return summary


def _read_previous_statistics(directory: str) -> Any:
    path = os.path.join(directory, STATISTICS_FILE)
    try:
        with open(path, "rb") as file:
            return statistics_pb2.DatasetFeatureStatisticsList.FromString(file.read())
    except (OSError, DecodeError) as error:
        raise UsageError(
            f"--previous ({directory}) holds no readable {STATISTICS_FILE} ({error}): give a directory that"
            " evenkeel prepare has written."
        ) from error


def _write_outliers(
    config: PrepareConfig, path_of: Callable[[str], str], splits: dict[str, Index], training: str
) -> dict[str, list[Outlier]]:
    """Writes outliers.csv and outliers.png; returns the outliers of each split, compared with the training split."""
    if config.outliers == "keep":
        for name in (OUTLIERS_FILE, CONTACT_SHEET_FILE):
            if os.path.exists(path_of(name)):
                os.remove(path_of(name))
        return {split: [] for split in splits}
    outliers = {split: find_outliers(index, splits[training]) for split, index in splits.items()}
    pairs = [(split, outlier) for split in outliers for outlier in outliers[split]]
    ranked = sorted(pairs, key=lambda pair: -abs(pair[1].score))
    file_names = {split: splits[split].names for split, in_split in outliers.items() if in_split}
    lines = [(file_names[split][o.row], split, o.statistic, f"{o.score:.2f}", o.reason) for split, o in ranked]
    write_csv(path_of(OUTLIERS_FILE), ("file", "split", "statistic", "score", "reason"), lines)
    captions: dict[tuple[str, int], str] = {}
    for (split, outlier), line in zip(ranked, lines, strict=True):
        captions.setdefault((split, outlier.row), f"{line[0]}\n{outlier.statistic} {outlier.score:+.1f}")
    worst = list(captions.items())[:CONTACT_SHEET_IMAGES]
    tiles = [(splits[split].take(np.array([row])), caption) for (split, row), caption in worst]
    _write_contact_sheet(path_of(CONTACT_SHEET_FILE), tiles)
    return outliers


def _write_contact_sheet(path: str, tiles: list[tuple[Index, str]], group: int = 0) -> None:
    if tiles:
        picture = io.BytesIO()
        draw_contact_sheet(tiles, group).save(picture, "PNG")
        with atomic_write(path) as file:
            file.write(picture.getvalue())
    elif os.path.exists(path):
        os.remove(path)


def _write_duplicates(path: str, splits: dict[str, Index], rows: list[Row]) -> dict[str, int]:
    """Writes duplicates.csv, one line per image that equals an earlier image; returns counts of these duplicates."""
    first = find_first_copies(*splits.values()).tolist()
    lines = [(*rows[row], *rows[same]) for row, same in enumerate(first) if row != same]
    write_csv(path, COPY_COLUMNS, lines)
    return _count_copies(lines)


def _write_near_duplicates(path_of: Callable[[str], str], splits: dict[str, Index], rows: list[Row]) -> dict[str, int]:
    """Writes near_duplicates.csv, one line per pair, and near_duplicates.png; returns counts of the later images.

    Pairs across splits come first, then those of two classes.
    """
    near = find_near_duplicates(*splits.values())
    if near.note:
        logging.warning("near duplicates%s", near.note)
    lines = {
        (first, later): (*rows[later], *rows[first], bits)
        for (first, later), bits in zip(near.pairs.tolist(), near.distances.tolist(), strict=True)
    }
    ranked = sorted(lines, key=lambda pair: (_is_within_split(lines[pair]), _is_of_one_class(lines[pair]), pair))
    write_csv(path_of(NEAR_DUPLICATES_FILE), (*COPY_COLUMNS, "bits"), [lines[pair] for pair in ranked])
    starts = dict(zip(splits, np.cumsum([0, *map(len, splits.values())]).tolist(), strict=False))
    tiles = []
    for pair in ranked[:CONTACT_SHEET_PAIRS]:
        for number in reversed(pair):
            name, split, label = rows[number]
            tiles.append((splits[split].take(np.array([number - starts[split]])), f"{name}\n{split}, {label}"))
    _write_contact_sheet(path_of(PAIRS_SHEET_FILE), tiles, group=2)
    return _count_copies(list(lines.values()))


def _describe_rows(splits: dict[str, Index]) -> list[Row]:
    return [
        (name, split, index.features.classes[label])
        for split, index in splits.items()
        for name, label in zip(index.names, index.columns["label"], strict=True)
    ]


def _is_within_split(line: Sequence[Any]) -> bool:
    return line[1] == line[4]


def _is_of_one_class(line: Sequence[Any]) -> bool:
    return line[2] == line[5]


def _count_copies(lines: Sequence[Sequence[Any]]) -> dict[str, int]:
    """Counts images by how a line of `COPY_COLUMNS` says that they are copies of an earlier one."""
    across = {line[:2] for line in lines if not _is_within_split(line)}
    within = {line[:2] for line in lines if _is_within_split(line)}
    conflicting = {line[:2] for line in lines if not _is_of_one_class(line)}
    return {"within splits": len(within), "across splits": len(across), "of another class": len(conflicting)}


def _update_drop_list(
    config: PrepareConfig, directory: str, prepared: PreparedDataset, train: Index, split: str, outliers: list[Outlier]
) -> int:
    """Drops the outliers of the training split, and no other row, if `config.outliers` is drop; returns their number.

    Raises:
      UsageError: the outliers are more than `max_outlier_fraction` of the split.
    """
    path = os.path.join(directory, storage.DROP_LIST_FILE)
    reasons = outlier_reasons(outliers) if config.outliers == "drop" else {}
    require(
        len(reasons) <= config.max_outlier_fraction * len(train),
        f"{len(reasons)} of {len(train)} images of {split} are outliers; this exceeds the share that may be dropped,"
        f" --max_outlier_fraction ({config.max_outlier_fraction}): look at {OUTLIERS_FILE}, then raise"
        " --max_outlier_fraction or use --outliers=flag.",
    )
    if not reasons and not os.path.exists(path):
        return 0
    if reasons:
        shards, records = (train.columns[name] for name in ("shard", "record"))
        lines = [
            (os.path.basename(train.shards[shards[row]]), int(records[row]), reason) for row, reason in reasons.items()
        ]
        write_csv(path, ("shard", "record", "reason"), sorted(lines))
        logging.warning("%d of %d images of %s are dropped as outliers", len(reasons), len(train), split)
    else:
        os.remove(path)
    state = storage.index_state(list(prepared.full_index.shards), directory, config.max_pixels, config.background)
    index = storage.apply_drop_list(prepared.full_index, directory)
    storage.save_index(os.path.join(directory, storage.INDEX_FILE), state, index)
    return len(reasons)


def write_csv(path: str, header: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *lines])
    write_text(path, text.getvalue())
