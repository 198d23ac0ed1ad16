"""Checks of labels by a cheap model: wrong ones, labels that belong to no image, and splits that label differently.

    for finding in check_labels(config, data):
        print(finding.line)

The model is fitted to at most 4,000 training images once, which takes about 2 CPU seconds; it uses no Keras.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from evenkeel.models.config import TrainConfig
from evenkeel.models.preflight import cheap_model, label_relation
from evenkeel.models.preflight.content_checks import has_empty_images
from evenkeel.models.preflight.data_checks import train_outliers
from evenkeel.models.preflight.sample_images import local_data_config, sample_images
from evenkeel.models.stability.diagnosis import Finding
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.dataset import Dataset

TRAIN_IMAGES, VALIDATION_IMAGES = 4000, 2000  # at most
MIN_WRONG_LABEL_SHARE, MIN_WRONG_LABEL_Z = 0.12, 3.5  # z in standard errors; clean data sets have up to 0.02 and 0.4
MIN_CLASS_IMAGES = 50  # with fewer, a cheap model may learn nothing from sound data
# Between labels that a cheap model learns, and labels that it does not learn, there are labels of which it cannot tell.
RELATED_Z = 2.0  # standard errors above guessing
UNRELATED_MARGIN = 0.1  # share of the way from guessing to certainty, which the recall's 95% interval must not reach
AGREEING_Z = 3.0  # standard errors between the recalls of both splits
BELOW_CHANCE_Z = -4.0


class LabelFit(NamedTuple):
    """The cheap model's predictions for images of both splits.

    Attributes:
      classes: number of classes.
      labels, scores: of training images, int [n] and float64 [n, classes]; each is left out of its own model.
      validation_labels, validation_scores: of validation images.
    """

    classes: int
    labels: np.ndarray
    scores: np.ndarray
    validation_labels: np.ndarray
    validation_scores: np.ndarray

    @property
    def chance(self) -> float:
        """Recall of guessing among the classes that have training images."""
        return 1 / len(np.unique(self.labels))

    @property
    def predictions(self) -> np.ndarray:
        return label_relation.predict(self.scores, self.labels)

    @property
    def validation_predictions(self) -> np.ndarray:
        return label_relation.predict(self.validation_scores, self.labels)


def check_labels(config: TrainConfig, data: Dataset) -> list[Finding]:
    """Returns the findings of all checks of labels."""
    small = {"image_size": cheap_model.IMAGE_PIXELS, "augment": AugmentConfig(), "batch_size": 1, "balance": "none"}
    fit = fit_labels(data, local_data_config(config.data, **small))
    return [
        check_label_noise(fit),
        check_unrelated_labels(fit, known=has_empty_images(data)),
        check_split_labels(fit, data.classes),
    ]


@functools.lru_cache(maxsize=4)  # replays of a run ask for the same again
def fit_labels(data: Dataset, config: DataConfig) -> LabelFit:
    # Outliers are left out: no label fits an image of noise.
    inliers = np.setdiff1d(np.arange(len(data.train)), [outlier.row for outlier in train_outliers(data)])
    train = data.train.take(inliers) if len(inliers) else data.train
    images, labels = sample_images(train, config, TRAIN_IMAGES)
    known = np.flatnonzero(np.isin(data.validation.columns["label"], np.unique(train.columns["label"])))
    validation = data.validation.take(known) if len(known) else data.validation
    validation_images, validation_labels = sample_images(validation, config, VALIDATION_IMAGES)
    scores, validation_scores = cheap_model.fit_cheap_model(images, labels, validation_images, len(data.classes))
    return LabelFit(len(data.classes), labels, scores, validation_labels, validation_scores)


def check_label_noise(fit: LabelFit) -> Finding:
    noise = label_relation.estimate_label_noise(fit.scores, fit.labels, fit.validation_scores, fit.validation_labels)
    return Finding(
        "label_noise",
        noise.share < MIN_WRONG_LABEL_SHARE or noise.z < MIN_WRONG_LABEL_Z,
        f"a cheap model agrees with {noise.training:.0%} of the training labels that it has not seen and with"
        f" {noise.validation:.0%} of the validation labels, as if {max(noise.share, 0):.0%} of the training labels were"
        f" wrong ({noise.z:.1f} standard errors)",
        f"under {MIN_WRONG_LABEL_SHARE:.0%} may be wrong, or it must be uncertain (under {MIN_WRONG_LABEL_Z:g}"
        " standard errors)",
        "Correct the labels, or train so that they harm less: --label_smoothing=0.1, fewer --epochs, --early_stopping.",
        {"share": noise.share, "z": noise.z, "training": noise.training, "validation": noise.validation},
        ("label_noise",),
    )


def check_unrelated_labels(fit: LabelFit, known: bool) -> Finding:
    """Whether a cheap model learns anything of the labels; always ok if a reason why it cannot is `known`.

    Training images, each left out of its own model, and validation images count together if their recalls agree.
    """
    recall, error = label_relation.mean_recall(fit.predictions, fit.labels, fit.classes)
    learnt = (recall - fit.chance) / error > RELATED_Z
    other, other_error = label_relation.mean_recall(fit.validation_predictions, fit.validation_labels, fit.classes)
    if abs(recall - other) < AGREEING_Z * np.hypot(error, other_error):
        weights = np.array([error, other_error]) ** -2.0
        recall, error = float(weights @ [recall, other] / weights.sum()), float(weights.sum() ** -0.5)
        learnt = learnt or (recall - fit.chance) / error > RELATED_Z
    low, high = max(recall - 1.96 * error, 0.0), min(recall + 1.96 * error, 1.0)
    enough = len(fit.labels) >= MIN_CLASS_IMAGES * fit.classes
    unrelated = enough and not learnt and high < fit.chance + UNRELATED_MARGIN * (1 - fit.chance)
    unclear = "" if learnt or unrelated else "; whether the labels can be learnt is not clear from so few images"
    return Finding(
        "unrelated_labels",
        known or not unrelated,
        f"a cheap model finds the class of {recall:.1%} of the images that it has not seen (mean over classes; 95%"
        f" interval {low:.1%} to {high:.1%}), and guessing finds {fit.chance:.1%}{unclear}",
        "labels that belong to the images can usually be learnt better than by guessing",
        "Look at some images beside their labels: were rows of a table mixed up, or files dealt to the wrong folders?"
        " Only if the labels are right is the task too hard for a cheap model.",
        {"recall": recall, "error": error, "chance": fit.chance},
        ("labels_unrelated",),
    )


def check_split_labels(fit: LabelFit, classes: tuple[str, ...]) -> Finding:
    """Whether validation images look like the training images of their own class, rather than of another one."""
    chance = fit.chance
    training, error = label_relation.mean_recall(fit.predictions, fit.labels, fit.classes)
    found, found_error = label_relation.mean_recall(fit.validation_predictions, fit.validation_labels, fit.classes)
    learnt = (training - chance) / error > RELATED_Z
    exchange = None
    if learnt:
        exchange = label_relation.find_exchanged_classes(fit.validation_predictions, fit.validation_labels, fit.classes)
    below = learnt and (found - chance) / found_error < BELOW_CHANCE_Z
    seen = (
        f"a cheap model fitted to training images finds the class of {found:.1%} of the validation images, and guessing"
        f" finds {chance:.1%}"
    )
    if exchange:
        called = [f"{classes[label]} look like {classes[other]}" for label, other in exchange.called.items()]
        listed = ", of ".join(called[:5]) + (f", and {len(called) - 5} more" if called[5:] else "")
        seen += (
            f": validation images of {listed}; with these labels exchanged, it finds {exchange.exchanged_agreement:.1%}"
        )
    return Finding(
        "split_labels",
        not (exchange or below),
        seen,
        "both splits must call a class by the same label",
        "Compare images of one class in both splits, and the order of the classes when their labels were written.",
        {"recall": found, "chance": chance, "exchanged": len(exchange.called) if exchange else 0},
        ("split_labels",),
    )
