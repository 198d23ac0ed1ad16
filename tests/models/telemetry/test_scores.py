"""Scores of confusion matrices against scikit-learn; the calibration error against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.models.telemetry import scores
from evenkeel.models.telemetry.metrics import CONFIDENCE_BINS, Calibration, ConfusionMatrix
from tests.factories import expected_error


@given(st.integers(2, 6), st.integers(0, 10_000), st.integers(5, 60))
def test_scores_match_scikit_learn(classes: int, seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    labels, guesses = rng.integers(classes, size=(2, count))
    predicted = np.where(rng.random(count) < rng.random(), labels, guesses)
    matrix = sklearn.metrics.confusion_matrix(labels, predicted, labels=range(classes)).astype(np.float32)
    assert scores.macro_f1(matrix) == pytest.approx(sklearn.metrics.f1_score(labels, predicted, average="macro"))
    assert scores.matthews_correlation(matrix) == pytest.approx(sklearn.metrics.matthews_corrcoef(labels, predicted))
    if len({*labels, *predicted}) > 1:
        assert scores.cohen_kappa(matrix) == pytest.approx(sklearn.metrics.cohen_kappa_score(labels, predicted))
    precision, recall, _, _ = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(classes), zero_division=np.nan
    )
    np.testing.assert_allclose(scores.precision_per_class(matrix), precision)
    np.testing.assert_allclose(scores.recall_per_class(matrix), recall)


def test_a_single_class_has_no_agreement_beyond_chance() -> None:
    matrix = np.diag([7, 0])
    assert np.isnan(scores.cohen_kappa(matrix))
    assert scores.matthews_correlation(matrix) == 0
    assert scores.macro_f1(matrix) == 1


def test_calibration_error_matches_its_formula_over_batches_and_weights() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (300, 6)), rng.integers(6, size=300)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    metric = Calibration()
    for first in (0, 100, 200):
        chosen = slice(first, first + 100)
        filled = np.concatenate([logits[chosen], rng.normal(0, 9, (20, 6))]).astype(np.float32)
        of_filled = np.concatenate([labels[chosen], np.zeros(20, int)])
        metric.update_state(tf.constant(of_filled), tf.constant(filled), tf.constant([1.0] * 100 + [0.0] * 20))
    assert scores.calibration_error(metric.result().numpy()) == pytest.approx(expected_error(shares, labels), rel=1e-4)
    metric.reset_state()
    assert not metric.result().numpy().any()


def test_a_confidence_of_1_counts_in_the_last_bin() -> None:
    metric = Calibration()
    metric.update_state(tf.constant([0, 1]), tf.constant([[99.0, 0.0], [99.0, 0.0]]), tf.constant([1.0, 1.0]))
    assert scores.calibration_error(metric.result().numpy()) == pytest.approx(0.5)


def test_top_5_is_a_score_if_there_are_more_than_five_classes() -> None:
    calibration = np.ones((3, CONFIDENCE_BINS))
    assert "top_5" not in scores.compute_scores(np.eye(5), calibration, None)
    assert scores.compute_scores(np.eye(6), calibration, 0.9)["top_5"] == 0.9


def test_a_confusion_matrix_sums_example_weights() -> None:
    metric = ConfusionMatrix(3)
    logits = tf.one_hot([0, 1, 1, 2], 3)
    metric.update_state(tf.constant([0, 1, 2, 2]), logits, tf.constant([1.0, 2.0, 3.0, 0.0]))
    np.testing.assert_array_equal(metric.result(), [[1, 0, 0], [0, 2, 0], [0, 3, 0]])
