"""Each check of the index on both sides of its limit."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from evenkeel.models.config import with_options
from evenkeel.models.preflight import data_checks
from evenkeel.models.stability.diagnosis import Finding
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.prepare import skew
from tests.models.preflight.cases import by_check, failed, load_shapes


def index_findings(**corruptions: Any) -> dict[str, Finding]:
    return by_check(data_checks.check_index(*load_shapes(**corruptions)))


def test_clean_data_passes() -> None:
    assert failed(index_findings()) == set()


@pytest.mark.parametrize("corruptions", [{"outliers": 0.05}, {"unnormalised": 0.1}])
def test_outliers_are_counted(corruptions: dict[str, float]) -> None:
    findings = index_findings(**corruptions)
    assert failed(findings) == {"outlier_images"}
    assert findings["outlier_images"].evidence["share"] == pytest.approx(sum(corruptions.values()), abs=0.01)
    assert index_findings(outliers=0.02)["outlier_images"].ok


def test_classes_must_not_be_too_imbalanced() -> None:
    assert index_findings(imbalance=5.0)["class_imbalance"].ok
    config, data = load_shapes(imbalance=20.0)
    findings = by_check(data_checks.check_index(config, data))
    assert failed(findings) == {"class_imbalance"}, "class_skew would report the same fault again"
    balanced = dataclasses.replace(config, class_weights="balanced")
    assert by_check(data_checks.check_index(balanced, data))["class_imbalance"].ok
    resampled = dataclasses.replace(config, data=dataclasses.replace(config.data, balance="classes"))
    assert by_check(data_checks.check_index(resampled, data))["class_imbalance"].ok


def test_a_class_without_images_cannot_be_balanced() -> None:
    _, data = load_shapes()
    train = data.train.take(data.train.columns["label"] != 3)
    counts = np.bincount(train.columns["label"], minlength=10)
    validation = data.validation.take(data.validation.columns["label"] != 3)
    dataset = dataclasses.replace(data, train=train, class_counts=counts, validation=validation)
    finding = data_checks.check_class_imbalance(dataset, balanced=True)
    assert not finding.ok
    assert data.classes[3] in finding.seen
    assert data_checks.check_class_imbalance(data, balanced=True).ok


def test_splits_that_look_different_are_found() -> None:
    _, data = load_shapes()
    _, dark = load_shapes(unnormalised=0.9)
    finding = data_checks.check_image_skew(dataclasses.replace(data, train=dark.train), explained=False)
    assert not finding.ok
    assert finding.causes == ("train_validation_skew",)
    assert "--data.standardize" in finding.line
    assert data_checks.check_image_skew(data, explained=False).ok


def test_splits_with_different_classes_are_found() -> None:
    _, data = load_shapes()
    circles = data.validation.take(data.validation.columns["label"] == 0)
    skewed = dataclasses.replace(data, validation=circles)
    assert not data_checks.check_class_skew(skewed, known=False).ok
    assert data_checks.check_class_skew(data, known=False).ok


def test_ks_distance_of_samples_is_that_of_their_distributions() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=20_000)
    assert skew.ks_distance(a, a) == 0
    # Two normal distributions a deviation apart: 2 Phi(1/2) - 1.
    assert skew.ks_distance(a, rng.normal(1, size=20_000)) == pytest.approx(0.3829, abs=0.02)
    assert skew.ks_distance(a, a + 100) == 1
    assert skew.ks_distance(np.append(a, np.nan), a) == 0


def test_pictures_show_the_outliers() -> None:
    _, data = load_shapes(outliers=0.05)
    pictures = data_checks.outlier_pictures(data)
    assert 10 <= len(pictures) <= 16
    assert len(data_checks.outlier_pictures(data, count=3)) == 3
    for picture in pictures:
        assert picture.pixels.dtype == np.uint8
        assert picture.pixels.shape == (16, 16, 3)
        assert picture.name.startswith("train_")
        assert "the median is" in picture.reason
    assert any(picture.pixels.std() < 1 for picture in pictures), "one is all black or all white"


def with_rows(index: Index, rows: list[int], **values: Any) -> Index:
    """`index` followed by copies of some rows, with other `values` of their columns."""
    whole = index.take(np.concatenate([np.arange(len(index)), rows]))
    columns = {name: column.copy() for name, column in whole.columns.items()}
    for name, value in values.items():
        columns[name][len(index) :] = value
    return dataclasses.replace(whole, columns=columns)


def test_validation_images_that_are_training_images_are_found() -> None:
    _, data = load_shapes()
    assert data_checks.check_shared_images(data).ok
    finding = data_checks.check_shared_images(dataclasses.replace(data, validation=data.train.take(np.arange(60))))
    assert not finding.ok
    assert finding.line.startswith("shared_images: 60 of 60 validation images are training images (")


def test_equal_images_with_two_labels_are_found() -> None:
    _, data = load_shapes()
    rows = list(range(20))
    assert data_checks.check_conflicting_labels(dataclasses.replace(data, train=with_rows(data.train, rows))).ok
    labels = (data.train.columns["label"][rows] + 1) % 10
    finding = data_checks.check_conflicting_labels(
        dataclasses.replace(data, train=with_rows(data.train, rows, label=labels))
    )
    assert not finding.ok
    assert f"20 of {len(data.train) + 20} training images equal an image of another class (" in finding.line


def enlarged(index: Index, rows: list[int]) -> Index:
    """Copies of some rows that differ from them as larger images do: by their size, sums and a few bits of the hash."""
    copies = index.take(np.array(rows))
    columns = {name: column.copy() for name, column in copies.columns.items()}
    for name, factor in (("height", 2), ("width", 2), ("sums", 4), ("squares", 4)):
        columns[name] *= factor
    columns["perceptual_hash"][:, 1] ^= 0b1011
    return dataclasses.replace(copies, columns=columns)


def test_validation_images_that_are_near_duplicates_are_found_once() -> None:
    _, data = load_shapes()
    assert data_checks.check_near_duplicates(data).line.startswith(
        "near_duplicates: 0 of 60 validation images (0.0%) are near duplicates of training images: scaled,"
    )
    copies = enlarged(data.train, list(range(30)))
    finding = data_checks.check_near_duplicates(dataclasses.replace(data, validation=copies))
    assert not finding.ok
    assert finding.line == (
        f"near_duplicates: 30 of 30 validation images (100.0%) are near duplicates of training images"
        f" ({copies.names[0]} of {data.train.names[0]}): scaled, re-encoded or mirrored; at most 1% may be, or the"
        " accuracy is that of learning by heart. Drop them from training with --data.drop=duplicates."
    )
    assert data_checks.check_shared_images(dataclasses.replace(data, validation=copies)).ok
    exact = dataclasses.replace(data, validation=data.train.take(np.arange(30)))
    assert data_checks.check_near_duplicates(exact).ok, "these are shared_images"


def test_near_duplicates_with_two_labels_are_found() -> None:
    _, data = load_shapes()
    columns = {
        name: np.concatenate([column, enlarged(data.train, list(range(20))).columns[name]])
        for name, column in data.train.columns.items()
    }
    same_labels = dataclasses.replace(data, train=dataclasses.replace(data.train, columns=columns))
    finding = data_checks.check_near_duplicate_labels(same_labels)
    assert finding.ok
    assert f"0 of {len(data.train) + 20} training images" in finding.line
    columns = {**columns, "label": columns["label"].copy()}
    columns["label"][-20:] = (columns["label"][:20] + 1) % 10
    other_labels = dataclasses.replace(data, train=dataclasses.replace(data.train, columns=columns))
    finding = data_checks.check_near_duplicate_labels(other_labels)
    assert not finding.ok
    first = data.train.columns["label"][0]
    assert finding.line.startswith(
        f"near_duplicate_labels: 20 of {len(data.train) + 20} training images are near duplicates of an image of"
        f" another class ({data.train.names[0]} in {data.classes[(first + 1) % 10]}, {data.train.names[0]} in"
        f" {data.classes[first]}); at most 0.1% may: one of the two labels may be wrong. Look at them"
    )
    assert data_checks.check_conflicting_labels(other_labels).ok


def test_images_of_a_single_colour_are_found() -> None:
    _, data = load_shapes()
    assert data_checks.check_blank_images(data, known=False).ok
    columns = {name: column.copy() for name, column in data.train.columns.items()}
    columns["sums"][:], columns["squares"][:] = 0, 0
    black = dataclasses.replace(data, train=dataclasses.replace(data.train, columns=columns))
    finding = data_checks.check_blank_images(black, known=False)
    assert not finding.ok
    assert f"{len(data.train)} of {len(data.train)} training images have a single colour" in finding.line
    assert data_checks.check_blank_images(black, known=True).ok
    assert data_checks.check_conflicting_labels(black).ok


def test_images_that_are_never_seen_as_a_whole_are_found() -> None:
    config, data = load_shapes()
    columns = data.train.columns | {"width": data.train.columns["width"] * 4 // 3}
    wide = dataclasses.replace(data, train=dataclasses.replace(data.train, columns=columns))
    options = [{}, {"view": "pad"}, {"view": "stretch"}, {"image_size": "24x32"}]
    configs = [with_options(config, {f"data.{name}": value for name, value in each.items()}) for each in options]
    finding, *others = (data_checks.check_unseen_pixels(each, wide) for each in configs)
    assert not finding.ok
    count = len(data.train)
    assert (
        f"of {count} of {count} training images, more than 10% of the pixels are never seen (median 2" in finding.line
    )
    assert all(each.ok for each in others)
    assert data_checks.check_unseen_pixels(config, data).ok
    cropped = with_options(config, {"data.augment.random_resized_crop": 0.9})
    assert data_checks.check_unseen_pixels(cropped, wide).ok
