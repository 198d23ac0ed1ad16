"""Leave-one-out of the cheap model against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from evenkeel.models.preflight import cheap_model


def test_closed_form_equals_leaving_out_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cheap_model, "RIDGE_PENALTIES", np.array([0.5]))
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=30)
    x = rng.normal(size=(30, 5)) + 2 * np.eye(3, 5)[labels]
    scaled = (x - x.mean(0)) / (x.std(0) + 1e-6)
    targets = np.eye(3)[labels] - np.bincount(labels, minlength=3) / 30
    expected = np.zeros((30, 3))
    for row in range(30):
        rest = np.arange(30) != row
        mean, target_mean = scaled[rest].mean(0), targets[rest].mean(0)
        inner = scaled[rest] - mean
        weights = np.linalg.solve(inner.T @ inner + 0.5 * 5 * np.eye(5), inner.T @ (targets[rest] - target_mean))
        expected[row] = (scaled[row] - mean) @ weights
    scores, _ = cheap_model.ridge_scores(x, x, labels, 3)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert 0.5 < np.mean(scores.argmax(1) == labels) < 1


@pytest.mark.parametrize("features", [5, 200])
def test_labels_that_are_left_out_do_not_leak(features: int) -> None:
    rng = np.random.default_rng(0)
    accuracies = []
    for _ in range(20):
        x, labels = rng.normal(size=(60, features)), rng.permutation(np.repeat([0, 1], 30))
        accuracies.append(np.mean(cheap_model.ridge_scores(x, x, labels, 2)[0].argmax(1) == labels))
    assert np.mean(accuracies) == pytest.approx(0.5, abs=0.05)
