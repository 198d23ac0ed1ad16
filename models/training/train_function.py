"""Many training steps in one compiled call, and the epoch's mean loss and accuracy."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras as keras

from evenkeel.models.telemetry import step_row


def build_train_function(model: keras.Model, histograms_every: int) -> Callable[[Any], dict[str, tf.Tensor]]:
    """Builds a compiled function: iterator over batches -> {metric: mean over the epoch so far}.

    A call runs `steps_per_execution` steps of the model, plus the steps that a rollback undid, and stores a row for
    each step in `model.telemetry`.
    """
    strategy, telemetry = model.distribute_strategy, model.telemetry
    local = lambda value: strategy.experimental_local_results(value)  # noqa: E731
    clock = graph_clock()

    # AutoGraph runs on layers only, see `call_with_autograph`.
    @tf.function(reduce_retracing=True, autograph=False)
    def train_function(iterator: Any) -> dict[str, tf.Tensor]:
        # The variable is read, and not made a constant, because the last call of an epoch may be shorter.
        count = tf.cast(model._steps_per_execution + model.steps_to_make_up, tf.int32)
        model.steps_to_make_up.assign(0)
        rows = tf.TensorArray(tf.float32, size=count, element_shape=[len(step_row.COLUMNS)])
        layer_rows = tf.TensorArray(tf.float32, size=count, element_shape=telemetry.layer_row_shape)

        def run_step(i: tf.Tensor, rows: tf.TensorArray, layer_rows: tf.TensorArray):
            requested = clock()
            with tf.control_dependencies([requested]):
                images, labels = next(iterator)
            with tf.control_dependencies([*local(images), *local(labels)]):
                input_wait = tf.cast(clock() - requested, tf.float32)
            record = strategy.run(model.training_step, args=(images, labels))
            rows = rows.write(i, tf.concat([local(record.row)[0], [input_wait]], axis=0))
            layer_rows = layer_rows.write(i, local(record.layer_row)[0])
            if histograms_every:
                store = functools.partial(
                    telemetry.store_histograms, model.data_step, local(record.edges)[0], local(record.counts)[0]
                )
                tf.cond(model.data_step % histograms_every == 0, store, lambda: False)
            model.data_step.assign_add(1)
            return i + 1, rows, layer_rows

        _, rows, layer_rows = tf.while_loop(lambda i, *_: i < count, run_step, (0, rows, layer_rows))
        stored = telemetry.store_rows(rows, layer_rows)
        sums = tf.reduce_sum(stored[:, :2], axis=0)
        epoch = model.epoch_sums.assign_add(tf.concat([sums, [tf.cast(count, tf.float32)]], axis=0))
        model._train_counter.assign_add(tf.cast(count, tf.int64))
        means = {"loss": epoch[0] / epoch[2], "accuracy": epoch[1] / epoch[2]}
        return {**{metric.name: metric.result() for metric in model.compiled_metrics.metrics}, **means}

    return train_function


def graph_clock() -> Callable[[], tf.Tensor]:
    """Returns a function that reads the time in seconds, float64 [], as an operation of the graph."""
    try:
        tf.timestamp()
    except tf.errors.FailedPreconditionError:  # op determinism forbids TensorFlow's own clock
        return lambda: tf.numpy_function(time.perf_counter, [], tf.float64)
    return tf.timestamp
