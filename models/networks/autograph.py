"""A network called with AutoGraph on, from compiled code that is traced without it.

    logits = called(model, images, training=True)

AutoGraph makes graphs of Python's `if` and `for` over tensors. In the training step nothing has these but, maybe,
layers of a user's own; to translate the rest as well takes 2 CPU seconds of every process that trains.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras as keras


def called(network: keras.Model, inputs: tf.Tensor, training: bool) -> Any:
    """`network(inputs, training=training)`"""
    return _translated()(network, inputs, training)


def _call(network: keras.Model, inputs: tf.Tensor, training: bool) -> Any:
    return network(inputs, training=training)


@functools.cache
def _translated() -> Callable[..., Any]:
    return tf.autograph.to_graph(_call)
