"""The estimated share of wrong labels against the true one; leave-one-out against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from evenkeel.models.preflight import image_checks, label_noise


def render_stripes(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`count` noisy images of stripes in four directions, and their labels."""
    labels = rng.integers(4, size=count)
    y, x = np.mgrid[:16, :16]
    angle = np.pi * labels / 4
    along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    stripes = 60 * np.sin(along + rng.uniform(0, 6, (count, 1, 1)))
    images = 128 + stripes[..., None] + rng.normal(0, 60, (count, 16, 16, 3))
    return np.clip(images, 0, 255).astype(np.uint8), labels


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_the_share_of_wrong_labels_is_estimated(share: float) -> None:
    rng = np.random.default_rng(1)
    images, labels = render_stripes(800, rng)
    validation_images, validation_labels = render_stripes(600, rng)
    wrong = rng.random(800) < share
    noisy_labels = np.where(wrong, (labels + rng.integers(1, 4, 800)) % 4, labels)
    estimate = label_noise.estimate_label_noise(images, noisy_labels, validation_images, validation_labels, classes=4)
    assert estimate.share == pytest.approx(share, abs=0.07)
    assert (estimate.z > image_checks.MIN_WRONG_LABEL_Z) == (share > 0)


def test_closed_form_equals_leaving_out_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_noise, "RIDGE_PENALTIES", np.array([0.5]))
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=30)
    x = rng.normal(size=(30, 5)) + 2 * np.eye(3, 5)[labels]
    scaled = (x - x.mean(0)) / (x.std(0) + 1e-6)
    targets = np.eye(3)[labels] - np.bincount(labels, minlength=3) / 30
    correct = 0
    for row in range(30):
        rest = np.arange(30) != row
        weights = np.linalg.solve(scaled[rest].T @ scaled[rest] + 0.5 * 5 * np.eye(5), scaled[rest].T @ targets[rest])
        correct += int((scaled[row] @ weights).argmax() == labels[row])
    accuracy, _ = label_noise.ridge_accuracies(x, labels, x, labels, 3)
    assert accuracy == pytest.approx(correct / 30)
    assert 0.5 < accuracy < 1
