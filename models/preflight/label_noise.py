"""Estimates the share of wrong training labels from a cheap model's agreement with them and with validation labels.

    estimate = estimate_label_noise(images, labels, validation_images, validation_labels, classes)
    estimate.share, estimate.z      # share of wrong labels, and by how many standard errors it differs from none

A model fitted to partly wrong labels still predicts almost like a model fitted to right labels. So it agrees less often
with training labels that it was not fitted to, some of which are wrong, than with right validation labels.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

IMAGE_PIXELS = 32  # side that images are scaled to
PATCH_PIXELS = 6  # side of a patch, as in Coates, Ng and Lee 2011, section 4
FILTERS, STRIDE = 64, 2  # 128 and 1 would detect 20% wrong labels with more certainty, but take three times as long
WHITENING_PATCHES = 4000
BATCH_IMAGES = 250
RIDGE_PENALTIES = 10.0 ** np.arange(-2, 3, 0.5)


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
    images: np.ndarray,
    labels: np.ndarray,
    validation_images: np.ndarray,
    validation_labels: np.ndarray,
    classes: int,
    seed: int = 0,
) -> LabelNoiseEstimate:
    """Estimates label noise from uint8 images [n, h, w, c] and int labels [n] of both splits.

    Let a share e of the training labels be wrong, spread evenly over the classes. A prediction that is right with
    probability a agrees with the label with probability (1 - e) a + e (1 - a) / (classes - 1). Minus chance, which is
    1 / classes, this equals (1 - e classes / (classes - 1)) (a - 1 / classes). So e follows from the two accuracies,
    however good the model is.

    Two kinds of wrong labels remain unseen: those that are as frequent in validation, and mistakes that depend on how
    the images look, because the model learns them. If validation images are easier than training images, the estimate
    is too high; if they are harder, it is too low.
    """
    training, validation = patch_features(images, validation_images, seed)
    accuracy, validation_accuracy = ridge_accuracies(training, labels, validation, validation_labels, classes)
    chance = 1 / classes
    above, validation_above = accuracy - chance, validation_accuracy - chance
    variance = accuracy * (1 - accuracy) / len(labels)
    validation_variance = validation_accuracy * (1 - validation_accuracy) / len(validation_labels)
    share = (1 - above / validation_above) * (1 - chance) if validation_above > 0 else 0.0
    z = float((validation_accuracy - accuracy) / np.sqrt(max(variance + validation_variance, 1e-12)))
    return LabelNoiseEstimate(share, z, accuracy, validation_accuracy)


def leave_one_out_accuracy(images: np.ndarray, labels: np.ndarray, classes: int, seed: int = 0) -> float:
    """Accuracy of the cheap model on `images`, each predicted by a model fitted to all the others."""
    x, others = patch_features(images, images[:1], seed)
    return ridge_accuracies(x, labels, others, labels[:1], classes)[0]


def patch_features(images: np.ndarray, others: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Computes features, float32 [n, 10 * FILTERS] each, of `images` and of `others`.

    As in Coates, Ng and Lee 2011, filters are whitened random patches of `images`, and patches are scaled to mean 0 and
    deviation 1. The parts of the responses above 0.5 and below -0.5 are averaged over each quadrant. Their deviation
    over the whole image is added, because it distinguishes one large response from many small ones.
    """
    rng = np.random.default_rng(seed)
    sources = rng.integers(len(images), size=WHITENING_PATCHES)
    corners = rng.integers(0, images.shape[1] - PATCH_PIXELS + 1, size=(WHITENING_PATCHES, 2))
    patches = np.stack(
        [
            images[source, y : y + PATCH_PIXELS, x : x + PATCH_PIXELS]
            for source, (y, x) in zip(sources, corners, strict=True)
        ]
    )
    patches = patches.reshape(WHITENING_PATCHES, -1).astype(np.float64)
    patches = (patches - patches.mean(1, keepdims=True)) / np.sqrt(patches.var(1, keepdims=True) + 10)
    mean = patches.mean(0)
    variances, axes = np.linalg.eigh(np.cov(patches.T))
    whitening = (axes / np.sqrt(variances + 0.1)) @ axes.T
    directions = (patches[:FILTERS] - mean) @ whitening
    directions /= np.linalg.norm(directions, axis=1, keepdims=True) + 1e-6
    filters = whitening @ directions.T  # [patch size, FILTERS]

    shape = (PATCH_PIXELS, PATCH_PIXELS, images.shape[-1])
    kernel = tf.constant(filters.reshape(*shape, -1), tf.float32)
    box = tf.ones([*shape, 1]) / np.prod(shape)
    sums = tf.constant(filters.sum(0), tf.float32)
    offset = tf.constant(mean @ filters, tf.float32)
    conv = lambda x, k: tf.nn.conv2d(x, k, STRIDE, "VALID")  # noqa: E731

    def batch_features(x: tf.Tensor) -> tf.Tensor:
        center = conv(x, box)
        deviation = tf.sqrt(tf.maximum(conv(x * x, box) - center**2, 0) + 10)
        response = (conv(x, kernel) - center * sums) / deviation - offset
        both = tf.concat([tf.nn.relu(response - 0.5), tf.nn.relu(-response - 0.5)], -1)
        rows = [tf.reduce_mean(half, 1) for half in tf.split(both[:, : 2 * (both.shape[1] // 2)], 2, 1)]
        middle = rows[0].shape[1] // 2
        quadrants = [tf.reduce_mean(part, 1) for row in rows for part in (row[:, :middle], row[:, middle:])]
        return tf.concat([*quadrants, tf.math.reduce_std(both, [1, 2])], -1)

    def all_features(images: np.ndarray) -> np.ndarray:
        batches = [images[start : start + BATCH_IMAGES] for start in range(0, len(images), BATCH_IMAGES)]
        return np.concatenate([batch_features(tf.constant(batch, tf.float32)).numpy() for batch in batches])

    return all_features(images), all_features(others)


def ridge_accuracies(
    x: np.ndarray, labels: np.ndarray, others: np.ndarray, other_labels: np.ndarray, classes: int
) -> tuple[float, float]:
    """Returns the accuracies of ridge regression on features `x` [n, d]: leave-one-out on `x`, and on `others`.

    A leave-one-out residual is the residual divided by 1 - leverage, where the leverage is x_i (X'X + penalty)^-1 x_i
    (Allen 1974). The penalty with the smallest such residuals is used; `others` does not influence the choice.
    """
    center, scale = x.mean(0), x.std(0) + 1e-6
    x, others = (x - center) / scale, (others - center) / scale
    targets = np.eye(classes)[labels] - np.bincount(labels, minlength=classes) / len(labels)
    eigenvalues, eigenvectors = np.linalg.eigh(x.T @ x)
    rotated, rotated_others = x @ eigenvectors, others @ eigenvectors
    projections = rotated.T @ targets
    least_error, accuracies = np.inf, (0.0, 0.0)
    for penalty in RIDGE_PENALTIES * x.shape[1]:
        inverse = 1 / (np.maximum(eigenvalues, 0) + penalty)
        weights = inverse[:, None] * projections
        leverage = (rotated**2) @ inverse
        residuals = (targets - rotated @ weights) / (1 - leverage)[:, None]
        error = float(np.mean(residuals**2))
        if error < least_error:
            least_error = error
            accuracy = np.mean((targets - residuals).argmax(1) == labels)
            accuracies = (
                float(accuracy),
                float(np.mean((rotated_others @ weights).argmax(1) == other_labels)),
            )
    return accuracies
