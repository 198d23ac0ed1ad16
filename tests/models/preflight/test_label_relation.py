"""Labels that belong to no image and labels that differ between splits, against made-up predictions and images."""

from __future__ import annotations

import numpy as np
import pytest

from evenkeel.models.preflight import cheap_model, label_checks, label_relation
from evenkeel.models.preflight.cheap_model import fit_cheap_model
from evenkeel.models.preflight.label_checks import LabelFit

CLASSES = ("flat", "rising", "steep", "falling")


def render_stripes(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`count` noisy images of stripes in four directions, and their labels."""
    labels = rng.integers(4, size=count)
    y, x = np.mgrid[:16, :16]
    angle = np.pi * labels / 4
    along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    stripes = 60 * np.sin(along + rng.uniform(0, 6, (count, 1, 1)))
    images = 128 + stripes[..., None] + rng.normal(0, 60, (count, 16, 16, 3))
    return np.clip(images, 0, 255).astype(np.uint8), labels


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_the_share_of_wrong_labels_is_estimated(share: float) -> None:
    rng = np.random.default_rng(1)
    images, labels = render_stripes(800, rng)
    validation_images, validation_labels = render_stripes(600, rng)
    wrong = rng.random(800) < share
    noisy_labels = np.where(wrong, (labels + rng.integers(1, 4, 800)) % 4, labels)
    scores, validation_scores = cheap_model.fit_cheap_model(images, noisy_labels, validation_images, classes=4)
    estimate = label_relation.estimate_label_noise(scores, noisy_labels, validation_scores, validation_labels)
    assert estimate.share == pytest.approx(share, abs=0.07)
    assert (estimate.z > label_checks.MIN_WRONG_LABEL_Z) == (share > 0)


def draw_predictions(labels: np.ndarray, accuracy: float, classes: int, seed: int = 0) -> np.ndarray:
    """Predictions of which a share `accuracy` is right, and the others are spread evenly."""
    rng = np.random.default_rng(seed + 1000)
    wrong = (labels + rng.integers(1, classes, len(labels))) % classes
    return np.where(rng.random(len(labels)) < accuracy, labels, wrong)


def test_recall_of_guessing_does_not_depend_on_the_numbers_of_images() -> None:
    labels = np.repeat([0, 1], [900, 100])
    recall, _ = label_relation.mean_recall(np.zeros(1000, np.int64), labels, 2)
    assert recall == 0.5
    predictions = draw_predictions(labels, 0.8, 2)
    recall, error = label_relation.mean_recall(predictions, labels, 2)
    right = [np.mean(predictions[labels == label] == label) for label in (0, 1)]
    assert recall == pytest.approx(np.mean(right))
    variances = [share * (1 - share) for share in right]
    assert error == pytest.approx(np.sqrt(variances[0] / 900 + variances[1] / 100) / 2, rel=0.03)


def test_scores_without_relation_to_labels_predict_all_classes_alike() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([0.8, 0.15, 0.05])
    labels = rng.choice(3, 4000, p=shares)
    scores = rng.normal(size=(4000, 3)) * np.sqrt(shares * (1 - shares))
    assert np.bincount(label_relation.predict(scores, labels)) / 4000 == pytest.approx(np.full(3, 1 / 3), abs=0.03)


@pytest.mark.parametrize("order", [[1, 2, 0], [0, 2, 1], [2, 1, 0]])
def test_exchanged_classes_are_found(order: list[int]) -> None:
    labels = np.arange(150) % 3
    predictions = draw_predictions(np.array(order)[labels], 0.7, 3)
    exchange = label_relation.find_exchanged_classes(predictions, labels, 3)
    assert exchange
    assert exchange.called == {label: other for label, other in enumerate(order) if label != other}
    assert exchange.exchanged_agreement == pytest.approx(0.7, abs=0.1)
    assert exchange.agreement < 0.5


@pytest.mark.parametrize("accuracy", [0.0, 0.1, 0.3, 0.6])
@pytest.mark.parametrize(("classes", "images"), [(2, 40), (2, 400), (10, 50), (10, 1000)])
def test_poor_predictions_are_no_exchange(accuracy: float, classes: int, images: int) -> None:
    accuracy = max(accuracy, 1 / classes)
    for seed in range(20):
        labels = np.random.default_rng(seed).integers(classes, size=images)
        predictions = draw_predictions(labels, accuracy, classes, seed)
        assert label_relation.find_exchanged_classes(predictions, labels, classes) is None
        assert label_relation.find_exchanged_classes(np.zeros(images, np.int64), labels, classes) is None


def fit(labels_of: str, images: int = 800) -> LabelFit:
    """The cheap model on stripes in four directions whose labels are right, shuffled or rotated in validation."""
    rng = np.random.default_rng(0)
    training, labels = render_stripes(images, rng)
    validation, validation_labels = render_stripes(images // 4, rng)
    if labels_of == "shuffled":
        labels, validation_labels = rng.permutation(labels), rng.permutation(validation_labels)
    scores, validation_scores = fit_cheap_model(training, labels, validation, 4)
    if labels_of == "rotated":
        validation_labels = (validation_labels + 1) % 4
    return LabelFit(4, labels, scores, validation_labels, validation_scores)


def test_right_labels_pass() -> None:
    for images in (40, 800):
        right = fit("right", images)
        assert label_checks.check_unrelated_labels(right, known=False).ok
        assert label_checks.check_split_labels(right, CLASSES).ok


@pytest.mark.slow
def test_shuffled_labels_belong_to_no_image() -> None:
    shuffled = fit("shuffled")
    finding = label_checks.check_unrelated_labels(shuffled, known=False)
    assert not finding.ok
    assert finding.causes == ("labels_unrelated",)
    assert finding.evidence["recall"] == pytest.approx(0.25, abs=0.03)
    words = f"finds the class of {finding.evidence['recall']:.1%} of the images that it has not seen"
    assert words in finding.line
    assert "guessing finds 25.0%; labels that belong to the images can usually be learnt" in finding.line
    assert label_checks.check_split_labels(shuffled, CLASSES).ok
    assert label_checks.check_label_noise(shuffled).ok, "there is no validation to prove it"
    assert label_checks.check_unrelated_labels(shuffled, known=True).ok


@pytest.mark.slow
def test_of_few_images_nothing_is_said() -> None:
    finding = label_checks.check_unrelated_labels(fit("shuffled", 80), known=False)
    assert finding.ok
    assert "whether the labels can be learnt is not clear from so few images" in finding.seen


@pytest.mark.slow
def test_rotated_validation_labels_are_named() -> None:
    finding = label_checks.check_split_labels(fit("rotated"), CLASSES)
    assert not finding.ok
    assert finding.causes == ("split_labels",)
    for words in (
        "rising look like flat",
        "steep look like rising",
        "falling look like steep",
        "flat look like falling",
    ):
        assert words in finding.seen
    assert "with these labels exchanged, it finds" in finding.seen
    assert finding.evidence["exchanged"] == 4
    assert label_checks.check_unrelated_labels(fit("rotated"), known=False).ok
