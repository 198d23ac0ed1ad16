"""Creates the optimizer that `optimizer.name` asks for.

optimizer = create_optimizer(OptimizerConfig(name="adamw"), Schedule(...), model.trainable_variables)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import OptimizerConfig
from evenkeel.models.optim.addons import require_addons


def create_optimizer(
    config: OptimizerConfig, rate: keras.optimizers.schedules.LearningRateSchedule, variables: Sequence[tf.Variable]
) -> keras.optimizers.Optimizer | keras.optimizers.legacy.Optimizer:
    """Creates the optimizer for `variables` with the learning rate `rate`.

    In every optimizer weight decay is decoupled and multiplied by the learning rate; in lamb it is also part of the
    trust ratio.

    Raises:
      UsageError: the optimizer comes from tensorflow-addons, which cannot be imported here.
    """
    moments = {"beta_1": config.beta_1, "beta_2": config.beta_2, "epsilon": config.epsilon}
    if config.name == "lamb":
        # Variables are exempted by name, because addons matches regular expressions against names of replicas' copies.
        exempt = [
            rf"^{variable.name.split(':')[0]}(/replica_\d+)?(:0)?$"
            for variable in variables
            if not uses_weight_decay(variable)
        ]
        return require_addons("optimizer.name=lamb").optimizers.LAMB(
            rate, weight_decay=config.weight_decay, exclude_from_weight_decay=exempt, **moments
        )
    if config.name in ("radam", "lookahead", "novograd"):
        addons = require_addons(f"optimizer.name={config.name}").optimizers
        base = addons.NovoGrad if config.name == "novograd" else addons.RectifiedAdam
        optimizer = add_decoupled_decay(base, config.weight_decay)(rate, **moments)
        return addons.Lookahead(optimizer) if config.name == "lookahead" else optimizer
    # The update stays outside XLA: compiled with XLA, it fails in strategies with several replicas.
    common = {"learning_rate": rate, "weight_decay": config.weight_decay or None, "jit_compile": False}
    constructors = {
        "sgd": lambda: keras.optimizers.SGD(momentum=config.momentum, nesterov=config.nesterov, **common),
        "adam": lambda: keras.optimizers.Adam(**moments, **common),
        "nadam": lambda: keras.optimizers.Nadam(**moments, **common),
        "adagrad": lambda: keras.optimizers.Adagrad(epsilon=config.epsilon, **common),
        "adadelta": lambda: keras.optimizers.Adadelta(rho=config.beta_2, epsilon=config.epsilon, **common),
        "rmsprop": lambda: keras.optimizers.RMSprop(
            rho=config.beta_2, momentum=config.momentum, epsilon=config.epsilon, **common
        ),
    }
    optimizer = constructors[config.name.removesuffix("w")]()  # sgdw and adamw: Keras's own decay is decoupled
    if config.weight_decay:
        optimizer.exclude_from_weight_decay([variable for variable in variables if not uses_weight_decay(variable)])
    return optimizer


def second_moments(optimizer: Any, variables: Sequence[tf.Variable]) -> list[tf.Tensor]:
    """The optimizer's running means of squared gradients (adagrad: sums), bias-corrected where the optimizer does it.

    One tensor for each of `variables`; an empty list if the optimizer keeps none.
    """
    if isinstance(optimizer, keras.optimizers.legacy.Optimizer):
        if "v" not in optimizer.get_slot_names():
            return []
        moments = [tf.convert_to_tensor(optimizer.get_slot(variable, "v")) for variable in variables]
        decay = optimizer._get_hyper("beta_2", tf.float32)
    elif names := [name for name in ("_velocities", "_accumulated_grads", "_accumulators") if hasattr(optimizer, name)]:
        moments = [tf.convert_to_tensor(moment) for moment in getattr(optimizer, names[0])]
        decay = getattr(optimizer, "beta_2", None)
    else:
        return []
    if decay is None:  # RMSprop, Adagrad and Adadelta have no bias correction
        return moments
    correction = 1 - tf.pow(tf.cast(decay, tf.float32), tf.cast(optimizer.iterations, tf.float32))
    return [moment / correction for moment in moments]


def uses_weight_decay(variable: tf.Variable) -> bool:
    """Whether weight decay applies to `variable`: to kernels, not to biases and normalization (He et al. 2019)."""
    return len(variable.shape) >= 2


def add_decoupled_decay(base: Any, weight_decay: float) -> type:
    """Returns a subclass of `base`, an optimizer of tensorflow-addons, with decoupled weight decay.

    The decay is multiplied by the learning rate. The extension in tensorflow-addons itself is wrong: it decays no
    weight on several replicas, and all weights inside Lookahead.
    """

    class WithDecay(base):
        @functools.wraps(base._resource_apply_dense)
        def _resource_apply_dense(self, grad, var, apply_state=None):
            if not weight_decay or not uses_weight_decay(var):
                return super()._resource_apply_dense(grad, var, apply_state)
            with tf.control_dependencies([var.assign_sub(self._decayed_lr(var.dtype.base_dtype) * weight_decay * var)]):
                return super()._resource_apply_dense(grad, var, apply_state)

    WithDecay.__name__ = base.__name__
    return WithDecay
