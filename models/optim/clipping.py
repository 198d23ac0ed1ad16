"""Gradient clipping: by value, by global norm, and adaptively for each unit.

clip = Clipping(norm=1.0)
gradients = clip(gradients, norm=tf.linalg.global_norm(gradients), model=model)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import tensorflow as tf
import tf_keras as keras

MIN_UNIT_NORM = 1e-3  # least weight norm in adaptive clipping: a unit that starts at zero must be able to grow


@dataclasses.dataclass(frozen=True)
class Clipping:
    """Clips gradients by several limits, in the order of the attributes; 0 turns a limit off.

    Attributes:
      adaptive: largest ratio of a unit's gradient norm to its weight norm.
      value: largest absolute value of a component.
      norm: largest global norm.
    """

    adaptive: float = 0.0
    value: float = 0.0
    norm: float = 0.0

    def __call__(self, gradients: Sequence[tf.Tensor], norm: tf.Tensor, model: keras.Model) -> list[tf.Tensor]:
        """Returns the clipped gradients of `model`'s trainable variables; `norm` is the global norm of `gradients`."""
        gradients = list(gradients)
        if self.adaptive:
            exempt = last_layer_weight_names(model)
            gradients = clip_adaptively(gradients, model.trainable_variables, self.adaptive, exempt)
        if self.value:
            gradients = clip_by_value(gradients, self.value)
        if self.norm:
            changed = self.adaptive or self.value
            gradients = clip_by_norm(gradients, tf.linalg.global_norm(gradients) if changed else norm, self.norm)
        return gradients


def clip_by_value(gradients: Sequence[tf.Tensor], max_value: float) -> list[tf.Tensor]:
    """Clips every component to [-max_value, max_value]."""
    return [tf.clip_by_value(gradient, -max_value, max_value) for gradient in gradients]


def clip_by_norm(gradients: Sequence[tf.Tensor], norm: tf.Tensor, max_norm: float) -> list[tf.Tensor]:
    """Scales all gradients by one factor so that their global norm `norm` becomes at most `max_norm`.

    Source: Pascanu et al. 2013.
    """
    return tf.clip_by_global_norm(gradients, max_norm, use_norm=norm)[0]


def clip_adaptively(
    gradients: Sequence[tf.Tensor], variables: Sequence[tf.Variable], max_ratio: float, exempt: Collection[str] = ()
) -> list[tf.Tensor]:
    """Scales each unit's gradient to at most `max_ratio` times the norm of its weights (Brock et al. 2021, equation 3).

    A unit is the weights of one output: a slice of a kernel, or a whole bias. The variables named in `exempt` are not
    clipped.
    """

    def clip(gradient: tf.Tensor, variable: tf.Variable) -> tf.Tensor:
        if variable.name in exempt:
            return gradient
        weight_norms = unit_norms(tf.convert_to_tensor(variable), variable.name)
        max_norms = max_ratio * tf.maximum(weight_norms, MIN_UNIT_NORM)
        norms = unit_norms(gradient, variable.name)
        return tf.where(norms > max_norms, gradient * (max_norms / tf.maximum(norms, 1e-6)), gradient)

    return [clip(gradient, variable) for gradient, variable in zip(gradients, variables, strict=True)]


def unit_norms(x: tf.Tensor, name: str) -> tf.Tensor:
    """The Euclidean norm of each unit of the weight `x` called `name`, in a shape that broadcasts against `x`."""
    rank = len(x.shape)
    if rank < 2:
        return tf.sqrt(tf.reduce_sum(x * x))
    # A depthwise kernel is [height, width, channels, multiplier]; its units are the pairs of channel and multiplier.
    is_depthwise = "depthwise_kernel" in name
    input_axes = list(range(rank - 2 if is_depthwise else rank - 1))
    return tf.sqrt(tf.reduce_sum(x * x, axis=input_axes, keepdims=True))


def last_layer_weight_names(model: keras.Model) -> set[str]:
    """Names of the weights of the last layer with trainable weights: the classifier, which Brock et al. do not clip."""
    for layer in reversed(list(model._flatten_layers(recursive=True, include_self=False))):
        if layer.trainable_weights and not isinstance(layer, keras.Model):
            return {variable.name for variable in layer.trainable_weights}
    return set()
