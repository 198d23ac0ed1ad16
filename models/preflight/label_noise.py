"""How many training labels are wrong, by how badly a cheap model agrees with them; validation labels are the scale.

    estimate = estimated(images, labels, validation_images, validation_labels, classes)
    estimate.share, estimate.z      # wrong labels, and by how many standard errors that differs from none

A model fitted to labels of which a share is wrong still answers much as one fitted to right ones would. So it agrees
with the wrong training labels, those that it was not fitted to, less often than with right validation labels.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

SIDE = 32  # pixels that images are scaled to
PATCH = 6  # pixels; those of Coates, Ng and Lee 2011, section 4
FILTERS, STRIDE = 64, 2  # 128 and 1 know a fifth of wrong labels more surely, for three times the time
PATCHES = 4000  # that the filters are whitened by
BATCH = 250
PENALTIES = 10.0 ** np.arange(-2, 3, 0.5)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """`share` of the training labels that are wrong (may come out below 0) and its distance `z` from none.

    `training` is the accuracy on training images that were left out one by one, `validation` that on validation images.
    """

    share: float
    z: float
    training: float
    validation: float


def estimated(
    images: np.ndarray,
    labels: np.ndarray,
    validation_images: np.ndarray,
    validation_labels: np.ndarray,
    classes: int,
    seed: int = 0,
) -> Estimate:
    """The estimate from uint8 images [n, s, s, c] and int labels [n] of both splits.

    Say a share e of the training labels is wrong, drawn evenly. An answer that is right with probability a agrees with
    the label with (1 - e) a + e (1 - a) / (classes - 1). Above chance, 1 / classes, that is 1 - e classes /
    (classes - 1) times what is left of a: e follows from the two accuracies, however good the model is.

    It cannot see labels that are wrong in validation as often, nor mistakes that a rule of the images' looks makes:
    the model learns these. Where validation images are easier than training images it sees too much, where they are
    harder too little.
    """
    training, validation = features(images, validation_images, seed)
    right, right_there = accuracies(training, labels, validation, validation_labels, classes)
    chance = 1 / classes
    above, above_there = right - chance, right_there - chance
    variances = right * (1 - right) / len(labels) + right_there * (1 - right_there) / len(validation_labels)
    share = (1 - above / above_there) * (1 - chance) if above_there > 0 else 0.0
    return Estimate(share, float((right_there - right) / np.sqrt(max(variances, 1e-12))), right, right_there)


def learnt(images: np.ndarray, labels: np.ndarray, classes: int, seed: int = 0) -> float:
    """How often the cheap model is right on each of these images, fitted to all the others."""
    x, others = features(images, images[:1], seed)
    return accuracies(x, labels, others, labels[:1], classes)[0]


def features(images: np.ndarray, others: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [n, 10 * FILTERS] of both: whitened patches of `images` as filters, pooled (Coates, Ng and Lee 2011).

    Patches are brought to mean 0 and deviation 1. What is beyond 0.5 to either side is averaged over each quadrant;
    the deviation over the whole image is added, which tells one large answer from many small ones.
    """
    rng = np.random.default_rng(seed)
    of = rng.integers(len(images), size=PATCHES)
    at = rng.integers(0, images.shape[1] - PATCH + 1, size=(PATCHES, 2))
    patches = np.stack([images[i, y : y + PATCH, x : x + PATCH] for i, (y, x) in zip(of, at, strict=True)])
    patches = patches.reshape(PATCHES, -1).astype(np.float64)
    patches = (patches - patches.mean(1, keepdims=True)) / np.sqrt(patches.var(1, keepdims=True) + 10)
    mean = patches.mean(0)
    variances, axes = np.linalg.eigh(np.cov(patches.T))
    whitening = (axes / np.sqrt(variances + 0.1)) @ axes.T
    chosen = (patches[:FILTERS] - mean) @ whitening
    chosen /= np.linalg.norm(chosen, axis=1, keepdims=True) + 1e-6
    filters = whitening @ chosen.T  # [size, FILTERS]

    shape = (PATCH, PATCH, images.shape[-1])
    kernel = tf.constant(filters.reshape(*shape, -1), tf.float32)
    box = tf.ones([*shape, 1]) / np.prod(shape)
    sums = tf.constant(filters.sum(0), tf.float32)
    offset = tf.constant(mean @ filters, tf.float32)
    conv = lambda x, k: tf.nn.conv2d(x, k, STRIDE, "VALID")  # noqa: E731

    def answers(x: tf.Tensor) -> tf.Tensor:
        center = conv(x, box)
        deviation = tf.sqrt(tf.maximum(conv(x * x, box) - center**2, 0) + 10)
        seen = (conv(x, kernel) - center * sums) / deviation - offset
        both = tf.concat([tf.nn.relu(seen - 0.5), tf.nn.relu(-seen - 0.5)], -1)
        rows = [tf.reduce_mean(half, 1) for half in tf.split(both[:, : 2 * (both.shape[1] // 2)], 2, 1)]
        middle = rows[0].shape[1] // 2
        quadrants = [tf.reduce_mean(part, 1) for row in rows for part in (row[:, :middle], row[:, middle:])]
        return tf.concat([*quadrants, tf.math.reduce_std(both, [1, 2])], -1)

    def of_all(images: np.ndarray) -> np.ndarray:
        parts = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        return np.concatenate([answers(tf.constant(part, tf.float32)).numpy() for part in parts])

    return of_all(images), of_all(others)


def accuracies(
    x: np.ndarray, labels: np.ndarray, others: np.ndarray, labels_of_others: np.ndarray, classes: int
) -> tuple[float, float]:
    """How often ridge regression on features `x` [n, d] is right: left out one by one, and on the `others`.

    Leaving one out has a closed form: a residual over 1 - its leverage, x_i (X'X + penalty)^-1 x_i (Allen 1974). The
    penalty is the one with the smallest of these residuals; validation labels choose nothing.
    """
    center, scale = x.mean(0), x.std(0) + 1e-6
    x, others = (x - center) / scale, (others - center) / scale
    targets = np.eye(classes)[labels] - np.bincount(labels, minlength=classes) / len(labels)
    values, vectors = np.linalg.eigh(x.T @ x)
    turned, across = x @ vectors, others @ vectors
    answers = turned.T @ targets
    best, found = np.inf, (0.0, 0.0)
    for penalty in PENALTIES * x.shape[1]:
        inverse = 1 / (np.maximum(values, 0) + penalty)
        weights = inverse[:, None] * answers
        leverage = (turned**2) @ inverse
        residuals = (targets - turned @ weights) / (1 - leverage)[:, None]
        error = float(np.mean(residuals**2))
        if error < best:
            best = error
            right = np.mean((targets - residuals).argmax(1) == labels)
            found = float(right), float(np.mean((across @ weights).argmax(1) == labels_of_others))
    return found
