"""What a prepared data set says about itself: statistics, schema, anomalies, outliers, duplicates, summary.

    summary = write(config, directory, Prepared(builder, index))

Every file is written beside and renamed.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow_metadata.proto.v0 import statistics_pb2

from evenkeel.pipeline.config import PrepareConfig
from evenkeel.pipeline.errors import UsageError, require
from evenkeel.pipeline.index import index
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.prepare import duplicates, outliers, schema
from evenkeel.pipeline.prepare.contact_sheet import contact_sheet
from evenkeel.pipeline.prepare.statistics import CHANNELS, named, statistics
from evenkeel.pipeline.system.atomic_write import atomic_write, write_text

STATISTICS, SCHEMA, ANOMALIES = "statistics.pb", "schema.pbtxt", "anomalies.pbtxt"
OUTLIERS, SHEET, DUPLICATES = "outliers.csv", "outliers.png", "duplicates.csv"
QUARANTINE, SUMMARY = "quarantine.csv", "summary.json"
SHOWN = 60  # outliers on the contact sheet


class Prepared(NamedTuple):
    """A directory that TFDS opens, and its index with no row dropped."""

    builder: Any
    rows: Index


def write(config: PrepareConfig, directory: str, prepared: Prepared) -> dict[str, Any]:
    """Writes the reports into `directory` and returns what also stands in its summary.json.

    Raises:
      UsageError: a bad schema or previous directory, or more outliers to drop than `max_outlier_fraction`.
    """
    place = lambda name: os.path.join(directory, name)  # noqa: E731
    splits = {split: prepared.rows.split(prepared.builder, split).kept for split in prepared.builder.info.splits}
    training = "train" if "train" in splits else max(splits, key=lambda split: len(splits[split]))

    measured = statistics(splits)
    wanted = schema.read(config.schema) if config.schema else schema.infer(measured)
    anomalies = schema.check(measured, wanted, _previous(config.previous) if config.previous else None)
    with atomic_write(place(STATISTICS)) as file:
        file.write(measured.SerializeToString(deterministic=True))
    write_text(place(SCHEMA), text_format.MessageToString(wanted))
    write_text(place(ANOMALIES), text_format.MessageToString(anomalies))

    found = _write_outliers(config, place, splits, training)
    copies = _write_duplicates(place(DUPLICATES), splits, training)
    dropped = _drop(config, directory, prepared, splits[training], training, found[training])
    with open(place(QUARANTINE), encoding="utf-8", newline="") as file:
        left_out = list(csv.DictReader(file))
    channels = [named(schema.training_split(measured))[name].num_stats for name in CHANNELS]
    summary = {
        "images": {split: len(rows) for split, rows in splits.items()},
        "bytes": sum(prepared.rows.sizes),
        "shards": len(prepared.rows.shards),
        "mean": [stats.mean for stats in channels],
        "std": [stats.std_dev for stats in channels],
        "left_out": len(left_out),
        "outliers": {split: len({outlier.row for outlier in of}) for split, of in found.items()},
        "dropped": dropped,
        "duplicates": copies,
        "anomalies": schema.counts(anomalies),
        "anomaly_lines": schema.lines(anomalies),
    }
    write_text(place(SUMMARY), json.dumps(summary, indent=2) + "\n")
    return summary


def _previous(directory: str) -> Any:
    path = os.path.join(directory, STATISTICS)
    try:
        with open(path, "rb") as file:
            return statistics_pb2.DatasetFeatureStatisticsList.FromString(file.read())
    except (OSError, DecodeError) as error:
        raise UsageError(
            f"--previous ({directory}) holds no {STATISTICS} that can be read ({error}): give a directory that"
            " tools.prepare has written."
        ) from error


def _write_outliers(
    config: PrepareConfig, place: Any, splits: dict[str, Index], training: str
) -> dict[str, list[outliers.Outlier]]:
    """outliers.csv and outliers.png; every split's images are measured against those of the training split."""
    found = {
        split: [] if config.outliers == "keep" else outliers.find(rows, splits[training])
        for split, rows in splits.items()
    }
    ranked = sorted(((split, of) for split in found for of in found[split]), key=lambda pair: -abs(pair[1].score))
    named_rows = {split: splits[split].names for split, of in found.items() if of}
    lines = [(named_rows[split][o.row], split, o.statistic, f"{o.score:.2f}", o.reason) for split, o in ranked]
    if config.outliers == "keep":
        for name in (OUTLIERS, SHEET):
            if os.path.exists(place(name)):
                os.remove(place(name))
        return found
    write_csv(place(OUTLIERS), ("file", "split", "statistic", "score", "reason"), lines)
    worst: dict[tuple[str, int], str] = {}
    for (split, outlier), line in zip(ranked, lines, strict=True):
        worst.setdefault((split, outlier.row), f"{line[0]}\n{outlier.statistic} {outlier.score:+.1f}")
    shown = list(worst.items())[:SHOWN]
    if shown:
        tiles = [(splits[split].take(np.array([row])), caption) for (split, row), caption in shown]
        picture = io.BytesIO()
        contact_sheet(tiles).save(picture, "PNG")
        with atomic_write(place(SHEET)) as file:
            file.write(picture.getvalue())
    elif os.path.exists(place(SHEET)):
        os.remove(place(SHEET))
    return found


