"""Computes classification metrics from a confusion matrix.

macro_f1(matrix), cohen_kappa(matrix), matthews_correlation(matrix)

The matrix holds counts [classes, classes]; rows are true classes and columns are predicted classes.
"""

from __future__ import annotations

import numpy as np


def compute_scores(matrix: np.ndarray, calibration: np.ndarray, top_5: float | None) -> dict[str, float]:
    """Returns {name: score} of an evaluation.

    Args:
      matrix: confusion matrix [classes, classes].
      calibration: sums [3, bins], see `calibration_error`.
      top_5: top-5 accuracy; None with five classes or fewer.
    """
    scores = {
        "macro_f1": macro_f1(matrix),
        "kappa": cohen_kappa(matrix),
        "matthews": matthews_correlation(matrix),
        "calibration_error": calibration_error(calibration),
    }
    return scores if top_5 is None else {"top_5": top_5, **scores}


def precision_per_class(matrix: np.ndarray) -> np.ndarray:
    """Precision of each class, [classes]: the share of its predictions that are correct; NaN without predictions."""
    return _divide(np.diag(matrix), matrix.sum(axis=0))


def recall_per_class(matrix: np.ndarray) -> np.ndarray:
    """Recall of each class, [classes]: the share of its examples that are predicted correctly; NaN without examples."""
    return _divide(np.diag(matrix), matrix.sum(axis=1))


def macro_f1(matrix: np.ndarray) -> float:
    """Mean of 2 precision recall / (precision + recall) over the classes with an example or a prediction."""
    matrix = matrix.astype(np.float64)
    examples_and_predictions = matrix.sum(axis=0) + matrix.sum(axis=1)
    return float(np.nanmean(_divide(2 * np.diag(matrix), examples_and_predictions)))


def cohen_kappa(matrix: np.ndarray) -> float:
    """Agreement beyond chance, (observed - expected) / (1 - expected) (Cohen 1960); NaN if expected is 1."""
    matrix = matrix.astype(np.float64)
    total = matrix.sum()
    observed, expected = np.trace(matrix) / total, matrix.sum(axis=0) @ matrix.sum(axis=1) / total**2
    return float((observed - expected) / (1 - expected)) if expected < 1 else float("nan")


def matthews_correlation(matrix: np.ndarray) -> float:
    """Matthews correlation for several classes (Gorodkin 2004, equation 8).

    The result is 0 if all examples, or all predictions, have the same class.
    """
    matrix = matrix.astype(np.float64)
    true, predicted, total = matrix.sum(axis=1), matrix.sum(axis=0), matrix.sum()
    scale = (total**2 - predicted @ predicted) * (total**2 - true @ true)
    return float((np.trace(matrix) * total - true @ predicted) / np.sqrt(scale)) if scale > 0 else 0.0


def calibration_error(sums: np.ndarray) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3).

    `sums` is [3, bins]: for each bin of confidence the sums of weights, of confidence and of correct predictions.
    """
    weights, confidence, correct = sums.astype(np.float64)
    return float(np.abs(correct - confidence).sum() / weights.sum())


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
