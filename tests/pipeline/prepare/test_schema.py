"""Data meets the schema inferred from it; differing data gives anomalies that say where and by how much."""

from __future__ import annotations

import copy
import pathlib
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from scipy.spatial import distance
from tensorflow_metadata.proto.v0 import anomalies_pb2

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.prepare import schema
from evenkeel.pipeline.prepare.statistics import compute_statistics, features_by_name
from tests.indexes import index_of

Info = anomalies_pb2.AnomalyInfo


def images(count: int, level: int = 100, first: int = 0) -> list[np.ndarray]:
    rngs = [np.random.default_rng(seed) for seed in range(first, first + count)]
    return [np.clip(rng.normal(level + rng.normal(0, 20), 30, (12, 14, 3)), 0, 255).astype(np.uint8) for rng in rngs]


def split_statistics(train: list[np.ndarray], test: list[np.ndarray]) -> Any:
    return compute_statistics({"train": index_of(train), "test": index_of(test)})


@pytest.fixture(scope="module")
def typical() -> Any:
    return split_statistics(images(200), images(50, first=200))


def only_anomaly(anomalies: Any) -> tuple[str, Any]:
    ((name, info),) = anomalies.anomaly_info.items()
    return name, info


def reason_types(info: Any) -> list[int]:
    return [reason.type for reason in info.reason]


def test_data_meets_the_schema_inferred_from_it(typical: Any) -> None:
    anomalies = schema.validate_statistics(typical, schema.infer_schema(typical))
    assert schema.count_anomalies(anomalies) == {"error": 0, "warning": 0}
    assert schema.anomaly_lines(anomalies) == []
    assert {info.path.step[0] for info in anomalies.drift_skew_info} == {
        "label", "height", "width", "brightness", "contrast", "sharpness",
    }  # fmt: skip


def test_a_schema_is_text_that_can_be_edited_and_read_back(typical: Any, tmp_path: pathlib.Path) -> None:
    expected, path = schema.infer_schema(typical), tmp_path / "schema.pbtxt"
    path.write_text(text_format.MessageToString(expected))
    assert schema.read_schema(str(path)) == expected
    text = path.read_text()
    assert 'value: "a"' in text
    assert "infinity_norm" in text
    path.write_text(text.replace('value: "a"', 'value: "cat"'))
    name, info = only_anomaly(schema.validate_statistics(typical, schema.read_schema(str(path))))
    assert name == "label"
    assert set(reason_types(info)) == {Info.ENUM_TYPE_UNEXPECTED_STRING_VALUES}
    assert info.severity == Info.ERROR
    assert "train: not in the schema: a (50.0%)" in info.description


@pytest.mark.parametrize("contents", [None, "feature {", "no schema", b"\xff\xfe"])
def test_an_unreadable_schema_is_refused_in_one_line(tmp_path: pathlib.Path, contents: str | bytes | None) -> None:
    path = tmp_path / "schema.pbtxt"
    if contents is not None:
        path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    with pytest.raises(UsageError, match=r"^--schema \(.*schema.pbtxt\) cannot be read: .*; give a schema") as raised:
        schema.read_schema(str(path))
    assert "\n" not in str(raised.value)


def expected_feature(typical: Any, name: str) -> tuple[Any, Any]:
    whole = schema.infer_schema(typical)
    return whole, next(feature for feature in whole.feature if feature.name == name)


def test_values_outside_their_range_are_errors_that_name_both_numbers(typical: Any) -> None:
    whole, feature = expected_feature(typical, "height")
    feature.int_domain.min, feature.int_domain.max = 20, 30
    name, info = only_anomaly(schema.validate_statistics(typical, whole))
    assert (name, set(reason_types(info))) == ("height", {Info.INT_TYPE_SMALL_INT})
    assert "train: 12 is below the schema's minimum of 20" in info.description
    whole, feature = expected_feature(typical, "red")
    feature.float_domain.max = 50
    name, info = only_anomaly(schema.validate_statistics(typical, whole))
    assert (name, set(reason_types(info))) == ("red", {Info.FLOAT_TYPE_BIG_FLOAT})


def test_a_missing_feature_is_an_error_and_a_new_one_a_warning(typical: Any) -> None:
    whole, feature = expected_feature(typical, "sharpness")
    feature.name = "saturation"
    anomalies = schema.validate_statistics(typical, whole)
    assert schema.count_anomalies(anomalies) == {"error": 1, "warning": 1}
    assert set(reason_types(anomalies.anomaly_info["saturation"])) == {Info.SCHEMA_MISSING_COLUMN}
    assert set(reason_types(anomalies.anomaly_info["sharpness"])) == {Info.SCHEMA_NEW_COLUMN}
    assert schema.anomaly_lines(anomalies)[0].startswith("error: saturation: train has no feature saturation")


