"""Evaluation of a StableModel: one step on one replica, and many steps in one compiled call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.networks.autograph import call_with_autograph
from evenkeel.models.optim.averaging import make_batch_norm_update
from evenkeel.models.telemetry.metrics import Calibration, ConfusionMatrix
from evenkeel.models.telemetry.scores import compute_scores
from evenkeel.models.training.training_step import top1_correct


class EvaluationMetrics(NamedTuple):
    """Sums over the examples of an evaluation, each weighted by its sample weight."""

    loss: keras.metrics.Mean
    accuracy: keras.metrics.Mean
    top_5: keras.metrics.Mean
    confusion: ConfusionMatrix
    calibration: Calibration


class EvaluationStep:
    """The evaluation step of `model`; create it in the strategy's scope.

    Attributes:
      metrics: the metrics that the step updates; the model must own them, so that Keras resets them before each
        evaluation.
    """

    def __init__(self, model: keras.Model, loss: keras.losses.Loss, flipped: bool) -> None:
        """With `flipped`, the step averages the logits of each image and its mirror image."""
        self._model, self._loss, self._flipped = model, loss, flipped
        self._update_batch_norm: Callable[[Any, int], None] | None = None
        self.metrics = EvaluationMetrics(
            keras.metrics.Mean("loss"),
            keras.metrics.Mean("accuracy"),
            keras.metrics.Mean("top_5"),
            ConfusionMatrix(model.output_shape[-1]),
            Calibration(),
        )

    def __call__(self, data: Any) -> None:
        """Adds a batch of (images, labels) or (images, labels, sample weights) to the metrics.

        Examples that pad the last batch have weight 0.
        """
        model = self._model
        images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        if weights is None:
            weights = tf.ones_like(labels, tf.float32)
        logits = self.logits(images)
        self.metrics.loss.update_state(self.losses(labels, logits), weights)
        self.metrics.accuracy.update_state(top1_correct(labels, logits), weights)
        self.metrics.top_5.update_state(tf.math.in_top_k(labels, logits, 5), weights)
        self.metrics.confusion.update_state(labels, logits, weights)
        self.metrics.calibration.update_state(labels, logits, weights)
        if model.has_user_metrics:
            model.compiled_metrics.update_state(labels, logits, weights)

    def losses(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Computes the loss of each example, float32 [b]."""
        return self._loss.call(labels, logits)

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        """Computes the logits, float32 [b, classes], of uint8 `images` [b, h, w, c] in inference mode."""
        logits = call_with_autograph(self._model, images, training=False)
        if not self._flipped:
            return logits
        return (logits + call_with_autograph(self._model, images[:, :, ::-1], training=False)) / 2

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """A context manager that gives the model its averaged weights inside the `with` block.

        It changes nothing if averaging is off or no average exists.
        """
        model = self._model
        averages = model.averages
        if averages is None or not averages.is_ready(model.trained_steps):
            yield
            return
        with averages.swap_in():
            if averages.rule.recompute_statistics and model.statistics_batches:
                if self._update_batch_norm is None:
                    self._update_batch_norm = make_batch_norm_update(model)
                self._update_batch_norm(*model.statistics_batches)
            yield

    def read_scores(self) -> tuple[np.ndarray, dict[str, float]]:
        """Returns (confusion matrix, {score: value}) of the last evaluation.

        In a cluster every worker must call this: reading a metric is a collective operation.
        """
        matrix = self.metrics.confusion.result().numpy()
        top_5 = float(self.metrics.top_5.result()) if len(matrix) > 5 else None
        return matrix, compute_scores(matrix, self.metrics.calibration.result().numpy(), top_5)


def build_test_function(model: keras.Model) -> Callable[[Any], dict[str, tf.Tensor]]:
    """Builds a compiled function: iterator over batches -> {metric: value so far}.

    A call runs `steps_per_execution` steps. Unlike Keras's own function, this one reads the metrics once after all
    steps, and runs AutoGraph on layers only.
    """
    step = model.evaluation_step

    @tf.function(reduce_retracing=True, autograph=False)
    def test_function(iterator: Any) -> dict[str, tf.Tensor]:
        count = tf.cast(model._steps_per_execution, tf.int32)

        def run_step(i: tf.Tensor) -> tf.Tensor:
            model.distribute_strategy.run(step, args=(next(iterator),))
            return i + 1

        tf.while_loop(lambda i: i < count, run_step, [0])
        model._test_counter.assign_add(tf.cast(count, tf.int64))
        means = {"loss": step.metrics.loss.result(), "accuracy": step.metrics.accuracy.result()}
        return {**{metric.name: metric.result() for metric in model.compiled_metrics.metrics}, **means}

    return test_function
