"""A schema is met by the data it was inferred from; what differs is an anomaly that says where and how much."""

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
from evenkeel.pipeline.prepare.statistics import named, statistics
from tests.pipeline.prepare.test_duplicates import index_of

Info = anomalies_pb2.AnomalyInfo


def images(count: int, level: int = 100, first: int = 0) -> list[np.ndarray]:
    rngs = [np.random.default_rng(seed) for seed in range(first, first + count)]
    return [np.clip(rng.normal(level + rng.normal(0, 20), 30, (12, 14, 3)), 0, 255).astype(np.uint8) for rng in rngs]


def pair(train: list[np.ndarray], test: list[np.ndarray]) -> Any:
    return statistics({"train": index_of(train), "test": index_of(test)})


@pytest.fixture(scope="module")
def usual() -> Any:
    return pair(images(200), images(50, first=200))


def only(anomalies: Any) -> tuple[str, Any]:
    ((name, info),) = anomalies.anomaly_info.items()
    return name, info


def kinds(info: Any) -> list[int]:
    return [reason.type for reason in info.reason]


def test_data_meets_the_schema_inferred_from_it(usual: Any) -> None:
    found = schema.check(usual, schema.infer(usual))
    assert schema.counts(found) == {"error": 0, "warning": 0}
    assert schema.lines(found) == []
    assert {info.path.step[0] for info in found.drift_skew_info} == {
        "label", "height", "width", "brightness", "contrast", "sharpness",
    }  # fmt: skip


def test_a_schema_is_text_that_can_be_edited_and_read_back(usual: Any, tmp_path: pathlib.Path) -> None:
    wanted, path = schema.infer(usual), tmp_path / "schema.pbtxt"
    path.write_text(text_format.MessageToString(wanted))
    assert schema.read(str(path)) == wanted
    text = path.read_text()
    assert 'value: "a"' in text
    assert "infinity_norm" in text
    path.write_text(text.replace('value: "a"', 'value: "cat"'))
    name, info = only(schema.check(usual, schema.read(str(path))))
    assert name == "label"
    assert set(kinds(info)) == {Info.ENUM_TYPE_UNEXPECTED_STRING_VALUES}
    assert info.severity == Info.ERROR
    assert "a (50.0%) not in the schema" in info.description


@pytest.mark.parametrize("contents", [None, "feature {", "no schema", b"\xff\xfe"])
def test_a_schema_that_cannot_be_read_is_one_line(tmp_path: pathlib.Path, contents: str | bytes | None) -> None:
    path = tmp_path / "schema.pbtxt"
    if contents is not None:
        path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    with pytest.raises(UsageError, match=r"^--schema \(.*schema.pbtxt\) cannot be read: .*; give a schema") as raised:
        schema.read(str(path))
    assert "\n" not in str(raised.value)


def wanted_of(usual: Any, name: str) -> tuple[Any, Any]:
    whole = schema.infer(usual)
    return whole, next(feature for feature in whole.feature if feature.name == name)


def test_values_outside_their_range_are_errors_with_both_numbers(usual: Any) -> None:
    whole, feature = wanted_of(usual, "height")
    feature.int_domain.min, feature.int_domain.max = 20, 30
    name, info = only(schema.check(usual, whole))
    assert (name, set(kinds(info))) == ("height", {Info.INT_TYPE_SMALL_INT})
    assert "train: 12 is below the schema's 20" in info.description
    whole, feature = wanted_of(usual, "red")
    feature.float_domain.max = 50
    name, info = only(schema.check(usual, whole))
    assert (name, set(kinds(info))) == ("red", {Info.FLOAT_TYPE_BIG_FLOAT})


def test_a_column_that_is_missing_is_an_error_and_one_that_is_new_a_warning(usual: Any) -> None:
    whole, feature = wanted_of(usual, "sharpness")
    feature.name = "saturation"
    found = schema.check(usual, whole)
    assert schema.counts(found) == {"error": 1, "warning": 1}
    assert set(kinds(found.anomaly_info["saturation"])) == {Info.SCHEMA_MISSING_COLUMN}
    assert set(kinds(found.anomaly_info["sharpness"])) == {Info.SCHEMA_NEW_COLUMN}
    assert schema.lines(found)[0].startswith("error: saturation: train has no saturation")


