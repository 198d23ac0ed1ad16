"""Estimates the share of wrong training labels from a cheap model's agreement with them and with validation labels.

    scores, validation_scores = fit_cheap_model(images, labels, validation_images, classes)
    estimate = estimate_label_noise(scores, labels, validation_scores, validation_labels)
    estimate.share, estimate.z      # share of wrong labels, and by how many standard errors it differs from none

A model fitted to partly wrong labels still predicts almost like a model fitted to right labels. So it agrees less often
with training labels that it was not fitted to, some of which are wrong, than with right validation labels.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class LabelNoiseEstimate:
    """The result of `estimate_label_noise`.

    Attributes:
      share: share of the training labels that are wrong; may be negative.
      z: distance of `share` from 0, in standard errors.
      training: accuracy on training images, each predicted by a model fitted to all the others.
      validation: accuracy on validation images.
    """

    share: float
    z: float
    training: float
    validation: float


def estimate_label_noise(
    scores: np.ndarray,
    labels: np.ndarray,
    validation_scores: np.ndarray,
    validation_labels: np.ndarray,
) -> LabelNoiseEstimate:
    """Estimates label noise from the scores [n, classes] of `fit_cheap_model` and the labels, int [n], of both splits.

    Let a share e of the training labels be wrong, spread evenly over the classes. A prediction that is right with
    probability a agrees with the label with probability (1 - e) a + e (1 - a) / (classes - 1). Minus chance, which is
    1 / classes, this equals (1 - e classes / (classes - 1)) (a - 1 / classes). So e follows from the two accuracies,
    however good the model is.

    Two kinds of wrong labels remain unseen: those that are as frequent in validation, and mistakes that depend on how
    the images look, because the model learns them. If validation images are easier than training images, the estimate
    is too high; if they are harder, it is too low.
    """
    accuracy = float(np.mean(scores.argmax(1) == labels))
    validation_accuracy = float(np.mean(validation_scores.argmax(1) == validation_labels))
    chance = 1 / scores.shape[1]
    above, validation_above = accuracy - chance, validation_accuracy - chance
    variance = accuracy * (1 - accuracy) / len(labels)
    validation_variance = validation_accuracy * (1 - validation_accuracy) / len(validation_labels)
    share = (1 - above / validation_above) * (1 - chance) if validation_above > 0 else 0.0
    z = float((validation_accuracy - accuracy) / np.sqrt(max(variance + validation_variance, 1e-12)))
    return LabelNoiseEstimate(share, z, accuracy, validation_accuracy)
