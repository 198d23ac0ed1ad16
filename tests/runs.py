"""Short training runs, and their event files read back."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import tf_keras as keras
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from evenkeel.models import train
from evenkeel.models.config import ModelConfig, OptimizerConfig, TrainConfig
from evenkeel.pipeline.config import AugmentConfig, DataConfig, ShapesConfig
from tests import factories

STEPS = 19  # of 16 images in an epoch of 300, and 4 evaluation steps, the last one filled up


TINY = TrainConfig(
    epochs=2,
    precision="float32",
    steps_per_execution=4,
    histograms_every=10,
    preflight="off",  # which says that 38 steps are few
    data=DataConfig(
        image_size=16,
        batch_size=16,
        shapes=ShapesConfig(size=16, count=300),
        augment=AugmentConfig(flip=0.5, pad_crop=2, brightness=0.1),
    ),
    model=ModelConfig(name=f"{factories.FILE}:normed"),
    optimizer=OptimizerConfig(name="adam", learning_rate=0.01, warmup_epochs=1.5),
)


PLAIN = dataclasses.replace(
    TINY,
    histograms_every=0,
    model=ModelConfig(name=f"{factories.FILE}:plain"),
    optimizer=OptimizerConfig(name="adam", learning_rate=0.01),
)


@functools.cache
def finished() -> tuple[str, dict[str, Any]]:
    """The directory and the summary of a run of TINY; shared, to be read only."""
    model_dir = tempfile.mkdtemp(dir=os.environ["EVENKEEL_CACHE"])
    return model_dir, fresh(TINY, model_dir)


def fresh(
    config: TrainConfig,
    model_dir: str | pathlib.Path,
    resume: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> dict[str, Any]:
    """Trains as a process of its own does: the numbers in layer names start again."""
    keras.backend.reset_uids()
    return train.train(config, str(model_dir), resume=resume, callbacks=callbacks)


def events(model_dir: str | pathlib.Path, part: str = "train") -> EventAccumulator:
    """All that TensorBoard would read."""
    accumulator = EventAccumulator(os.path.join(model_dir, part), {"tensors": 0})
    accumulator.Reload()
    return accumulator


def scalars(read: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    """(step, value) of every event."""
    return [(event.step, float(make_ndarray(event.tensor_proto))) for event in read.Tensors(tag)]