def _write_duplicates(path: str, splits: dict[str, Index], training: str) -> dict[str, int]:
    """duplicates.csv: a line for each image that an earlier one equals; training comes first."""
    ordered = sorted(splits, key=lambda split: split != training)
    of = [(name, split, label) for split in ordered for name, label in zip(*_named_labels(splits[split]), strict=True)]
    first = duplicates.first_copies(*(splits[split] for split in ordered)).tolist()
    lines = [(*of[row], *of[same]) for row, same in enumerate(first) if row != same]
    write_csv(path, ("file", "split", "class", "same_as", "same_as_split", "same_as_class"), lines)
    return {
        "within splits": sum(line[1] == line[4] for line in lines),
        "across splits": sum(line[1] != line[4] for line in lines),
        "of another class": sum(line[2] != line[5] for line in lines),
    }


def _named_labels(rows: Index) -> tuple[list[str], list[str]]:
    return rows.names, [rows.features.classes[label] for label in rows.columns["label"]]


def _drop(
    config: PrepareConfig, directory: str, prepared: Prepared, train: Index, split: str, found: list[outliers.Outlier]
) -> int:
    """Marks the training split's outliers as dropped where that is asked for, and no others; how many.

    Raises:
      UsageError: they are more than `max_outlier_fraction` of it.
    """
    path = os.path.join(directory, index.DROPPED)
    reasons = outliers.reasons(found) if config.outliers == "drop" else {}
    require(
        len(reasons) <= config.max_outlier_fraction * len(train),
        f"{len(reasons)} of {len(train)} images of {split} are outliers, more than --max_outlier_fraction"
        f" ({config.max_outlier_fraction}) allows to drop: look at {OUTLIERS}, then raise it or use --outliers=flag.",
    )
    if not reasons and not os.path.exists(path):
        return 0
    if reasons:
        shards, records = (train.columns[name] for name in ("shard", "record"))
        places = [(os.path.basename(train.shards[shards[row]]), int(records[row])) for row in reasons]
        write_csv(
            path,
            ("shard", "record", "reason"),
            sorted((*at, why) for at, why in zip(places, reasons.values(), strict=True)),
        )
        logging.warning("%d of %d images of %s are dropped as outliers", len(reasons), len(train), split)
    else:
        os.remove(path)
    state = index.state_of(list(prepared.rows.shards), directory, config.max_pixels)
    index.store(os.path.join(directory, index.STORED), state, index.without_dropped(prepared.rows, directory))
    return len(reasons)


def write_csv(path: str, header: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *lines])
    write_text(path, text.getvalue())
