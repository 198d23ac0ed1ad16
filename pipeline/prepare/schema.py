"""What the data should look like, as a file a person can edit, and where it does not.

    wanted = infer(statistics)
    anomalies = check(statistics, wanted, previous=None)       # tensorflow-metadata's Anomalies

The thresholds of skew (training against the other splits) and drift (against data prepared before) are the schema's
comparators: the L-infinity distance of the label's distribution, the Jensen-Shannon divergence (base 2) of a number's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.prepare.statistics import CHANNELS, label_shares, named

NATURAL = {"brightness": (0.0, 255.0), "contrast": (0.0, 127.5), "sharpness": (0.0, 1020.0**2)}
# What a distance may be without a cause, on top of what samples of these sizes show.
TOLERATED = 0.1
Info = anomalies_pb2.AnomalyInfo
Measurement = anomalies_pb2.DriftSkewInfo.Measurement


def training_split(statistics: Any) -> Any:
    """The split called train, or else the largest."""
    return max(statistics.datasets, key=lambda data: (data.name == "train", data.num_examples))


def infer(statistics: Any) -> Any:
    """A schema that this data meets: its classes and formats, sizes with room, what luma can be, and comparators."""
    schema, train = schema_pb2.Schema(), training_split(statistics)
    smallest = min(data.num_examples for data in statistics.datasets)
    noise = 1 / max(train.num_examples, 1) + 1 / max(smallest, 1)
    for name, feature in named(train).items():
        wanted = schema.feature.add(name=name)
        wanted.presence.min_fraction, wanted.presence.min_count = 1.0, 1
        every = [named(data)[name] for data in statistics.datasets]
        if feature.type == statistics_pb2.FeatureNameStatistics.STRING:
            wanted.type = schema_pb2.BYTES
            values = {value for of in every for value in label_shares(of)}
            wanted.string_domain.name = name
            wanted.string_domain.value.extend(sorted(values))
            if name == "label":
                share = max(label_shares(feature).values(), default=0)
                # Three standard deviations of the most common class's share.
                threshold = round(TOLERATED + 3 * math.sqrt(share * (1 - share) * noise), 3)
                wanted.skew_comparator.infinity_norm.threshold = threshold
                wanted.drift_comparator.infinity_norm.threshold = threshold
            continue
        if feature.type == statistics_pb2.FeatureNameStatistics.INT:
            wanted.type = schema_pb2.INT
            wanted.int_domain.min = int(min(of.num_stats.min for of in every)) // 2
            wanted.int_domain.max = int(max(of.num_stats.max for of in every)) * 2
        else:
            wanted.type = schema_pb2.FLOAT
            if name == "sharpness":  # an image of less than three rows or columns has none
                wanted.presence.min_fraction = 0.0
                wanted.presence.min_count = 0
            wanted.float_domain.min, wanted.float_domain.max = NATURAL.get(name, (0.0, 255.0))
        if name not in CHANNELS:
            # Twice what two samples of one distribution show on average: (buckets - 1) (1/n + 1/m) / (8 ln 2).
            threshold = round(TOLERATED + 2 * 19 * noise / (8 * math.log(2)), 3)
            wanted.skew_comparator.jensen_shannon_divergence.threshold = threshold
            wanted.drift_comparator.jensen_shannon_divergence.threshold = threshold
    return schema


def read(path: str) -> Any:
    """The schema in a text file. Raises `UsageError` where there is none."""
    try:
        with open(path) as file:
            return text_format.Parse(file.read(), schema_pb2.Schema())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"--schema ({path}) cannot be read: {reason[:200]}; give a schema.pbtxt as tools.prepare writes it."
        ) from error


def check(statistics: Any, schema: Any, previous: Any = None) -> Any:
    """Where `statistics` do not meet `schema`: an `Anomalies`, an entry for each feature concerned.

    `previous` are the statistics of data prepared before; drift is that of the training split.
    """
    found = anomalies_pb2.Anomalies(baseline=schema, anomaly_name_format=anomalies_pb2.Anomalies.SERIALIZED_PATH)
    train = training_split(statistics)
    wanted = {feature.name: feature for feature in schema.feature}
    for data in statistics.datasets:
        features = named(data)
        for name, feature in wanted.items():
            if name not in features:
                _add(found, name, Info.SCHEMA_MISSING_COLUMN, Info.ERROR, "missing", f"{data.name} has no {name}")
            else:
                _check_feature(found, data, name, features[name], feature)
        for name in features.keys() - wanted.keys():
            _add(found, name, Info.SCHEMA_NEW_COLUMN, Info.WARNING, "new", f"the schema does not know {name}")
        if data is not train:
            _compare(found, wanted, data, train, "skew", f"between {train.name} and {data.name}")
    for label, share in label_shares(named(train)["label"]).items():
        if share == 0:
            text = f"class {label} has no image in {train.name}"
            _add(found, "label", Info.CUSTOM_VALIDATION, Info.WARNING, "class without images", text)
    if previous is not None:
        _compare(found, wanted, train, training_split(previous), "drift", "from the data prepared before")
    return found


def counts(anomalies: Any) -> dict[str, int]:
    """{"error": n, "warning": m}: features with an anomaly, by its severity."""
    severities = [info.severity for info in anomalies.anomaly_info.values()]
    return {"error": severities.count(Info.ERROR), "warning": severities.count(Info.WARNING)}


def lines(anomalies: Any) -> list[str]:
    """A line for each reason, errors first."""
    infos = sorted(anomalies.anomaly_info.items(), key=lambda item: (-item[1].severity, item[0]))
    return [
        f"{Info.Severity.Name(info.severity).lower()}: {name}: {reason.description}"
        for name, info in infos
        for reason in info.reason
    ]


def _check_feature(found: Any, data: Any, name: str, feature: Any, wanted: Any) -> None:
    strings = feature.HasField("string_stats")
    common = (feature.string_stats if strings else feature.num_stats).common_stats
    total = common.num_non_missing + common.num_missing
    if total and common.num_non_missing / total < wanted.presence.min_fraction:
        text = f"{data.name}: {common.num_missing} of {total} images have no {name}"
        _add(found, name, Info.FEATURE_TYPE_LOW_FRACTION_PRESENT, Info.ERROR, "missing values", text)
    if common.num_non_missing < wanted.presence.min_count:
        text = f"{data.name}: {common.num_non_missing} images have {name}, the schema wants {wanted.presence.min_count}"
        _add(found, name, Info.FEATURE_TYPE_LOW_NUMBER_PRESENT, Info.ERROR, "too few values", text)
    if strings:
        known = wanted.string_domain.value
        strange = {value: share for value, share in label_shares(feature).items() if share and value not in known}
        if known and strange:
            text = f"{data.name}: " + ", ".join(f"{value} ({share:.1%})" for value, share in sorted(strange.items()))
            kind = Info.ENUM_TYPE_UNEXPECTED_STRING_VALUES
            _add(found, name, kind, Info.ERROR, "unexpected values", f"{text} not in the schema")
        return
    stats, is_int = feature.num_stats, wanted.type == schema_pb2.INT
    domain = wanted.int_domain if is_int else wanted.float_domain
    # Of a channel only mean and deviation are known.
    low, high = (stats.mean, stats.mean) if name in CHANNELS else (stats.min, stats.max)
    if common.num_non_missing and domain.HasField("min") and low < domain.min:
        kind = Info.INT_TYPE_SMALL_INT if is_int else Info.FLOAT_TYPE_SMALL_FLOAT
        text = f"{data.name}: {low:g} is below the schema's {domain.min:g}"
        _add(found, name, kind, Info.ERROR, "too small", text)
    if common.num_non_missing and domain.HasField("max") and high > domain.max:
        kind = Info.INT_TYPE_BIG_INT if is_int else Info.FLOAT_TYPE_BIG_FLOAT
        text = f"{data.name}: {high:g} is above the schema's {domain.max:g}"
        _add(found, name, kind, Info.ERROR, "too large", text)


def _compare(found: Any, wanted: dict[str, Any], data: Any, control: Any, use: str, between: str) -> None:
    features, before = named(data), named(control)
    for name, feature in wanted.items():
        if not feature.HasField(f"{use}_comparator") or name not in features:
            continue
        if name not in before:
            text = f"there is no {name} to compare with, {between}"
            _add(found, name, Info.COMPARATOR_CONTROL_DATA_MISSING, Info.WARNING, f"no {use}", text)
            continue
        comparator = getattr(feature, f"{use}_comparator")
        if comparator.HasField("infinity_norm"):
            kind, what, threshold = Measurement.L_INFTY, "L-infinity distance", comparator.infinity_norm.threshold
            value, reason = infinity_norm(features[name], before[name]), Info.COMPARATOR_L_INFTY_HIGH
        else:
            kind, what = Measurement.JENSEN_SHANNON_DIVERGENCE, "Jensen-Shannon divergence"
            threshold = comparator.jensen_shannon_divergence.threshold
            value, reason = jensen_shannon(features[name], before[name]), Info.COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH
        info = next((i for i in found.drift_skew_info if i.path.step[0] == name), None) or found.drift_skew_info.add()
        if not info.path.step:
            info.path.step.append(name)
        getattr(info, f"{use}_measurements").add(type=kind, value=value, threshold=threshold)
        if value > threshold:
            text = f"{what} {between} is {value:.3f}, above the schema's {threshold:g}"
            _add(found, name, reason, Info.ERROR, f"{use}", text)


def infinity_norm(a: Any, b: Any) -> float:
    """The largest difference between two string features' shares of a value."""
    p, q = label_shares(a), label_shares(b)
    return max((abs(p.get(value, 0) - q.get(value, 0)) for value in p.keys() | q.keys()), default=0.0)


