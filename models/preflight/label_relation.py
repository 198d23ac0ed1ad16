"""Whether labels belong to their images, whether both splits mean the same by them, and how many are wrong.

    recall, error = mean_recall(scores, labels)
    exchange = find_exchanged_classes(validation_scores, validation_labels)
    exchange.called                     # {0: 1, 1: 0}: images of class 0 look like class 1, and the other way round
    estimate = estimate_label_noise(scores, labels, validation_scores, validation_labels)
    estimate.share, estimate.z          # share of wrong labels, and by how many standard errors it differs from none

All are judged by the predictions of `cheap_model`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np

# Log odds against a chance find; the number of exchanges that could be found by chance is added. 7 means 1 in 1,000.
EXCHANGE_LOG_ODDS = 7.0


class Exchange(NamedTuple):
    """Classes of the validation images that look like other classes of the training images.

    Attributes:
      called: {label of the validation images: label that a model of the training images gives to most of them}; a
        permutation of some classes.
      agreement: mean recall of the validation labels.
      exchanged_agreement: mean recall if the labels of `called` are exchanged.
    """

    called: dict[int, int]
    agreement: float
    exchanged_agreement: float


def predict(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The predicted labels, int [n], without a preference for classes that are frequent among `labels`, int [m].

    Scores are indicators of classes minus the share of the class; without relation to the images, their deviation is
    proportional to that of the indicator, sqrt(share (1 - share)).
    """
    shares = np.bincount(labels, minlength=scores.shape[1]) / len(labels)
    deviations = np.sqrt(shares * (1 - shares))
    return np.where(deviations > 0, scores / np.maximum(deviations, 1e-12), -np.inf).argmax(1)


def call_rates(predictions: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the share of the images of each class (row) that are predicted as each class, and images per class."""
    counts = np.zeros((classes, classes))
    np.add.at(counts, (labels, predictions), 1)
    images = counts.sum(1)
    return counts / np.maximum(images, 1)[:, None], images


def mean_recall(predictions: np.ndarray, labels: np.ndarray, classes: int) -> tuple[float, float]:
    """Mean over the classes of the share of their images that are predicted right, and its standard error.

    Guessing has 1 / classes, whatever the numbers of images per class. Classes without images do not count.
    """
    rates, images = call_rates(predictions, labels, classes)
    present = images > 0
    recalls, images = np.diag(rates)[present], images[present]
    # Half an image is added to each side, or a recall of 0 or 1 would have no error.
    smoothed = (recalls * images + 0.5) / (images + 1)
    return float(recalls.mean()), float(np.sqrt(np.sum(smoothed * (1 - smoothed) / images)) / present.sum())


def find_exchanged_classes(predictions: np.ndarray, labels: np.ndarray, classes: int) -> Exchange | None:
    """Finds classes whose labels were exchanged; None if the identity explains the labels as well.

    If most images of each class are called by one other class, and these classes form a cycle, an exchange explains the
    labels better than the identity. The gain must be so large that it is not one of the many cycles that chance offers.
    """
    rates, images = call_rates(predictions, labels, classes)
    most_called = rates.argmax(1)
    called: dict[int, int] = {}
    for cycle in _cycles(most_called):
        rows = [label for label in cycle if images[label]]
        if len(rows) < len(cycle):
            continue
        gains = [rates[label, most_called[label]] - rates[label, label] for label in rows]
        variances = [(rates[label, most_called[label]] + rates[label, label] + 1e-9) / images[label] for label in rows]
        z = sum(gains) / math.sqrt(sum(variances))
        if z > math.sqrt(2 * (len(cycle) * math.log(classes) + EXCHANGE_LOG_ODDS)):
            called.update({label: int(most_called[label]) for label in cycle})
    if not called:
        return None
    order = np.arange(classes)
    order[list(called)] = list(called.values())
    present = images > 0
    return Exchange(called, float(np.diag(rates)[present].mean()), float(rates[present, order[present]].mean()))


def _cycles(successor: np.ndarray) -> list[list[int]]:
    """The cycles of two or more elements of the function from i to `successor[i]`."""
    cycles, done = [], set[int]()
    for start in range(len(successor)):
        path: list[int] = []
        at = start
        while at not in done:
            done.add(at)
            path.append(at)
            at = int(successor[at])
        if at in path and len(path[path.index(at) :]) > 1:
            cycles.append(path[path.index(at) :])
    return cycles


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

    A model fitted to partly wrong labels still predicts almost like a model fitted to right labels. So it agrees less
    often with training labels that it was not fitted to, some of which are wrong, than with right validation labels.

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
