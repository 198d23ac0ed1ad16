"""The learning rate as a function of the step.

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
    """Linear warm-up from 0 to the peak, then the peak times, with p the share of the steps behind the warm-up done,

    constant    1
    cosine      (1 + cos(pi p)) / 2          Loshchilov and Hutter 2017, without restarts
    one_cycle   1 - p                        Smith and Topin 2018, the learning rate's part of it
    polynomial  (1 - p)^power
    step        factor^n behind n of the `milestones`
    restarts    cosine in periods of `restart_epochs`, each `restart_growth` times as long as the last (SGDR)

    Raises:
      UsageError: the warm-up is as long as the run, or a milestone lies outside of it.
    """

    def __init__(self, config: OptimizerConfig, global_batch_size: int, steps_per_epoch: int, epochs: int) -> None:
        self.config, self.global_batch_size = config, global_batch_size
        self.steps_per_epoch, self.epochs = steps_per_epoch, epochs
        self.peak = peak(config, global_batch_size)
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
        shapes = {
            "constant": lambda: tf.ones_like(done),
            "cosine": lambda: cosine(done),
            "one_cycle": lambda: 1 - done,
            "polynomial": lambda: (1 - done) ** self.config.power,
            "step": lambda: self.config.step_factor ** self._behind(step, self._milestones()),
            "restarts": lambda: self._restarts(step),
        }
        # (step + 1): the first update already moves.
        warm = tf.minimum(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.peak * tf.where(step < self.warmup_steps, warm, shapes[self.config.schedule]())

    def _milestones(self) -> np.ndarray:
        return np.round(np.multiply(self.config.milestone_epochs, self.steps_per_epoch))

    @staticmethod
    def _behind(step: tf.Tensor, marks: np.ndarray) -> tf.Tensor:
        """How many of `marks` have been reached, float32 []."""
        return tf.reduce_sum(tf.cast(step >= tf.constant(marks, tf.float32), tf.float32))

    def _restarts(self, step: tf.Tensor) -> tf.Tensor:
        starts, length = [self.warmup_steps], max(1, round(self.config.restart_epochs * self.steps_per_epoch))
        while starts[-1] < self.total_steps:
            starts.append(starts[-1] + max(1, round(length * self.config.restart_growth ** (len(starts) - 1))))
        period = tf.cast(self._behind(step, np.array(starts[1:-1])), tf.int32)
        marks = tf.constant(starts, tf.float32)
        first, after = tf.gather(marks, period), tf.gather(marks, period + 1)
        return cosine(tf.clip_by_value((step - first) / (after - first), 0.0, 1.0))

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


class Scaled(keras.optimizers.schedules.LearningRateSchedule):
    """`schedule`, `lost` steps ahead of what is asked for, times `factor`; both are variables.

    After a rollback the optimizer counts updates anew that the run has behind it: a schedule that went back with it
    would not come to its end.
    """

    def __init__(
        self,
        schedule: keras.optimizers.schedules.LearningRateSchedule,
        factor: tf.Variable,
    ) -> None:
        self.schedule, self.factor = schedule, factor

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        return self.schedule(step) * tf.cast(self.factor, tf.float32)

    def get_config(self) -> dict[str, Any]:
        return {"schedule": self.schedule, "factor": float(self.factor.numpy())}


def scaled(optimizer: Any, factor: tf.Variable) -> None:
    """Puts `Scaled` around the schedule of an optimizer of either of Keras's families; a plain number it leaves be."""
    while hasattr(optimizer, "_optimizer"):  # Lookahead holds another
        optimizer = optimizer._optimizer
    legacy = isinstance(optimizer, keras.optimizers.legacy.Optimizer)
    rate = optimizer._hyper["learning_rate"] if legacy else optimizer._learning_rate
    if not isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return
    rate = Scaled(rate.schedule if isinstance(rate, Scaled) else rate, factor)
    if legacy:
        optimizer._set_hyper("learning_rate", rate)
    else:
        optimizer._learning_rate = rate


def plain_rate(optimizer: Any) -> tf.Variable | None:
    """The variable of an optimizer that was given a number; None for one with a schedule."""
    rate = getattr(optimizer, "_learning_rate", None)
    if isinstance(optimizer, keras.optimizers.legacy.Optimizer):
        rate = optimizer._hyper.get("learning_rate")
    return None if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule) else rate


def cosine(done: tf.Tensor) -> tf.Tensor:
    return 0.5 * (1 + tf.cos(math.pi * done))


def peak(config: OptimizerConfig, global_batch_size: int) -> float:
    """The peak learning rate for this global batch.

    `linear` keeps the rate per image (Goyal et al. 2017), `sqrt` the variance of an update (Krizhevsky 2014).
    """
    ratio = global_batch_size / config.reference_batch
    factors = {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}
    return config.learning_rate * factors[config.scaling]
