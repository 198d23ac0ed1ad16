"""Calls a network with AutoGraph from code that is traced without AutoGraph.

    logits = call_with_autograph(model, images, training=True)

AutoGraph turns Python's `if` and `for` over tensors into graph operations. Only layers of a user's own network may need
AutoGraph; converting the rest of the training step as well takes 2 CPU seconds in every training process.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras as keras


def call_with_autograph(network: keras.Model, inputs: tf.Tensor, training: bool) -> Any:
    """Returns `network(inputs, training=training)`."""
    return _converted_call()(network, inputs, training)


def _call(network: keras.Model, inputs: tf.Tensor, training: bool) -> Any:
    return network(inputs, training=training)


@functools.cache
def _converted_call() -> Callable[..., Any]:
    return tf.autograph.to_graph(_call)
