"""Networks, telemetry and evidence for tests of the doctor."""

from __future__ import annotations

from typing import Any

import numpy as np
import tf_keras as keras

from evenkeel.models.config import TrainConfig
from evenkeel.models.doctor.interventions import RunEvidence
from evenkeel.models.stability.trace import Trace

layers = keras.layers


def network(**last: Any) -> keras.Model:
    inputs = layers.Input((8, 8, 3))
    x = layers.Flatten()(layers.Conv2D(4, 3, activation="relu", kernel_initializer="he_normal")(inputs))
    return keras.Model(inputs, layers.Dense(10, **last)(x))


def trace(n: int = 100, dead: float = 0.0, **changes: Any) -> Trace:
    column = np.ones(n)
    layers = {"dead": np.full((5, 1), dead), "saturated": np.full((5, 1), np.nan)}
    defaults = {
        "steps": np.arange(n),
        "loss": column,
        "gradient_norm": column,
        "learning_rate": column,
        "loss_scale": column,
        "nonfinite": 0 * column,
        "due": np.arange(0, n, n // 5),
        "layers": layers,
        "began": 2.3,
    }
    return Trace(**{**defaults, **changes})


def run_evidence(config: TrainConfig | None = None, **changes: Any) -> RunEvidence:
    defaults = {
        "config": config or TrainConfig(),
        "network": network(),
        "findings": (),
        "trace": trace(),
        "alarm_kinds": frozenset(),
        "train_images": 4000,
        "total_steps": 250,
    }
    return RunEvidence(**{**defaults, **changes})