def test_a_class_without_training_images_is_a_warning() -> None:
    rows = index_of(images(40))
    statistics = compute_statistics({"train": rows.take(np.arange(0, 40, 2)), "test": rows.take(np.arange(0, 40, 4))})
    name, info = only_anomaly(schema.validate_statistics(statistics, schema.infer_schema(statistics)))
    assert (name, info.severity) == ("label", Info.WARNING)
    assert info.description == "class b has no image in train"


def test_brighter_validation_images_are_skew() -> None:
    skewed = split_statistics(images(200), images(50, level=180))
    anomalies = schema.validate_statistics(skewed, schema.infer_schema(skewed))
    assert reason_types(anomalies.anomaly_info["brightness"]) == [Info.COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH]
    assert "between train and test is" in anomalies.anomaly_info["brightness"].description
    assert "label" not in anomalies.anomaly_info


def relabel(rows: Index, ones: int) -> Index:
    changed = rows.take(np.arange(len(rows)))
    changed.columns["label"] = (np.arange(len(rows)) < ones).astype(np.int64)
    return changed


def test_another_class_balance_is_skew() -> None:
    rows = index_of(images(100))
    statistics = compute_statistics({"train": relabel(rows, 50), "test": relabel(rows, 95)})
    anomalies = schema.validate_statistics(statistics, schema.infer_schema(statistics))
    assert reason_types(anomalies.anomaly_info["label"]) == [Info.COMPARATOR_L_INFTY_HIGH]
    (info,) = [info for info in anomalies.drift_skew_info if info.path.step[0] == "label"]
    assert info.skew_measurements[0].value == pytest.approx(0.45)
    assert not info.drift_measurements


def test_drift_compares_training_splits(typical: Any) -> None:
    expected = schema.infer_schema(typical)
    assert schema.count_anomalies(schema.validate_statistics(typical, expected, typical)) == {"error": 0, "warning": 0}
    before = split_statistics(images(200, level=30, first=500), images(50, first=200))
    anomalies = schema.validate_statistics(typical, expected, before)
    assert "from the data prepared before" in anomalies.anomaly_info["brightness"].description
    (info,) = [info for info in anomalies.drift_skew_info if info.path.step[0] == "brightness"]
    assert info.drift_measurements[0].value > info.drift_measurements[0].threshold


def test_the_threshold_comes_from_the_schema(typical: Any) -> None:
    whole, feature = expected_feature(typical, "brightness")
    feature.skew_comparator.jensen_shannon_divergence.threshold = 0
    name, info = only_anomaly(schema.validate_statistics(typical, whole))
    assert (name, reason_types(info)) == ("brightness", [Info.COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH])


def test_the_divergence_equals_scipy() -> None:
    features = [
        features_by_name(compute_statistics({"train": index_of(rows)}).datasets[0])["brightness"]
        for rows in (images(50), images(50, 140, 50))
    ]
    edges = np.unique(
        [
            b
            for f in features
            for bucket in f.num_stats.histograms[0].buckets
            for b in (bucket.low_value, bucket.high_value)
        ]
    )

    def shares(feature: Any) -> np.ndarray:
        """The shares between all edges, with each bucket spread evenly."""
        total = np.zeros(len(edges) - 1)
        for bucket in feature.num_stats.histograms[0].buckets:
            inside = np.clip(
                np.minimum(edges[1:], bucket.high_value) - np.maximum(edges[:-1], bucket.low_value), 0, None
            )
            total += bucket.sample_count * inside / inside.sum()
        return total / total.sum()

    expected = distance.jensenshannon(shares(features[0]), shares(features[1]), base=2) ** 2
    assert schema.jensen_shannon_divergence(*features) == pytest.approx(expected, rel=1e-6)


def test_the_divergence_is_0_for_equal_and_1_for_disjoint_distributions(typical: Any) -> None:
    train, test = (features_by_name(data) for data in typical.datasets)
    assert schema.jensen_shannon_divergence(train["contrast"], copy.deepcopy(train["contrast"])) == 0
    assert schema.jensen_shannon_divergence(train["height"], train["width"]) == pytest.approx(1)  # all 12, and all 14
    assert schema.jensen_shannon_divergence(train["height"], test["height"]) == 0
    assert schema.l_infinity_distance(train["label"], train["format"]) == 1