def jensen_shannon(a: Any, b: Any) -> float:
    """The Jensen-Shannon divergence (base 2, 0 to 1) of two number features' histograms, cut at the edges of both."""
    cumulated = [_cumulated(feature) for feature in (a, b)]
    if None in cumulated:
        return float(cumulated[0] is not cumulated[1])
    edges = np.unique(np.concatenate([x for x, _ in cumulated]))  # type: ignore[misc]
    p, q = (np.diff(np.interp(edges, x, y, left=0, right=1)) for x, y in cumulated)  # type: ignore[misc]
    middle = (p + q) / 2
    divergence = lambda r: float(np.sum(r[r > 0] * np.log2(r[r > 0] / middle[r > 0])))  # noqa: E731
    return (divergence(p) + divergence(q)) / 2


def _cumulated(feature: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Edges of the even histogram and the share below each; None where there is no value."""
    standard = statistics_pb2.Histogram.STANDARD
    histogram = next((h for h in feature.num_stats.histograms if h.type == standard), None)
    if histogram is None:
        return None
    edges = np.array([histogram.buckets[0].low_value, *(bucket.high_value for bucket in histogram.buckets)])
    if edges[0] == edges[-1]:  # a single value: as narrow a step as can be told apart
        edges = edges[0] + np.linspace(-1, 1, len(edges)) * max(1e-9, 1e-9 * abs(edges[0]))
    counts = np.array([bucket.sample_count for bucket in histogram.buckets])
    return edges, np.concatenate([[0], np.cumsum(counts)]) / counts.sum()


def _add(found: Any, name: str, kind: int, severity: int, short: str, text: str) -> None:
    info = found.anomaly_info[name]
    if not info.path.step:
        info.path.step.append(name)
    info.reason.add(type=kind, short_description=short, description=text)
    info.severity = max(info.severity, severity)
    info.short_description = short if len(info.reason) == 1 else "several reasons"
    info.description = "; ".join(reason.description for reason in info.reason)
