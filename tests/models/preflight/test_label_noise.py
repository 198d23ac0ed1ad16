"""The estimated share of wrong labels against the true one."""

from __future__ import annotations

import numpy as np
import pytest

from evenkeel.models.preflight import cheap_model, label_checks, label_noise


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
    scores, validation_scores = cheap_model.fit_cheap_model(images, noisy_labels, validation_images, classes=4)
    estimate = label_noise.estimate_label_noise(scores, noisy_labels, validation_scores, validation_labels)
    assert estimate.share == pytest.approx(share, abs=0.07)
    assert (estimate.z > label_checks.MIN_WRONG_LABEL_Z) == (share > 0)
