"""Rows of the index -> tensorflow-metadata's statistics, one data set's for each split.

    found = statistics({"train": train, "validation": validation})     # DatasetFeatureStatisticsList
    per_image(train)["sharpness"]                                      # float64 [rows]

Everything follows from the index's whole numbers: exact, in no pass over the images.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tensorflow_metadata.proto.v0 import statistics_pb2

from evenkeel.pipeline.images.header import FORMATS
from evenkeel.pipeline.index.index import RAW, Index

BUCKETS = 10
CHANNELS = ("red", "green", "blue")
MEASURED = ("brightness", "contrast", "sharpness")
Numbers = statistics_pb2.FeatureNameStatistics


def per_image(index: Index) -> dict[str, np.ndarray]:
    """float64 [rows]: mean and standard deviation of luma, in units of 0..255, and the variance of its Laplacian
    (Pech-Pacheco et al. 2000), NaN for images without an inner pixel."""
    columns = index.columns
    height, width = columns["height"].astype(np.int64), columns["width"].astype(np.int64)
    brightness, deviation = _mean_and_variance(columns["sums"][:, 3], columns["squares"][:, 3], height * width)
    inner = np.maximum(height - 2, 0) * np.maximum(width - 2, 0)
    _, sharpness = _mean_and_variance(columns["laplacian"][:, 0], columns["laplacian"][:, 1], inner)
    return dict(zip(MEASURED, (brightness, np.sqrt(deviation), sharpness), strict=True))


def _mean_and_variance(sums: np.ndarray, squares: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counts = np.where(counts > 0, counts, np.nan)
    mean = sums / counts
    return mean, np.maximum(squares / counts - mean**2, 0)


def statistics(splits: dict[str, Index]) -> Any:
    """A `DatasetFeatureStatisticsList`, a data set for each split of usable rows.

    `label` and `format` are strings, `height`, `width`, `brightness`, `contrast` and `sharpness` numbers by image;
    `red`, `green` and `blue` hold mean and standard deviation over all pixels.
    """
    found = statistics_pb2.DatasetFeatureStatisticsList()
    for split, index in splits.items():
        columns = index.columns
        data = found.datasets.add(name=split, num_examples=len(index))
        counts = np.bincount(columns["label"], minlength=len(index.features.classes))
        _add_strings(data, "label", dict(zip(index.features.classes, counts.tolist(), strict=True)))
        formats = np.where(columns["kind"] == RAW, len(FORMATS), columns["format"])
        kinds, counts = np.unique(formats, return_counts=True)
        _add_strings(data, "format", {(*FORMATS, "pixels")[k]: int(n) for k, n in zip(kinds, counts, strict=True)})
        for name in ("height", "width"):
            _add_numbers(data, name, Numbers.INT, columns[name].astype(np.float64))
        for name, values in per_image(index).items():
            _add_numbers(data, name, Numbers.FLOAT, values)
        pixels = sum((columns["height"].astype(np.int64) * columns["width"]).tolist())
        for channel, name in enumerate(CHANNELS):
            total, squares = (sum(columns[of][:, channel].tolist()) for of in ("sums", "squares"))
            feature = data.features.add(type=Numbers.FLOAT)
            feature.path.step.append(name)
            _add_common(feature.num_stats, len(index), 0)
            feature.num_stats.mean = total / pixels
            # Whole numbers to the end: nothing cancels.
            feature.num_stats.std_dev = math.sqrt(pixels * squares - total * total) / pixels
    return found


def named(dataset: Any) -> dict[str, Any]:
    """{name: FeatureNameStatistics} of a split's statistics."""
    return {feature.path.step[0]: feature for feature in dataset.features}


def label_shares(feature: Any) -> dict[str, float]:
    """{value: its share} of a string feature."""
    counts = {bucket.label: bucket.sample_count for bucket in feature.string_stats.rank_histogram.buckets}
    total = sum(counts.values()) or 1
    return {name: count / total for name, count in counts.items()}


def _add_common(stats: Any, present: int, missing: int) -> None:
    common = stats.common_stats
    common.num_non_missing, common.num_missing, common.tot_num_values = present, missing, present
    common.min_num_values, common.max_num_values, common.avg_num_values = 1, 1, 1


def _add_strings(data: Any, name: str, counts: dict[str, int]) -> None:
    feature = data.features.add(type=Numbers.STRING)
    feature.path.step.append(name)
    stats = feature.string_stats
    total = sum(counts.values())
    _add_common(stats, total, 0)
    stats.unique = sum(count > 0 for count in counts.values())
    stats.avg_length = sum(len(value) * count for value, count in counts.items()) / max(total, 1)
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    for rank, (value, count) in enumerate(ranked):
        if rank < BUCKETS and count:
            stats.top_values.add(value=value, frequency=count)
        stats.rank_histogram.buckets.add(low_rank=rank, high_rank=rank, label=value, sample_count=count)


def _add_numbers(data: Any, name: str, kind: int, values: np.ndarray) -> None:
    feature = data.features.add(type=kind)
    feature.path.step.append(name)
    stats, present = feature.num_stats, values[np.isfinite(values)]
    _add_common(stats, len(present), len(values) - len(present))
    if not len(present):
        return
    stats.mean, stats.std_dev, stats.median = float(present.mean()), float(present.std()), float(np.median(present))
    stats.min, stats.max, stats.num_zeros = float(present.min()), float(present.max()), int((present == 0).sum())
    even = np.linspace(stats.min, stats.max, BUCKETS + 1)
    quantiles = np.quantile(present, np.linspace(0, 1, BUCKETS + 1))
    for kind_of, edges in ((statistics_pb2.Histogram.STANDARD, even), (statistics_pb2.Histogram.QUANTILES, quantiles)):
        histogram = stats.histograms.add(type=kind_of)
        if kind_of == statistics_pb2.Histogram.STANDARD:
            places = np.clip(np.searchsorted(edges, present, side="right") - 1, 0, BUCKETS - 1)
            counts = np.bincount(places, minlength=BUCKETS).astype(np.float64)
        else:
            counts = np.full(BUCKETS, len(present) / BUCKETS)
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
            histogram.buckets.add(low_value=low, high_value=high, sample_count=count)