def test_a_class_without_training_images_is_a_warning() -> None:
    rows = index_of(images(40))
    found = statistics({"train": rows.take(np.arange(0, 40, 2)), "test": rows.take(np.arange(0, 40, 4))})
    name, info = only(schema.check(found, schema.infer(found)))
    assert (name, info.severity) == ("label", Info.WARNING)
    assert info.description == "class b has no image in train"


def test_brighter_validation_images_are_skew() -> None:
    skewed = pair(images(200), images(50, level=180))
    found = schema.check(skewed, schema.infer(skewed))
    assert kinds(found.anomaly_info["brightness"]) == [Info.COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH]
    assert "between train and test is" in found.anomaly_info["brightness"].description
    assert "label" not in found.anomaly_info


def relabelled(rows: Index, ones: int) -> Index:
    changed = rows.take(np.arange(len(rows)))
    changed.columns["label"] = (np.arange(len(rows)) < ones).astype(np.int64)
    return changed


def test_another_class_balance_is_skew() -> None:
    rows = index_of(images(100))
    found = statistics({"train": relabelled(rows, 50), "test": relabelled(rows, 95)})
    checked = schema.check(found, schema.infer(found))
    assert kinds(checked.anomaly_info["label"]) == [Info.COMPARATOR_L_INFTY_HIGH]
    (info,) = [info for info in checked.drift_skew_info if info.path.step[0] == "label"]
    assert info.skew_measurements[0].value == pytest.approx(0.45)
    assert not info.drift_measurements


def test_drift_is_that_of_the_training_split(usual: Any) -> None:
    wanted = schema.infer(usual)
    assert schema.counts(schema.check(usual, wanted, usual)) == {"error": 0, "warning": 0}
    before = pair(images(200, level=30, first=500), images(50, first=200))
    found = schema.check(usual, wanted, before)
    assert "from the data prepared before" in found.anomaly_info["brightness"].description
    (info,) = [info for info in found.drift_skew_info if info.path.step[0] == "brightness"]
    assert info.drift_measurements[0].value > info.drift_measurements[0].threshold


def test_a_threshold_is_the_schemas(usual: Any) -> None:
    whole, feature = wanted_of(usual, "brightness")
    feature.skew_comparator.jensen_shannon_divergence.threshold = 0
    name, info = only(schema.check(usual, whole))
    assert (name, kinds(info)) == ("brightness", [Info.COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH])


def test_the_divergence_is_scipys() -> None:
    features = [
        named(statistics({"train": index_of(rows)}).datasets[0])["brightness"]
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
        """The histogram over all edges, each bucket spread evenly."""
        found = np.zeros(len(edges) - 1)
        for bucket in feature.num_stats.histograms[0].buckets:
            inside = np.clip(
                np.minimum(edges[1:], bucket.high_value) - np.maximum(edges[:-1], bucket.low_value), 0, None
            )
            found += bucket.sample_count * inside / inside.sum()
        return found / found.sum()

    expected = distance.jensenshannon(shares(features[0]), shares(features[1]), base=2) ** 2
    assert schema.jensen_shannon(*features) == pytest.approx(expected, rel=1e-6)


def test_a_divergence_is_0_of_equals_and_1_of_what_has_nothing_in_common(usual: Any) -> None:
    train, test = (named(data) for data in usual.datasets)
    assert schema.jensen_shannon(train["contrast"], copy.deepcopy(train["contrast"])) == 0
    assert schema.jensen_shannon(train["height"], train["width"]) == pytest.approx(1)  # all 12, and all 14
    assert schema.jensen_shannon(train["height"], test["height"]) == 0
    assert schema.infinity_norm(train["label"], train["format"]) == 1
