"""The schema of a data set, a text file that can be edited, and the anomalies of statistics that violate it.

    schema = infer_schema(statistics)
    anomalies = validate_statistics(statistics, schema, previous=None)       # tensorflow-metadata's Anomalies

Comparators of the schema hold the thresholds for skew (training against each other split) and for drift (training
against data prepared earlier): the L-infinity distance of the labels' distribution, and for numeric features the
Jensen-Shannon divergence (base 2).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.prepare.statistics import CHANNELS, features_by_name, value_shares

VALUE_RANGES = {"brightness": (0.0, 255.0), "contrast": (0.0, 127.5), "sharpness": (0.0, 1020.0**2)}
# This distance is tolerated in addition to the distance that samples of these sizes have by chance.
TOLERATED_DISTANCE = 0.1
MAX_SHARED = (
    0.01  # share of images in other splits that may be copies of an image of another split before it is an error
)
Info = anomalies_pb2.AnomalyInfo
Measurement = anomalies_pb2.DriftSkewInfo.Measurement


def training_split(statistics: Any) -> Any:
    """The statistics of the split `train`, or of the largest split if there is no split `train`."""
    return max(statistics.datasets, key=lambda dataset: (dataset.name == "train", dataset.num_examples))


def infer_schema(statistics: Any) -> Any:
    """A schema that these statistics satisfy.

    It holds the classes and formats, a range of sizes (half the smallest to twice the largest), the possible values of
    luma statistics, and comparators with their thresholds.
    """
    schema, train = schema_pb2.Schema(), training_split(statistics)
    smallest = min(dataset.num_examples for dataset in statistics.datasets)
    noise = 1 / max(train.num_examples, 1) + 1 / max(smallest, 1)
    for name, feature in features_by_name(train).items():
        expected = schema.feature.add(name=name)
        expected.presence.min_fraction, expected.presence.min_count = 1.0, 1
        in_all_splits = [features_by_name(dataset)[name] for dataset in statistics.datasets]
        if feature.type == statistics_pb2.FeatureNameStatistics.STRING:
            expected.type = schema_pb2.BYTES
            values = {value for in_split in in_all_splits for value in value_shares(in_split)}
            expected.string_domain.name = name
            expected.string_domain.value.extend(sorted(values))
            if name == "label":
                share = max(value_shares(feature).values(), default=0)
                # Three standard deviations of the most common class's share.
                threshold = round(TOLERATED_DISTANCE + 3 * math.sqrt(share * (1 - share) * noise), 3)
                expected.skew_comparator.infinity_norm.threshold = threshold
                expected.drift_comparator.infinity_norm.threshold = threshold
            continue
        if feature.type == statistics_pb2.FeatureNameStatistics.INT:
            expected.type = schema_pb2.INT
            expected.int_domain.min = int(min(in_split.num_stats.min for in_split in in_all_splits)) // 2
            expected.int_domain.max = int(max(in_split.num_stats.max for in_split in in_all_splits)) * 2
        else:
            expected.type = schema_pb2.FLOAT
            if name == "sharpness":  # images of fewer than three rows or columns have no sharpness
                expected.presence.min_fraction = 0.0
                expected.presence.min_count = 0
            expected.float_domain.min, expected.float_domain.max = VALUE_RANGES.get(name, (0.0, 255.0))
        if name not in CHANNELS:
            # Twice the mean divergence of two samples of one distribution: (buckets - 1) (1/n + 1/m) / (8 ln 2).
            threshold = round(TOLERATED_DISTANCE + 2 * 19 * noise / (8 * math.log(2)), 3)
            expected.skew_comparator.jensen_shannon_divergence.threshold = threshold
            expected.drift_comparator.jensen_shannon_divergence.threshold = threshold
    return schema


def read_schema(path: str) -> Any:
    """Reads a schema from a text file.

    Raises:
      UsageError: the file cannot be read or holds no schema.
    """
    try:
        with open(path) as file:
            return text_format.Parse(file.read(), schema_pb2.Schema())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"--schema ({path}) cannot be read: {reason[:200]}; give a schema.pbtxt as evenkeel prepare writes it."
        ) from error


def validate_statistics(statistics: Any, schema: Any, previous: Any = None) -> Any:
    """The violations of `schema` by `statistics`: an `Anomalies` with one entry per feature that violates it.

    With `previous`, the statistics of data prepared earlier, drift of the training split is checked too.
    """
    anomalies = anomalies_pb2.Anomalies(baseline=schema, anomaly_name_format=anomalies_pb2.Anomalies.SERIALIZED_PATH)
    train = training_split(statistics)
    expected = {feature.name: feature for feature in schema.feature}
    for dataset in statistics.datasets:
        features = features_by_name(dataset)
        for name, feature in expected.items():
            if name not in features:
                text = f"{dataset.name} has no feature {name}, which the schema requires"
                _add_anomaly(anomalies, name, Info.SCHEMA_MISSING_COLUMN, Info.ERROR, "missing", text)
            else:
                _check_presence(anomalies, dataset.name, name, features[name], feature)
                _check_values(anomalies, dataset.name, name, features[name], feature)
        for name in features.keys() - expected.keys():
            text = f"feature {name} is not in the schema"
            _add_anomaly(anomalies, name, Info.SCHEMA_NEW_COLUMN, Info.WARNING, "new", text)
        if dataset is not train:
            between = f"between {train.name} and {dataset.name}"
            _compare_distributions(anomalies, expected, dataset, train, "skew", between)
    for label, share in value_shares(features_by_name(train)["label"]).items():
        if share == 0:
            text = f"class {label} has no image in {train.name}"
            _add_anomaly(anomalies, "label", Info.CUSTOM_VALIDATION, Info.WARNING, "class without images", text)
    if previous is not None:
        earlier = training_split(previous)
        _compare_distributions(anomalies, expected, train, earlier, "drift", "from the data prepared before")
    return anomalies


def add_duplicates(anomalies: Any, copies: dict[str, int], sizes: dict[str, int], near: bool = False) -> None:
    """Adds anomalies for equal images in two splits and under two labels.

    Args:
      anomalies: the result of `validate_statistics`.
      copies: counts of equal images, or of near duplicates, as in summary.json.
      sizes: {split: number of images} of the splits besides training.
      near: whether the images are near duplicates.
    """
    across, conflicting = copies["across splits"], copies["of another class"]
    equal, verb = ("near-duplicate", "are near duplicates of") if near else ("equal", "equal")
    if across:
        text = f"{across} of {sum(sizes.values())} images of {', '.join(sizes)} {verb} an image of another split"
        severity = Info.ERROR if across > MAX_SHARED * sum(sizes.values()) else Info.WARNING
        _add_anomaly(anomalies, "image", Info.CUSTOM_VALIDATION, severity, f"{equal} images across splits", text)
    if conflicting:
        text = f"{conflicting} images {verb} an image of another class"
        _add_anomaly(anomalies, "image", Info.CUSTOM_VALIDATION, Info.WARNING, f"{equal} images, other label", text)


def count_anomalies(anomalies: Any) -> dict[str, int]:
    """Counts features with an anomaly, by its severity: {"error": n, "warning": m}."""
    severities = [info.severity for info in anomalies.anomaly_info.values()]
    return {"error": severities.count(Info.ERROR), "warning": severities.count(Info.WARNING)}


def anomaly_lines(anomalies: Any) -> list[str]:
    """One line of text per anomaly, errors first."""
    infos = sorted(anomalies.anomaly_info.items(), key=lambda item: (-item[1].severity, item[0]))
    return [
        f"{Info.Severity.Name(info.severity).lower()}: {name}: {reason.description}"
        for name, info in infos
        for reason in info.reason
    ]


def _check_presence(anomalies: Any, split: str, name: str, feature: Any, expected: Any) -> None:
    common = _common_stats(feature)
    total = common.num_non_missing + common.num_missing
    if total and common.num_non_missing / total < expected.presence.min_fraction:
        text = f"{split}: {common.num_missing} of {total} images have no {name}"
        kind = Info.FEATURE_TYPE_LOW_FRACTION_PRESENT
        _add_anomaly(anomalies, name, kind, Info.ERROR, "missing values", text)
    if common.num_non_missing < expected.presence.min_count:
        text = (
            f"{split}: {common.num_non_missing} images have {name}, the schema requires {expected.presence.min_count}"
        )
        _add_anomaly(anomalies, name, Info.FEATURE_TYPE_LOW_NUMBER_PRESENT, Info.ERROR, "too few values", text)


def _check_values(anomalies: Any, split: str, name: str, feature: Any, expected: Any) -> None:
    if feature.HasField("string_stats"):
        known = expected.string_domain.value
        unknown = {value: share for value, share in value_shares(feature).items() if share and value not in known}
        if known and unknown:
            values = ", ".join(f"{value} ({share:.1%})" for value, share in sorted(unknown.items()))
            text, kind = f"{split}: not in the schema: {values}", Info.ENUM_TYPE_UNEXPECTED_STRING_VALUES
            _add_anomaly(anomalies, name, kind, Info.ERROR, "unexpected values", text)
        return
    if not _common_stats(feature).num_non_missing:
        return
    stats, is_int = feature.num_stats, expected.type == schema_pb2.INT
    domain = expected.int_domain if is_int else expected.float_domain
    # Only the mean and the standard deviation of a channel are known.
    low, high = (stats.mean, stats.mean) if name in CHANNELS else (stats.min, stats.max)
    if domain.HasField("min") and low < domain.min:
        kind = Info.INT_TYPE_SMALL_INT if is_int else Info.FLOAT_TYPE_SMALL_FLOAT
        text = f"{split}: {low:g} is below the schema's minimum of {domain.min:g}"
        _add_anomaly(anomalies, name, kind, Info.ERROR, "too small", text)
    if domain.HasField("max") and high > domain.max:
        kind = Info.INT_TYPE_BIG_INT if is_int else Info.FLOAT_TYPE_BIG_FLOAT
        text = f"{split}: {high:g} is above the schema's maximum of {domain.max:g}"
        _add_anomaly(anomalies, name, kind, Info.ERROR, "too large", text)


def _common_stats(feature: Any) -> Any:
    return (feature.string_stats if feature.HasField("string_stats") else feature.num_stats).common_stats


def _compare_distributions(
    anomalies: Any, expected: dict[str, Any], dataset: Any, control: Any, comparison: str, between: str
) -> None:
    """Adds the distances of `dataset` from `control`, and an anomaly for each above the schema's threshold.

    `comparison` is skew or drift; `between` says in the text what is compared.
    """
    features, control_features = features_by_name(dataset), features_by_name(control)
    for name, feature in expected.items():
        if not feature.HasField(f"{comparison}_comparator") or name not in features:
            continue
        if name not in control_features:
            text = f"{comparison} {between} cannot be computed: there is no {name} to compare with"
            kind = Info.COMPARATOR_CONTROL_DATA_MISSING
            _add_anomaly(anomalies, name, kind, Info.WARNING, f"no {comparison}", text)
            continue
        comparator, pair = getattr(feature, f"{comparison}_comparator"), (features[name], control_features[name])
        if comparator.HasField("infinity_norm"):
            measure, label, threshold = Measurement.L_INFTY, "L-infinity distance", comparator.infinity_norm.threshold
            value, kind = l_infinity_distance(*pair), Info.COMPARATOR_L_INFTY_HIGH
        else:
            measure, label = Measurement.JENSEN_SHANNON_DIVERGENCE, "Jensen-Shannon divergence"
            threshold = comparator.jensen_shannon_divergence.threshold
            value, kind = jensen_shannon_divergence(*pair), Info.COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH
        infos = anomalies.drift_skew_info
        info = next((info for info in infos if info.path.step[0] == name), None) or infos.add()
        if not info.path.step:
            info.path.step.append(name)
        getattr(info, f"{comparison}_measurements").add(type=measure, value=value, threshold=threshold)
        if value > threshold:
            text = f"{label} {between} is {value:.3f}, above the schema's threshold of {threshold:g}"
            _add_anomaly(anomalies, name, kind, Info.ERROR, comparison, text)


def l_infinity_distance(a: Any, b: Any) -> float:
    """The largest difference, over all values, between the shares of a value in two string features."""
    p, q = value_shares(a), value_shares(b)
    return max((abs(p.get(value, 0) - q.get(value, 0)) for value in p.keys() | q.keys()), default=0.0)


def jensen_shannon_divergence(a: Any, b: Any) -> float:
    """The Jensen-Shannon divergence (base 2, 0 to 1) of the histograms of two numeric features.

    Each histogram is evaluated on the bucket edges of both, with values spread evenly within a bucket.
    """
    distributions = [_cumulative_histogram(feature) for feature in (a, b)]
    if None in distributions:
        return float(distributions[0] is not distributions[1])
    edges = np.unique(np.concatenate([x for x, _ in distributions]))  # type: ignore[misc]
    p, q = (np.diff(np.interp(edges, x, y, left=0, right=1)) for x, y in distributions)  # type: ignore[misc]
    mixture = (p + q) / 2
    divergence = lambda r: float(np.sum(r[r > 0] * np.log2(r[r > 0] / mixture[r > 0])))  # noqa: E731
    return (divergence(p) + divergence(q)) / 2


def _cumulative_histogram(feature: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """The edges of the equal-width histogram, and the share of values below each edge; None if there are no values."""
    standard = statistics_pb2.Histogram.STANDARD
    histogram = next((h for h in feature.num_stats.histograms if h.type == standard), None)
    if histogram is None:
        return None
    edges = np.array([histogram.buckets[0].low_value, *(bucket.high_value for bucket in histogram.buckets)])
    if edges[0] == edges[-1]:  # a single value becomes the narrowest step that floats resolve safely
        edges = edges[0] + np.linspace(-1, 1, len(edges)) * max(1e-9, 1e-9 * abs(edges[0]))
    counts = np.array([bucket.sample_count for bucket in histogram.buckets])
    return edges, np.concatenate([[0], np.cumsum(counts)]) / counts.sum()


def _add_anomaly(anomalies: Any, name: str, kind: int, severity: int, short: str, text: str) -> None:
    info = anomalies.anomaly_info[name]
    if not info.path.step:
        info.path.step.append(name)
    info.reason.add(type=kind, short_description=short, description=text)
    info.severity = max(info.severity, severity)
    info.short_description = short if len(info.reason) == 1 else "several reasons"
    info.description = "; ".join(reason.description for reason in info.reason)
