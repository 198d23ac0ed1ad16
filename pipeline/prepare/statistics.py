"""Statistics of images: one value per image, and tensorflow-metadata's statistics of each split.

    image_statistics(train)["sharpness"]                               # float64 [rows]
    compute_statistics({"train": train, "validation": validation})     # DatasetFeatureStatisticsList

Both are computed from the integer sums in the index, so they are exact and no image is read.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tensorflow_metadata.proto.v0 import statistics_pb2

from evenkeel.pipeline.images.header import FORMATS
from evenkeel.pipeline.index.index import RAW, Index

HISTOGRAM_BUCKETS = 10
CHANNELS = ("red", "green", "blue")
IMAGE_STATISTICS = ("brightness", "contrast", "sharpness")
FeatureType = statistics_pb2.FeatureNameStatistics


def image_statistics(index: Index) -> dict[str, np.ndarray]:
    """Brightness, contrast and sharpness of each image, {statistic: float64 [rows]}.

    Brightness and contrast are the mean and the standard deviation of luma, in units of 0 to 255. Sharpness is the
    variance of the Laplacian of luma (Pech-Pacheco et al. 2000), NaN for images without an inner pixel.
    """
    columns = index.columns
    height, width = columns["height"].astype(np.int64), columns["width"].astype(np.int64)
    brightness, variance = _mean_and_variance(columns["sums"][:, 3], columns["squares"][:, 3], height * width)
    inner = np.maximum(height - 2, 0) * np.maximum(width - 2, 0)
    _, sharpness = _mean_and_variance(columns["laplacian"][:, 0], columns["laplacian"][:, 1], inner)
    return dict(zip(IMAGE_STATISTICS, (brightness, np.sqrt(variance), sharpness), strict=True))


def _mean_and_variance(sums: np.ndarray, squares: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counts = np.where(counts > 0, counts, np.nan)
    mean = sums / counts
    return mean, np.maximum(squares / counts - mean**2, 0)


def compute_statistics(splits: dict[str, Index]) -> Any:
    """A `DatasetFeatureStatisticsList` with one entry per split; `splits` must hold usable rows only.

    `label` and `format` are string features. `height`, `width`, `brightness`, `contrast` and `sharpness` are numeric,
    one value per image. `red`, `green` and `blue` hold mean and standard deviation over all pixels.
    """
    result = statistics_pb2.DatasetFeatureStatisticsList()
    for split, index in splits.items():
        columns = index.columns
        dataset = result.datasets.add(name=split, num_examples=len(index))
        counts = np.bincount(columns["label"], minlength=len(index.features.classes))
        _add_strings(dataset, "label", dict(zip(index.features.classes, counts.tolist(), strict=True)))
        formats = np.where(columns["kind"] == RAW, len(FORMATS), columns["format"])
        kinds, counts = np.unique(formats, return_counts=True)
        format_names = (*FORMATS, "pixels")
        _add_strings(dataset, "format", {format_names[k]: int(n) for k, n in zip(kinds, counts, strict=True)})
        for name in ("height", "width"):
            _add_numbers(dataset, name, FeatureType.INT, columns[name].astype(np.float64))
        for name, values in image_statistics(index).items():
            _add_numbers(dataset, name, FeatureType.FLOAT, values)
        pixels = sum((columns["height"].astype(np.int64) * columns["width"]).tolist())
        for channel, name in enumerate(CHANNELS):
            total, squares = (sum(columns[column][:, channel].tolist()) for column in ("sums", "squares"))
            feature = dataset.features.add(type=FeatureType.FLOAT)
            feature.path.step.append(name)
            _add_common(feature.num_stats, len(index), 0)
            feature.num_stats.mean = total / pixels
            # All numbers are integers up to here, so that the difference loses no digits.
            feature.num_stats.std_dev = math.sqrt(pixels * squares - total * total) / pixels
    return result


def features_by_name(dataset: Any) -> dict[str, Any]:
    """Returns {name: FeatureNameStatistics} from the statistics of one split."""
    return {feature.path.step[0]: feature for feature in dataset.features}


def value_shares(feature: Any) -> dict[str, float]:
    """Returns {value: its share of the images} for a string feature."""
    counts = {bucket.label: bucket.sample_count for bucket in feature.string_stats.rank_histogram.buckets}
    total = sum(counts.values()) or 1
    return {value: count / total for value, count in counts.items()}


def _add_common(stats: Any, present: int, missing: int) -> None:
    common = stats.common_stats
    common.num_non_missing, common.num_missing, common.tot_num_values = present, missing, present
    common.min_num_values, common.max_num_values, common.avg_num_values = 1, 1, 1


def _add_strings(dataset: Any, name: str, counts: dict[str, int]) -> None:
    feature = dataset.features.add(type=FeatureType.STRING)
    feature.path.step.append(name)
    stats = feature.string_stats
    total = sum(counts.values())
    _add_common(stats, total, 0)
    stats.unique = sum(count > 0 for count in counts.values())
    stats.avg_length = sum(len(value) * count for value, count in counts.items()) / max(total, 1)
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    for rank, (value, count) in enumerate(ranked):
        if rank < HISTOGRAM_BUCKETS and count:
            stats.top_values.add(value=value, frequency=count)
        stats.rank_histogram.buckets.add(low_rank=rank, high_rank=rank, label=value, sample_count=count)


def _add_numbers(dataset: Any, name: str, feature_type: int, values: np.ndarray) -> None:
    feature = dataset.features.add(type=feature_type)
    feature.path.step.append(name)
    stats, present = feature.num_stats, values[np.isfinite(values)]
    _add_common(stats, len(present), len(values) - len(present))
    if not len(present):
        return
    stats.mean, stats.std_dev, stats.median = float(present.mean()), float(present.std()), float(np.median(present))
    stats.min, stats.max, stats.num_zeros = float(present.min()), float(present.max()), int((present == 0).sum())
    edges = np.linspace(stats.min, stats.max, HISTOGRAM_BUCKETS + 1)
    buckets = np.clip(np.searchsorted(edges, present, side="right") - 1, 0, HISTOGRAM_BUCKETS - 1)
    counts = np.bincount(buckets, minlength=HISTOGRAM_BUCKETS).astype(np.float64)
    _add_histogram(stats, statistics_pb2.Histogram.STANDARD, edges, counts)
    quantiles = np.quantile(present, np.linspace(0, 1, HISTOGRAM_BUCKETS + 1))
    counts = np.full(HISTOGRAM_BUCKETS, len(present) / HISTOGRAM_BUCKETS)
    _add_histogram(stats, statistics_pb2.Histogram.QUANTILES, quantiles, counts)


def _add_histogram(stats: Any, histogram_type: int, edges: np.ndarray, counts: np.ndarray) -> None:
    histogram = stats.histograms.add(type=histogram_type)
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        histogram.buckets.add(low_value=low, high_value=high, sample_count=count)
