"""Optimizers and schedules by name.

optimizer = create(OptimizerConfig(name="adam"), steps_per_epoch=78, epochs=10, exempt=biases_and_norms(model))
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf
import tf_keras as keras

from models.config import OptimizerConfig
from pipeline.config import UsageError


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from 0 to the peak, then one of

    constant    peak
    cosine      peak (1 + cos(pi p)) / 2     Loshchilov and Hutter 2017, without restarts
    one_cycle   peak (1 - p)                 Smith and Topin 2018, the learning rate's part of it

    with p the share of the steps behind the warm-up that are done.
    """

    def __init__(self, shape: str, peak: float, warmup_steps: int, total_steps: int) -> None:
        self.shape, self.peak, self.warmup_steps, self.total_steps = shape, peak, warmup_steps, total_steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        done = tf.clip_by_value(done, 0.0, 1.0)
        shapes = {
            "constant": lambda: tf.ones_like(done),
            "cosine": lambda: 0.5 * (1 + tf.cos(math.pi * done)),
            "one_cycle": lambda: 1 - done,
        }
        # (step + 1): the first update already moves.
        warm = tf.minimum(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.peak * tf.where(step < self.warmup_steps, warm, shapes[self.shape]())

    def get_config(self) -> dict:
        return {
            "shape": self.shape,
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
        }


def schedule(config: OptimizerConfig, steps_per_epoch: int, epochs: int) -> Schedule:
    """The schedule over a run of `epochs`.

    Raises:
      UsageError: the warm-up is as long as the run.
    """
    warmup, total = round(config.warmup_epochs * steps_per_epoch), steps_per_epoch * epochs
    if warmup >= total:
        raise UsageError(
            f"optimizer.warmup_epochs ({config.warmup_epochs}) must be shorter than the run ({epochs} epochs)."
        )
    return Schedule(config.schedule, config.learning_rate, warmup, total)


def create(
    config: OptimizerConfig, steps_per_epoch: int, epochs: int, exempt: Sequence[tf.Variable] = ()
) -> keras.optimizers.Optimizer:
    """The optimizer with its schedule; weight decay leaves `exempt` alone."""
    common = {
        "learning_rate": schedule(config, steps_per_epoch, epochs),
        "weight_decay": config.weight_decay or None,
        # The update stays outside XLA: with it, distribution strategies of several replicas fail.
        "jit_compile": False,
    }
    makers = {
        "sgd": lambda: keras.optimizers.SGD(momentum=config.momentum, nesterov=config.nesterov, **common),
        "adam": lambda: keras.optimizers.Adam(
            beta_1=config.beta_1, beta_2=config.beta_2, epsilon=config.epsilon, **common
        ),
        "rmsprop": lambda: keras.optimizers.RMSprop(
            rho=config.beta_2, momentum=config.momentum, epsilon=config.epsilon, **common
        ),
    }
    optimizer = makers[config.name]()
    if config.weight_decay:
        optimizer.exclude_from_weight_decay(list(exempt))
    return optimizer


def biases_and_norms(model: keras.Model) -> list[tf.Variable]:
    """The trainable vectors: biases and normalization scales and offsets, which decay only harms (He et al. 2019)."""
    return [variable for variable in model.trainable_variables if len(variable.shape) < 2]
