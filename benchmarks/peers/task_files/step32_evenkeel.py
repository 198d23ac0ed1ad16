"""Runs step32 with evenkeel: a StableModel compiled as in `evenkeel train` on a CPU, with telemetry, no histograms."""

from __future__ import annotations

import math
import random

import step_precision
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.networks.blocks import ConvNormAct
from evenkeel.models.optim.losses import Crossentropy
from evenkeel.models.training.stable_model import StableModel

layers = keras.layers
BATCH = 128


def network(width: int = 32) -> StableModel:
    """Builds four convolutions and two poolings: images uint8 [b, 32, 32, 3] -> logits [b, 10]."""
    conv = ConvNormAct()
    inputs = x = layers.Input((32, 32, 3))
    x = layers.MaxPool2D()(conv(conv(x, width), 2 * width))
    x = layers.MaxPool2D()(conv(x, 4 * width))
    x = layers.GlobalAveragePooling2D()(conv(x, 8 * width))
    return StableModel.wrap(keras.Model(inputs, layers.Dense(10)(x)), mean=[127.5] * 3, std=[73.9] * 3)


def parameters() -> int:
    return sum(math.prod(variable.shape) for variable in network().trainable_variables)


def prepare(threads: int):
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    keras.mixed_precision.set_global_policy(step_precision.name_keras_policy())
    images = tf.io.decode_raw(random.Random(0).randbytes(BATCH * 32 * 32 * 3), tf.uint8)
    images, labels = tf.reshape(images, [BATCH, 32, 32, 3]), tf.range(BATCH) % 10
    batches = iter(tf.data.Dataset.from_tensors((images, labels)).repeat())

    model = network()
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True, jit_compile=False)
    model.compile(optimizer, Crossentropy(), steps_per_execution=10)
    steps = model.make_train_function()

    def run(count: int) -> dict[str, float]:
        model._steps_per_execution.assign(count)
        steps(batches)
        loss = float(model.rows[-1, 0])
        if not math.isfinite(loss):
            raise ValueError(f"the loss is {loss}")
        return {"loss": loss}

    run(4)
    return {
        "same": {"trainable parameters": parameters(), "images a step": BATCH},
        "images_per_step": BATCH,
        "about": f"tensorflow {tf.__version__}, tf_keras {keras.__version__}, {step_precision.name_precision()},"
        f" {threads} threads",
    }, run
