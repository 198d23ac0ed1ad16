"""Published ways to tell that training goes wrong, on recorded telemetry: what evenkeel's detectors are compared with.

    found = autotrainer(accuracy, validation_accuracy, gradient_norms, zero_gradients)   # ["vanish"]
    for flags in repairs("vanish", config): ...                                          # {"model.patch": "batch_norm"}
    when = reduce_on_plateau(validation_loss)                                            # epoch, or None

Pure numpy. Rules and thresholds are the authors'; where evenkeel's networks or options need another form, it says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evenkeel.models.config import TrainConfig

# AutoTrainer (Zhang, Zhai, Ma and Shen, "AUTOTRAINER: An Automatic DNN Training Problem Detection and Repair System",
# ICSE 2021), section III and the parameters of its code, github.com/shiningrain/AUTOTRAINER, utils/monitor.py.
VANISH_RATIO, VANISH_NORM, EXPLODE_RATIO = 1e-3, 1e-4, 70.0  # its beta_1, beta_2, beta_3
ZEROS = 0.7  # its gamma
SWING, SWINGS, SLOW = 0.03, 0.2, 0.01  # its zeta, eta, delta
SATISFIED = 0.6  # its theta: below it a run has not converged


def autotrainer(
    accuracy: np.ndarray,
    validation_accuracy: np.ndarray,
    gradient_norms: np.ndarray,
    zero_gradients: np.ndarray,
    loss: np.ndarray | None = None,
) -> list[str]:
    """AutoTrainer's symptoms: explode, vanish, dying, oscillating, slow; in this order, the first is repaired first.

    `accuracy` and `validation_accuracy` (float [epochs]) are those of epochs, or of windows as long; `gradient_norms`
    (float [looks, layers]) of the kernels from the first to the last; `zero_gradients` (float [looks]) the share of all
    components of the gradient that are zero. It looks once an epoch: a look speaks for itself, and one suffices
    (`determine_threshold` 1). A number that is not finite, in `loss` too, explodes whatever the accuracy; all else
    counts only below `SATISFIED`. (In its code an oscillation counts above it instead; the paper has one gate.)
    """
    unsound = bool(len(gradient_norms)) and not np.isfinite(gradient_norms).all()
    if unsound or (loss is not None and not np.isfinite(loss).all()):
        return ["explode"]
    if converged(accuracy) and converged(validation_accuracy):
        return []
    symptoms = {
        "explode": explodes(gradient_norms),
        "vanish": vanishes(gradient_norms),
        "dying": bool(np.any(np.asarray(zero_gradients) >= ZEROS)),
        "oscillating": oscillates(accuracy),
        "slow": slow(accuracy) and slow(validation_accuracy),
    }
    return [name for name, there in symptoms.items() if there]


def converged(accuracy: np.ndarray) -> bool:
    return bool(len(accuracy)) and float(np.max(accuracy)) >= SATISFIED


def vanishes(norms: np.ndarray) -> bool:
    """|g_first| / |g_last| < 1e-3 and |g_first| < 1e-4, at any look."""
    if not len(norms):
        return False
    ratio = norms[:, 0] / np.maximum(norms[:, -1], 1e-30)
    return bool(np.any((ratio < VANISH_RATIO) & (norms[:, 0] < VANISH_NORM)))


def explodes(norms: np.ndarray) -> bool:
    """|g_first| / |g_last| > 70, or not finite, at any look. No gradient at all is not one that explodes."""
    if not len(norms):
        return False
    if not np.isfinite(norms).all():
        return True
    return bool(np.any(norms[:, 0] > EXPLODE_RATIO * norms[:, -1]))


def oscillates(accuracy: np.ndarray) -> bool:
    """The i-th local maximum lies 0.03 above the i-th local minimum, for as many i as a fifth of the epochs."""
    x = np.asarray(accuracy, np.float64)
    if len(x) < 3:
        return False
    left, right = x[1:-1] - x[:-2], x[1:-1] - x[2:]
    highest, lowest = x[1:-1][(left >= 0) & (right >= 0)], x[1:-1][(left <= 0) & (right <= 0)]
    pairs = min(len(highest), len(lowest))
    # Differences of decimals: 0.53 - 0.5 is 0.03 less 3e-17.
    swings = np.count_nonzero(highest[:pairs] - lowest[:pairs] >= SWING - 1e-9)
    return bool(swings >= SWINGS * len(x))


def slow(accuracy: np.ndarray) -> bool:
    """From no epoch to the next did accuracy gain 0.01. One epoch says nothing."""
    return len(accuracy) > 1 and float(np.max(np.diff(accuracy))) < SLOW - 1e-9


def repairs(symptom: str, config: TrainConfig) -> list[dict[str, Any]]:
    """AutoTrainer's changes for a symptom in the order it tries them, as flags of `tools.train`; one at a time.

    After section III-C, table III. Not expressible, and left out: SELU and tanh for the activation, Gaussian noise.
    """
    optimizer, batch = config.optimizer, config.data.batch_size
    faster = {"optimizer.learning_rate": 10 * optimizer.learning_rate}
    slower = {"optimizer.learning_rate": optimizer.learning_rate / 10}
    # Keras's own rate of Adam, which it takes along.
    adam: dict[str, Any] = {"optimizer.name": "adam", "optimizer.learning_rate": 1e-3}
    sgd: dict[str, Any] = {"optimizer.name": "sgd", "optimizer.learning_rate": 1e-2}
    patch: dict[str, dict[str, Any]] = {
        name: {"model.patch": name} for name in ("relu", "leaky_relu", "he_normal", "batch_norm")
    }
    other = sgd if optimizer.name == "adam" else adam
    ladders: dict[str, list[dict[str, Any]]] = {
        "vanish": [patch["batch_norm"], patch["relu"], patch["he_normal"]],
        "explode": [{"optimizer.clip_value": 10.0}, patch["he_normal"], patch["relu"], patch["batch_norm"]],
        "dying": [patch["leaky_relu"], patch["he_normal"], patch["batch_norm"]],
        "oscillating": [slower, other, {"data.batch_size": 2 * batch}],
        "slow": [other, faster],
    }
    return ladders[symptom]


# Keras's callbacks as detectors, at their defaults unless told otherwise: the epoch or step at which they first act.


def terminate_on_nan(loss: np.ndarray) -> int | None:
    """The first step whose loss is not finite."""
    at = np.flatnonzero(~np.isfinite(loss))
    return int(at[0]) if len(at) else None


def reduce_on_plateau(validation_loss: np.ndarray, patience: int = 10, min_delta: float = 1e-4) -> int | None:
    """The first epoch that ends `patience` in a row without a loss `min_delta` below the best."""
    return _waited(validation_loss, patience, min_delta)


def early_stopping(validation_loss: np.ndarray, patience: int = 0, min_delta: float = 0.0) -> int | None:
    """The first epoch that ends `patience` in a row without a loss below the best; with 0, the first such epoch."""
    return _waited(validation_loss, max(1, patience), min_delta)


def _waited(loss: np.ndarray, patience: int, min_delta: float) -> int | None:
    best, waited = np.inf, 0
    for epoch, value in enumerate(loss):
        if value < best - min_delta:
            best, waited = value, 0
            continue
        waited += 1
        if waited >= patience:
            return epoch
    return None


def loss_spike(loss: np.ndarray, window: int = 10, times: float = 2.0) -> int | None:
    """The first step whose loss is at least `times` the mean of the last `window`, or not finite: the loss alone."""
    x = np.asarray(loss, np.float64)
    for step in range(len(x)):
        if not np.isfinite(x[step]):
            return step
        if step >= window and x[step] >= times * x[step - window : step].mean():
            return step
    return None
