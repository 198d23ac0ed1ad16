"""A cheap model of images: ridge regression on responses to random patches. It takes a second for 1,000 images.

    scores, validation_scores = fit_cheap_model(images, labels, validation_images, classes)
    scores.argmax(1) == labels              # each image predicted by a model fitted to all the others

`label_relation` draws conclusions about the labels from its predictions.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

IMAGE_PIXELS = 32  # side that images are scaled to
PATCH_PIXELS = 6  # side of a patch, as in Coates, Ng and Lee 2011, section 4
FILTERS, STRIDE = 64, 2  # 128 and 1 would detect 20% wrong labels with more certainty, but take three times as long
WHITENING_PATCHES = 4000
BATCH_IMAGES = 250
RIDGE_PENALTIES = 10.0 ** np.arange(-2, 3, 0.5)


def fit_cheap_model(
    images: np.ndarray, labels: np.ndarray, others: np.ndarray, classes: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns scores of each class, float64 [n, classes]: leave-one-out of `images`, and of `others`.

    `images` and `others` are uint8 [n, h, w, c], `labels` int [n] belong to `images`.
    """
    return ridge_scores(*patch_features(images, others, seed), labels, classes)


def leave_one_out_accuracy(images: np.ndarray, labels: np.ndarray, classes: int, seed: int = 0) -> float:
    """Accuracy of the cheap model on `images`, each predicted by a model fitted to all the others."""
    scores, _ = fit_cheap_model(images, labels, images[:1], classes, seed)
    return float(np.mean(scores.argmax(1) == labels))


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


def ridge_scores(x: np.ndarray, others: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of ridge regression on features `x` [n, d], float64 [n, classes]: leave-one-out on `x`, and on `others`.

    The score of a class is a linear prediction of its indicator, minus the share of the class that the model knows. A
    leave-one-out residual is the residual divided by 1 - leverage, where the leverage is
    x_i (X'X + penalty)^-1 x_i + 1 / n for centred `x` (Allen 1974). The penalty with the smallest such residuals is
    used; `others` does not influence the choice.
    """
    center, scale = x.mean(0), x.std(0) + 1e-6
    x, others = (x - center) / scale, (others - center) / scale
    targets = np.eye(classes)[labels] - np.bincount(labels, minlength=classes) / len(labels)
    eigenvalues, eigenvectors = np.linalg.eigh(x.T @ x)
    rotated, rotated_others = x @ eigenvectors, others @ eigenvectors
    projections = rotated.T @ targets
    least_error, scores = np.inf, (targets, np.zeros((len(others), classes)))
    for penalty in RIDGE_PENALTIES * x.shape[1]:
        inverse = 1 / (np.maximum(eigenvalues, 0) + penalty)
        weights = inverse[:, None] * projections
        # 1 / n is the leverage of the mean: without it, the mean of the others would tell the label that is left out.
        leverage = (rotated**2) @ inverse + 1 / len(labels)
        residuals = (targets - rotated @ weights) / np.maximum(1 - leverage, 1e-9)[:, None]
        error = float(np.mean(residuals**2))
        if error < least_error:
            # Minus the mean target of the others, -targets / (n - 1): the class that is left out is rarer among them.
            scores = targets - residuals + targets / max(1, len(labels) - 1), rotated_others @ weights
            least_error = error
    return scores
