"""Figures of merit out of a confusion matrix, counts [classes, classes] by true (row) and predicted class (column).

macro_f1(matrix), kappa(matrix), matthews(matrix)
"""

from __future__ import annotations

import numpy as np


def all_scores(matrix: np.ndarray, calibration: np.ndarray, top_5: float | None) -> dict[str, float]:
    """{name: figure} of an evaluation; `top_5` is None where there are no more than five classes."""
    found = {
        "macro_f1": macro_f1(matrix),
        "kappa": kappa(matrix),
        "matthews": matthews(matrix),
        "calibration_error": calibration_error(calibration),
    }
    return found if top_5 is None else {"top_5": top_5, **found}


def precision(matrix: np.ndarray) -> np.ndarray:
    """Share of right ones among those predicted as each class; NaN where none was."""
    return _share(np.diag(matrix), matrix.sum(axis=0))


def recall(matrix: np.ndarray) -> np.ndarray:
    """Share of right ones among those of each class; NaN where there is none."""
    return _share(np.diag(matrix), matrix.sum(axis=1))


def macro_f1(matrix: np.ndarray) -> float:
    """Mean over classes of 2 precision recall / (precision + recall), over the classes that were seen or predicted."""
    matrix = matrix.astype(np.float64)
    seen_or_predicted = matrix.sum(axis=0) + matrix.sum(axis=1)
    return float(np.nanmean(_share(2 * np.diag(matrix), seen_or_predicted)))


def kappa(matrix: np.ndarray) -> float:
    """Agreement beyond chance, (observed - expected) / (1 - expected) (Cohen 1960); NaN where chance is certain."""
    matrix = matrix.astype(np.float64)
    total = matrix.sum()
    observed, expected = np.trace(matrix) / total, matrix.sum(axis=0) @ matrix.sum(axis=1) / total**2
    return float((observed - expected) / (1 - expected)) if expected < 1 else float("nan")


def matthews(matrix: np.ndarray) -> float:
    """Matthews correlation of several classes (Gorodkin 2004, equation 8); 0 where only one is seen or predicted."""
    matrix = matrix.astype(np.float64)
    true, predicted, total = matrix.sum(axis=1), matrix.sum(axis=0), matrix.sum()
    scale = (total**2 - predicted @ predicted) * (total**2 - true @ true)
    return float((np.trace(matrix) * total - true @ predicted) / np.sqrt(scale)) if scale > 0 else 0.0


def calibration_error(sums: np.ndarray) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3).

    `sums` is [3, bins]: by confidence, the sums of weights, of confidence and of being right.
    """
    weights, confidence, right = sums.astype(np.float64)
    return float(np.abs(right - confidence).sum() / weights.sum())


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
