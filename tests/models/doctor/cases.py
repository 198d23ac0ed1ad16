"""Networks, telemetry and evidence for tests of the doctor."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import tf_keras as keras
from PIL import Image

from evenkeel.models.config import TrainConfig
from evenkeel.models.doctor.interventions import RunEvidence
from evenkeel.models.stability.trace import Trace

FILE = str(pathlib.Path(__file__))
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


@dataclasses.dataclass
class MadeUpSplit:
    """A split of a data set of which only the labels are known."""

    labels: np.ndarray

    @property
    def columns(self) -> dict[str, np.ndarray]:
        return {"label": self.labels}

    def __len__(self) -> int:
        return len(self.labels)


def write_patterns(root: pathlib.Path, wrong_share: float = 0.0) -> set[str]:
    """Writes a folder of 300 training and 60 validation images of 8 pixels: the pattern of a class under noise.

    A network with one convolution learns them in 30 steps. `wrong_share` of the training images lie in the folder of
    another class; returns their file names.
    """
    rng, labels_rng = np.random.default_rng(0), np.random.default_rng(1)
    classes = rng.integers(10, size=360)
    patterns, noise = (rng.integers(0, 255, (n, 8, 8, 3)) for n in (10, 360))
    wrong = set()
    for number, image in enumerate((patterns[classes] + noise) // 2):
        label, name = classes[number], f"{number:03d}.png"
        if number < 300 and labels_rng.random() < wrong_share:
            label = (label + labels_rng.integers(1, 10)) % 10
            wrong.add(name)
        path = root / ("train" if number < 300 else "validation") / str(label) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(path)
    return wrong


# Networks with one convolution, each as a user would write it.


def bare(input_shape: tuple[int, int, int], classes: int, norm: bool = False) -> keras.Model:
    x = inputs = layers.Input(input_shape)
    x = layers.Conv2D(8, 3, padding="same", use_bias=not norm, kernel_initializer="he_normal", name="conv")(x)
    x = layers.BatchNormalization(momentum=0.9, name="norm")(x) if norm else x
    x = layers.Flatten()(layers.MaxPool2D()(layers.ReLU()(x)))
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x))


def normed(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    return bare(input_shape, classes, norm=True)
