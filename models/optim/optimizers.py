"""Optimizers by name.

optimizer = create(OptimizerConfig(name="adamw"), Schedule(...), model.trainable_variables)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import OptimizerConfig
from evenkeel.models.optim.addons import require_addons


def create(
    config: OptimizerConfig, rate: keras.optimizers.schedules.LearningRateSchedule, variables: Sequence[tf.Variable]
) -> keras.optimizers.Optimizer | keras.optimizers.legacy.Optimizer:
    """The optimizer of `variables` with learning rate `rate`.

    Weight decay is decoupled and times the learning rate, whatever the optimizer; lamb's enters its trust ratio too.

    Raises:
      UsageError: it comes from tensorflow-addons, and that is not to be had here.
    """
    moments = {"beta_1": config.beta_1, "beta_2": config.beta_2, "epsilon": config.epsilon}
    if config.name == "lamb":
        # By name: addons matches expressions against the names of each replica's copy.
        spared = [
            rf"^{variable.name.split(':')[0]}(/replica_\d+)?(:0)?$" for variable in variables if not decays(variable)
        ]
        return require_addons("optimizer.name=lamb").optimizers.LAMB(
            rate, weight_decay=config.weight_decay, exclude_from_weight_decay=spared, **moments
        )
    if config.name in ("radam", "lookahead", "novograd"):
        addons = require_addons(f"optimizer.name={config.name}").optimizers
        base = addons.NovoGrad if config.name == "novograd" else addons.RectifiedAdam
        optimizer = decaying(base, config.weight_decay)(rate, **moments)
        return addons.Lookahead(optimizer) if config.name == "lookahead" else optimizer
    # The update stays outside XLA: with it, distribution strategies of several replicas fail.
    common = {"learning_rate": rate, "weight_decay": config.weight_decay or None, "jit_compile": False}
    makers = {
        "sgd": lambda: keras.optimizers.SGD(momentum=config.momentum, nesterov=config.nesterov, **common),
        "adam": lambda: keras.optimizers.Adam(**moments, **common),
        "rmsprop": lambda: keras.optimizers.RMSprop(
            rho=config.beta_2, momentum=config.momentum, epsilon=config.epsilon, **common
        ),
    }
    optimizer = makers[config.name.removesuffix("w")]()  # sgdw and adamw: Keras's own decay is decoupled
    if config.weight_decay:
        optimizer.exclude_from_weight_decay([variable for variable in variables if not decays(variable)])
    return optimizer


def second_moments(optimizer: Any, variables: Sequence[tf.Variable]) -> list[tf.Tensor]:
    """What the optimizer divides squared gradients by, its start corrected; empty where it keeps no such thing."""
    if isinstance(optimizer, keras.optimizers.legacy.Optimizer):
        if "v" not in optimizer.get_slot_names():
            return []
        moments = [tf.convert_to_tensor(optimizer.get_slot(variable, "v")) for variable in variables]
        decay = optimizer._get_hyper("beta_2", tf.float32)
    elif hasattr(optimizer, "_velocities"):
        moments = [tf.convert_to_tensor(moment) for moment in optimizer._velocities]
        decay = getattr(optimizer, "beta_2", None)
    else:
        return []
    if decay is None:  # RMSprop corrects nothing
        return moments
    known = 1 - tf.pow(tf.cast(decay, tf.float32), tf.cast(optimizer.iterations, tf.float32))
    return [moment / known for moment in moments]


def decays(variable: tf.Variable) -> bool:
    """Whether weight decay is for it: biases, normalization scales and offsets it only harms (He et al. 2019)."""
    return len(variable.shape) >= 2


def decaying(base: Any, weight_decay: float) -> type:
    """`base`, an optimizer of tensorflow-addons, with decoupled weight decay times the learning rate.

    Its own extension decays nothing on several replicas, and everything inside of Lookahead.
    """

    class Decaying(base):
        @functools.wraps(base._resource_apply_dense)
        def _resource_apply_dense(self, grad, var, apply_state=None):
            if not weight_decay or not decays(var):
                return super()._resource_apply_dense(grad, var, apply_state)
            with tf.control_dependencies([var.assign_sub(self._decayed_lr(var.dtype.base_dtype) * weight_decay * var)]):
                return super()._resource_apply_dense(grad, var, apply_state)

    Decaying.__name__ = base.__name__
    return Decaying
