"""Baselines that evenkeel is compared with: published detectors and repairs of training problems.

    symptoms = autotrainer_symptoms(accuracy, validation_accuracy, gradient_norms, zero_gradients)   # ["vanish"]
    for flags in autotrainer_repairs("vanish", config): ...                   # {"model.patch": "batch_norm"}
    epoch = reduce_on_plateau_epoch(validation_loss)                          # None if it does not act

The detectors read recorded telemetry and use only NumPy. Rules and thresholds are those of the authors. If networks or
options of evenkeel require a deviation, the docstring describes it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evenkeel.models.config import PATCHES, TrainConfig

# AutoTrainer (Zhang, Zhai, Ma and Shen, "AUTOTRAINER: An Automatic DNN Training Problem Detection and Repair System",
# ICSE 2021), section III, and the parameters of its code, github.com/shiningrain/AUTOTRAINER, utils/monitor.py.
MAX_VANISHING_RATIO, MAX_VANISHING_NORM = 1e-3, 1e-4  # its beta_1, beta_2
MIN_EXPLODING_RATIO = 70.0  # its beta_3
MIN_ZERO_SHARE = 0.7  # its gamma
MIN_SWING, MIN_SWING_SHARE = 0.03, 0.2  # its zeta (difference of accuracy), eta (share of the epochs)
MIN_ACCURACY_GAIN = 0.01  # its delta (gain per epoch)
MIN_CONVERGED_ACCURACY = 0.6  # its theta
ROUNDING = 1e-9  # tolerance for differences of decimal fractions: 0.53 - 0.5 is 3e-17 less than 0.03


def autotrainer_symptoms(
    accuracy: np.ndarray,
    validation_accuracy: np.ndarray,
    gradient_norms: np.ndarray,
    zero_gradients: np.ndarray,
    loss: np.ndarray | None = None,
) -> list[str]:
    """Returns AutoTrainer's symptoms of a run: explode, vanish, dying, oscillating, slow. The first is repaired first.

    AutoTrainer checks once per epoch, and one check with a symptom is enough (its `determine_threshold` is 1). A value
    of the gradients or the loss that is not finite is `explode` at any accuracy. All other symptoms count only if the
    run has not converged. (In AutoTrainer's code, oscillation counts only if the accuracy is above
    `MIN_CONVERGED_ACCURACY`; its paper has one condition for all symptoms.)

    Args:
      accuracy: training accuracy, float [epochs]; windows of steps may replace the epochs.
      validation_accuracy: validation accuracy, float [epochs].
      gradient_norms: gradient norms of the kernels from the first to the last layer, float [checks, layers].
      zero_gradients: share of the components of the gradient that are zero, float [checks].
      loss: training loss, float [steps].
    """
    nonfinite_gradient = bool(len(gradient_norms)) and not np.isfinite(gradient_norms).all()
    if nonfinite_gradient or (loss is not None and not np.isfinite(loss).all()):
        return ["explode"]
    if has_converged(accuracy) and has_converged(validation_accuracy):
        return []
    symptoms = {
        "explode": has_exploding_gradients(gradient_norms),
        "vanish": has_vanishing_gradients(gradient_norms),
        "dying": bool(np.any(np.asarray(zero_gradients) >= MIN_ZERO_SHARE)),
        "oscillating": oscillates(accuracy),
        "slow": is_slow(accuracy) and is_slow(validation_accuracy),
    }
    return [name for name, present in symptoms.items() if present]


def has_converged(accuracy: np.ndarray) -> bool:
    return bool(len(accuracy)) and float(np.max(accuracy)) >= MIN_CONVERGED_ACCURACY


def has_vanishing_gradients(norms: np.ndarray) -> bool:
    """Whether |g_first| / |g_last| < 1e-3 and |g_first| < 1e-4 in any check."""
    if not len(norms):
        return False
    ratio = norms[:, 0] / np.maximum(norms[:, -1], 1e-30)
    return bool(np.any((ratio < MAX_VANISHING_RATIO) & (norms[:, 0] < MAX_VANISHING_NORM)))


def has_exploding_gradients(norms: np.ndarray) -> bool:
    """Whether |g_first| / |g_last| > 70, or a norm is not finite, in any check. All-zero gradients do not explode."""
    if not len(norms):
        return False
    if not np.isfinite(norms).all():
        return True
    return bool(np.any(norms[:, 0] > MIN_EXPLODING_RATIO * norms[:, -1]))


def oscillates(accuracy: np.ndarray) -> bool:
    """Whether the i-th local maximum is 0.03 or more above the i-th local minimum, for i as many as 20% of epochs."""
    x = np.asarray(accuracy, np.float64)
    if len(x) < 3:
        return False
    left, right = x[1:-1] - x[:-2], x[1:-1] - x[2:]
    maxima, minima = x[1:-1][(left >= 0) & (right >= 0)], x[1:-1][(left <= 0) & (right <= 0)]
    pairs = min(len(maxima), len(minima))
    swings = np.count_nonzero(maxima[:pairs] - minima[:pairs] >= MIN_SWING - ROUNDING)
    return bool(swings >= MIN_SWING_SHARE * len(x))


def is_slow(accuracy: np.ndarray) -> bool:
    """Whether the accuracy grew by less than 0.01 from every epoch to the next; False for a single epoch."""
    return len(accuracy) > 1 and float(np.max(np.diff(accuracy))) < MIN_ACCURACY_GAIN - ROUNDING


# Repairs.


def autotrainer_repairs(symptom: str, config: TrainConfig) -> list[dict[str, Any]]:
    """Returns AutoTrainer's repairs of a symptom as flags of `evenkeel train`, in the order in which it tries them.

    The repairs are those of section III-C, table III, except for three that no flag can express: SELU, tanh and
    Gaussian noise.
    """
    optimizer, batch_size = config.optimizer, config.data.batch_size
    raise_rate = {"optimizer.learning_rate": 10 * optimizer.learning_rate}
    lower_rate = {"optimizer.learning_rate": optimizer.learning_rate / 10}
    # A new optimizer gets its default learning rate in Keras.
    adam: dict[str, Any] = {"optimizer.name": "adam", "optimizer.learning_rate": 1e-3}
    sgd: dict[str, Any] = {"optimizer.name": "sgd", "optimizer.learning_rate": 1e-2}
    patch: dict[str, dict[str, Any]] = {
        name: {"model.patch": name} for name in ("relu", "leaky_relu", "he_normal", "batch_norm")
    }
    other_optimizer = sgd if optimizer.name == "adam" else adam
    repairs: dict[str, list[dict[str, Any]]] = {
        "vanish": [patch["batch_norm"], patch["relu"], patch["he_normal"]],
        "explode": [{"optimizer.clip_value": 10.0}, patch["he_normal"], patch["relu"], patch["batch_norm"]],
        "dying": [patch["leaky_relu"], patch["he_normal"], patch["batch_norm"]],
        "oscillating": [lower_rate, other_optimizer, {"data.batch_size": 2 * batch_size}],
        "slow": [other_optimizer, raise_rate],
    }
    return repairs[symptom]


def draw_random_changes(rng: np.random.Generator) -> dict[str, Any]:
    """Draws random values, as flags, for options that the doctor may change (random search, Bergstra and Bengio 2012).

    Each option gets a new value with a probability of one half; otherwise it is not among the flags.
    """
    flags = {
        "optimizer.learning_rate": float(10 ** rng.uniform(-4, 0)),
        "optimizer.name": str(rng.choice(["sgd", "adam"])),
        "optimizer.momentum": float(rng.choice([0.5, 0.9, 0.99])),
        "optimizer.weight_decay": float(rng.choice([0.0, 5e-4, 5e-3])),
        "optimizer.clip_norm": float(rng.choice([0.0, 1.0])),
        "data.batch_size": int(rng.choice([16, 32, 64, 128])),
        "data.normalize": bool(rng.choice([True, False])),
        "data.drop": str(rng.choice(["", "outliers"])),
        "data.balance": str(rng.choice(["none", "classes"])),
        "data.augment.flip": float(rng.choice([0.0, 0.5])),
        "data.augment.pad_crop": int(rng.choice([0, 2, 4])),
        "model.dropout": float(rng.choice([0.0, 0.3])),
        "model.l2": float(rng.choice([0.0, 1e-4])),
        "model.patch": str(rng.choice(PATCHES)),
    }
    return {name: value for name, value in flags.items() if rng.random() < 0.5}


# These detectors return the epoch or step at which they first act, or None. They are three callbacks of Keras with
# default parameters, and a rule on the loss.


def terminate_on_nan_step(loss: np.ndarray) -> int | None:
    """Returns the first step at which the loss is not finite; None if there is no such step."""
    steps = np.flatnonzero(~np.isfinite(loss))
    return int(steps[0]) if len(steps) else None


def reduce_on_plateau_epoch(validation_loss: np.ndarray, patience: int = 10, min_delta: float = 1e-4) -> int | None:
    """Returns the last of the first `patience` consecutive epochs without a loss `min_delta` below the best loss."""
    return _patience_epoch(validation_loss, patience, min_delta)


def early_stopping_epoch(validation_loss: np.ndarray, patience: int = 0, min_delta: float = 0.0) -> int | None:
    """Returns the last of the first `patience` consecutive epochs without a new best loss; 0 has the effect of 1."""
    return _patience_epoch(validation_loss, max(1, patience), min_delta)


def _patience_epoch(loss: np.ndarray, patience: int, min_delta: float) -> int | None:
    best, epochs_without_progress = np.inf, 0
    for epoch, value in enumerate(loss):
        if value < best - min_delta:
            best, epochs_without_progress = value, 0
            continue
        epochs_without_progress += 1
        if epochs_without_progress >= patience:
            return epoch
    return None


def loss_spike_step(loss: np.ndarray, window: int = 10, factor: float = 2.0) -> int | None:
    """Returns the first step with a loss that is not finite, or `factor` times the mean of the last `window` losses."""
    x = np.asarray(loss, np.float64)
    for step in range(len(x)):
        if not np.isfinite(x[step]):
            return step
        if step >= window and x[step] >= factor * x[step - window : step].mean():
            return step
    return None
