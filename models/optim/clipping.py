"""Gradient clipping: by value, by global norm, unit by unit.

clip = Clipping(norm=1.0)
gradients = clip(gradients, norm=tf.linalg.global_norm(gradients), model=model)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import tensorflow as tf
import tf_keras as keras

EPSILON = 1e-3  # the least norm a unit counts for: one that starts at zero must be able to leave it


@dataclasses.dataclass(frozen=True)
class Clipping:
    """Which limits hold, in the order they are applied; 0 is none."""

    adaptive: float = 0.0
    value: float = 0.0
    norm: float = 0.0

    def __call__(self, gradients: Sequence[tf.Tensor], norm: tf.Tensor, model: keras.Model) -> list[tf.Tensor]:
        """Clipped gradients of `model`'s trainable variables, whose global norm is `norm`."""
        gradients = list(gradients)
        if self.adaptive:
            gradients = adaptive(gradients, model.trainable_variables, self.adaptive, exempt=last_layer(model))
        if self.value:
            gradients = by_value(gradients, self.value)
        if self.norm:
            changed = self.adaptive or self.value
            gradients = by_norm(gradients, tf.linalg.global_norm(gradients) if changed else norm, self.norm)
        return gradients


def by_value(gradients: Sequence[tf.Tensor], largest: float) -> list[tf.Tensor]:
    """Every component within +-`largest`."""
    return [tf.clip_by_value(gradient, -largest, largest) for gradient in gradients]


def by_norm(gradients: Sequence[tf.Tensor], norm: tf.Tensor, largest: float) -> list[tf.Tensor]:
    """All scaled alike, so that their global norm, `norm` before, is at most `largest` (Pascanu et al. 2013)."""
    return tf.clip_by_global_norm(gradients, largest, use_norm=norm)[0]


def adaptive(
    gradients: Sequence[tf.Tensor], variables: Sequence[tf.Variable], largest: float, exempt: Collection[str] = ()
) -> list[tf.Tensor]:
    """Each unit's gradient at most `largest` times as long as its weights (Brock et al. 2021, equation 3).

    A unit is what leads to one output: a kernel's slice, all of a bias. Variables named in `exempt` stay as they are.
    """

    def clipped(gradient: tf.Tensor, variable: tf.Variable) -> tf.Tensor:
        if variable.name in exempt:
            return gradient
        most = largest * tf.maximum(unit_norms(tf.convert_to_tensor(variable), variable.name), EPSILON)
        norms = unit_norms(gradient, variable.name)
        return tf.where(norms > most, gradient * (most / tf.maximum(norms, 1e-6)), gradient)

    return [clipped(gradient, variable) for gradient, variable in zip(gradients, variables, strict=True)]


def unit_norms(x: tf.Tensor, name: str) -> tf.Tensor:
    """Euclidean norms of the units of a weight called `name`, in a shape that broadcasts against it."""
    rank = len(x.shape)
    if rank < 2:
        return tf.sqrt(tf.reduce_sum(x * x))
    depthwise = "depthwise_kernel" in name  # [height, width, channels, multiplier]: a unit is a channel and multiplier
    inputs = list(range(rank - 2 if depthwise else rank - 1))
    return tf.sqrt(tf.reduce_sum(x * x, axis=inputs, keepdims=True))


def last_layer(model: keras.Model) -> set[str]:
    """Names of the weights of the last layer that has any: the classifier, which Brock et al. leave alone."""
    for layer in reversed(list(model._flatten_layers(recursive=True, include_self=False))):
        if layer.trainable_weights and not isinstance(layer, keras.Model):
            return {variable.name for variable in layer.trainable_weights}
    return set()
