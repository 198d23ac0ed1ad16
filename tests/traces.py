"""Traces of runs for the detectors."""

from __future__ import annotations

import numpy as np

from evenkeel.models.stability import rolling
from evenkeel.models.stability.trace import Trace, first_loss

STEPS, EVERY, LAYERS = 600, 20, 5
LAYER_STATISTICS = (
    "gradient_norm",
    "weight_norm",
    "update_norm",
    "moment_ratio",
    "dead",
    "saturated",
    "deviation",
    "shift",
    "spread",
    "log_variance",
)


def healthy(steps: int = STEPS, seed: int = 0, noise: float = 0.1, unit: float = 1.0) -> Trace:
    """Trace of a sound run: a noisy loss that falls from ln 10 to a tenth of that, and usual values of all else."""
    rng = np.random.default_rng(seed)
    steps_array = np.arange(steps)
    loss = unit * np.log(10) * (0.1 + 0.9 * np.exp(-steps_array / 100)) * np.exp(noise * rng.normal(size=steps))
    due = np.arange(0, steps, EVERY)
    usual = {
        "gradient_norm": 1.0,
        "weight_norm": 10.0,
        "update_norm": 0.01,
        "moment_ratio": 1.0,
        "dead": 0.05,
        "saturated": 0.2,
        "deviation": 1.0,
        "shift": 0.1,
        "spread": 0.1,
        "log_variance": 0.1,
    }
    jitter = lambda *shape: np.exp(0.1 * rng.normal(size=shape))  # noqa: E731
    layers = {name: usual[name] * jitter(len(due), LAYERS) for name in LAYER_STATISTICS}
    layers["training_loss"] = loss[due] * jitter(len(due))
    layers["inference_loss"] = loss[due] * jitter(len(due))
    validated = np.arange(100, steps + 1, 100)
    return Trace(
        steps=steps_array,
        loss=loss,
        gradient_norm=jitter(steps),
        learning_rate=np.full(steps, 0.1),
        loss_scale=np.ones(steps),
        nonfinite=np.zeros(steps),
        due=due,
        layers=layers,
        validated=validated,
        validation_loss=np.linspace(2, 1, len(validated)) * unit,
        training_loss=np.array([np.median(loss[max(0, step - rolling.BASELINE_STEPS) : step]) for step in validated]),
        began=first_loss(loss),
    )
