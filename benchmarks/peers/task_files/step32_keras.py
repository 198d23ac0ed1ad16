"""Runs step32 with Keras 3 on TensorFlow: mixed precision, channels last, with or without XLA, whichever is faster.

The loop over the steps is compiled together with the step, so no Python runs between steps. No metrics are computed.
"""

from __future__ import annotations

import math
import os
import random
import time

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import step_precision
import tensorflow as tf
from keras import layers

BATCH = 128


def conv(x, channels: int):
    x = layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def network(width: int = 32) -> keras.Model:
    """Builds four convolutions and two poolings: images uint8 [b, 32, 32, 3] -> logits [b, 10]."""
    inputs = layers.Input((32, 32, 3), batch_size=BATCH, dtype="uint8")
    x = layers.Rescaling(1 / 73.9, -127.5 / 73.9)(inputs)
    x = layers.MaxPooling2D()(conv(conv(x, width), 2 * width))
    x = layers.MaxPooling2D()(conv(x, 4 * width))
    x = layers.GlobalAveragePooling2D()(conv(x, 8 * width))
    return keras.Model(inputs, layers.Dense(10, dtype="float32")(x))


def parameters() -> int:
    return sum(math.prod(variable.shape) for variable in network().trainable_variables)


def prepare(threads: int):
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    keras.mixed_precision.set_global_policy(step_precision.name_keras_policy())
    images = tf.io.decode_raw(random.Random(0).randbytes(BATCH * 32 * 32 * 3), tf.uint8)
    images, labels = tf.reshape(images, [BATCH, 32, 32, 3]), tf.range(BATCH) % 10

    def compile_steps(xla: bool):
        model = network()
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)
        optimizer.build(model.trainable_variables)

        def step() -> tf.Tensor:
            with tf.GradientTape() as tape:
                logits = model(images, training=True)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
                loss = tf.reduce_mean(losses)
            optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
            return loss

        step = tf.function(step, jit_compile=xla)

        @tf.function
        def steps(count: tf.Tensor) -> tf.Tensor:
            loss = 0.0
            for _ in tf.range(count):
                loss = step()
            return loss

        return steps

    kinds = {"without XLA": compile_steps(False), "with XLA": compile_steps(True)}
    cpu = cpu_seconds_per_step(kinds)
    fastest = min(cpu, key=cpu.__getitem__)
    steps = kinds[fastest]

    def run(count: int) -> dict[str, float]:
        return {"loss": check_finite(float(steps(tf.constant(count))))}

    measured = ", ".join(f"{kind} {seconds / BATCH * 1e3:.2f} ms" for kind, seconds in cpu.items())
    return {
        "same": {"trainable parameters": parameters(), "images a step": BATCH},
        "images_per_step": BATCH,
        "about": f"keras {keras.__version__}, tensorflow {tf.__version__}, {fastest} (CPU per image: {measured}),"
        f" {step_precision.name_precision()}, {threads} threads",
    }, run


def cpu_seconds_per_step(kinds) -> dict[str, float]:
    """Returns the minimum over 8 alternating steps of each kind, after a warm-up; the minimum excludes disturbances."""
    for steps in kinds.values():
        steps(tf.constant(4))
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(8):
        for kind, steps in kinds.items():
            start = time.process_time()
            float(steps(tf.constant(1)))
            times[kind].append(time.process_time() - start)
    return {kind: min(seconds) for kind, seconds in times.items()}


def check_finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise ValueError(f"the loss is {loss}")
    return loss
