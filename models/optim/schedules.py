"""Learning-rate schedules: warm-up, then one of six shapes.

rate = Schedule(OptimizerConfig(schedule="cosine"), global_batch_size=256, steps_per_epoch=78, epochs=10)
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import OptimizerConfig
from evenkeel.pipeline.errors import UsageError


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of each step: a linear warm-up from 0 to the peak, then the peak times a factor.

    With p the share of the steps after the warm-up that are done, the factor is

    constant    1
    cosine      (1 + cos(pi p)) / 2          Loshchilov and Hutter 2017, without restarts
    one_cycle   1 - p                        Smith and Topin 2018, only its learning rate
    polynomial  (1 - p)^power
    step        step_factor^n                after n of the `milestones`
    restarts    cosine over periods: the first of `restart_epochs`, each next one `restart_growth` times as long (SGDR)

    Attributes:
      peak: learning rate at the end of the warm-up.
      warmup_steps: steps of the warm-up.
      total_steps: steps of the run.

    Raises:
      UsageError: the warm-up is not shorter than the run, or a milestone lies outside the run.
    """

    def __init__(self, config: OptimizerConfig, global_batch_size: int, steps_per_epoch: int, epochs: int) -> None:
        self.config, self.global_batch_size = config, global_batch_size
        self.steps_per_epoch, self.epochs = steps_per_epoch, epochs
        self.peak = peak_learning_rate(config, global_batch_size)
        self.total_steps = steps_per_epoch * epochs
        self.warmup_steps = round(config.warmup_epochs * steps_per_epoch)
        if self.warmup_steps >= self.total_steps:
            raise UsageError(
                f"optimizer.warmup_epochs ({config.warmup_epochs}) must be shorter than the run ({epochs} epochs)."
            )
        if config.schedule == "step" and config.milestone_epochs[-1] >= epochs:
            raise UsageError(f"optimizer.milestones ({config.milestones}) must lie within the run ({epochs} epochs).")

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        done = tf.clip_by_value(done, 0.0, 1.0)
        factors = {
            "constant": lambda: tf.ones_like(done),
            "cosine": lambda: cosine_decay(done),
            "one_cycle": lambda: 1 - done,
            "polynomial": lambda: (1 - done) ** self.config.power,
            "step": lambda: self.config.step_factor ** self._count_reached(step, self._milestone_steps()),
            "restarts": lambda: self._restarts(step),
        }
        # With (step + 1), the first update already has a rate above 0.
        warm = tf.minimum(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.peak * tf.where(step < self.warmup_steps, warm, factors[self.config.schedule]())

    def _milestone_steps(self) -> np.ndarray:
        return np.round(np.multiply(self.config.milestone_epochs, self.steps_per_epoch))

    @staticmethod
    def _count_reached(step: tf.Tensor, marks: np.ndarray) -> tf.Tensor:
        """How many of the steps `marks` have been reached, float32 []."""
        return tf.reduce_sum(tf.cast(step >= tf.constant(marks, tf.float32), tf.float32))

    def _restarts(self, step: tf.Tensor) -> tf.Tensor:
        starts, length = [self.warmup_steps], max(1, round(self.config.restart_epochs * self.steps_per_epoch))
        while starts[-1] < self.total_steps:
            starts.append(starts[-1] + max(1, round(length * self.config.restart_growth ** (len(starts) - 1))))
        period = tf.cast(self._count_reached(step, np.array(starts[1:-1])), tf.int32)
        bounds = tf.constant(starts, tf.float32)
        start, end = tf.gather(bounds, period), tf.gather(bounds, period + 1)
        return cosine_decay(tf.clip_by_value((step - start) / (end - start), 0.0, 1.0))

    def get_config(self) -> dict[str, Any]:
        return {
            "config": dataclasses.asdict(self.config),
            "global_batch_size": self.global_batch_size,
            "steps_per_epoch": self.steps_per_epoch,
            "epochs": self.epochs,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Schedule:
        return cls(**{**config, "config": OptimizerConfig(**config["config"])})


class ScaledSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule multiplied by `factor`, a variable that can change during training."""

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, factor: tf.Variable) -> None:
        self.schedule, self.factor = schedule, factor

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        return self.schedule(step) * tf.cast(self.factor, tf.float32)

    def get_config(self) -> dict[str, Any]:
        return {"schedule": self.schedule, "factor": float(self.factor.numpy())}


def scale_schedule(optimizer: Any, factor: tf.Variable) -> None:
    """Wraps the optimizer's schedule in a `ScaledSchedule` with `factor`; an earlier `ScaledSchedule` is replaced.

    Works for both of Keras's optimizer families. An optimizer with a constant learning rate stays unchanged.
    """
    while hasattr(optimizer, "_optimizer"):  # Lookahead wraps another optimizer
        optimizer = optimizer._optimizer
    legacy = isinstance(optimizer, keras.optimizers.legacy.Optimizer)
    rate = optimizer._hyper["learning_rate"] if legacy else optimizer._learning_rate
    if not isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return
    rate = ScaledSchedule(rate.schedule if isinstance(rate, ScaledSchedule) else rate, factor)
    if legacy:
        optimizer._set_hyper("learning_rate", rate)
    else:
        optimizer._learning_rate = rate


def learning_rate_variable(optimizer: Any) -> tf.Variable | None:
    """The variable that holds a constant learning rate; None if the optimizer has a schedule."""
    rate = getattr(optimizer, "_learning_rate", None)
    if isinstance(optimizer, keras.optimizers.legacy.Optimizer):
        rate = optimizer._hyper.get("learning_rate")
    return None if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule) else rate


def cosine_decay(done: tf.Tensor) -> tf.Tensor:
    """The factor (1 + cos(pi done)) / 2, with `done` in [0, 1]."""
    return 0.5 * (1 + tf.cos(math.pi * done))


def peak_learning_rate(config: OptimizerConfig, global_batch_size: int) -> float:
    """The peak learning rate, scaled to the global batch as `optimizer.scaling` says.

    `linear` keeps the learning rate per image constant (Goyal et al. 2017), and `sqrt` keeps the variance of an update
    constant (Krizhevsky 2014).
    """
    ratio = global_batch_size / config.reference_batch
    factors = {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}
    return config.learning_rate * factors[config.scaling]
