"""One training step of a StableModel on one replica: gradients, their reduction, the update.

    step = TrainingStep(model, loss, options, observer, scales_loss=False)
    record = strategy.run(step, args=(images, labels))

Before gradients are computed, the loss is divided by the number of replicas (and of parts of a batch). So the sum of
the gradients over the replicas is the gradient of the mean loss over the global batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.distribute.strategy import sum_over_replicas
from evenkeel.models.networks.autograph import call_with_autograph
from evenkeel.models.optim.clipping import clip_by_norm
from evenkeel.models.optim.losses import one_hot_targets
from evenkeel.models.optim.mixing import mix_batch
from evenkeel.models.telemetry import step_row
from evenkeel.models.training.observation import StepObserver
from evenkeel.models.training.step_options import OUTLIER_NORM_FACTOR, StepOptions

MIXING_STREAM = -1  # second half of the random key of mixing; Dropout layers use 0, 1, 2, ...


class StepRecord(NamedTuple):
    """The results of one step on one replica.

    Attributes:
      row: float32 [len(COLUMNS) - 1], see `step_row`; without the input wait.
      layer_row: layer statistics, float32 [size]; NaN if they are not due in this step.
      edges: float32 [2 * variables, 2], see `histograms`; zeros if histograms are not due in this step.
      counts: int32 [2 * variables, BINS + 1], see `histograms`; zeros if histograms are not due in this step.
    """

    row: tf.Tensor
    layer_row: tf.Tensor
    edges: tf.Tensor
    counts: tf.Tensor


class DropoutStep:
    """The number that keys dropout masks: different for every step and every part of a batch.

    Attributes:
      part: number of the part of the batch being trained, from 0.
      parts: number of parts of each batch.
    """

    def __init__(self, data_step: tf.Variable) -> None:
        self._data_step = data_step
        self.part: tf.Tensor | int = 0
        self.parts = 1

    def __call__(self) -> tf.Tensor:
        """Returns the number, int64 []."""
        return self._data_step.read_value() * self.parts + tf.cast(self.part, tf.int64)


class TrainingStep:
    """The training step of `model`; call it on every replica with its images and labels.

    Attributes:
      forward_backward: computes loss, accuracy, logits and gradients of one part of a batch; callers may wrap it.
    """

    def __init__(
        self,
        model: keras.Model,
        loss: keras.losses.Loss,
        options: StepOptions,
        observer: StepObserver,
        scales_loss: bool,
    ) -> None:
        """`scales_loss` says whether the optimizer's loss scale may differ from 1."""
        self._model, self._loss, self._options, self._observer = model, loss, options, observer
        self._scales_loss = scales_loss
        self._parts = options.accumulate
        self._class_weights = None if options.class_weights is None else list(options.class_weights)
        mixing = options.mixing
        self._mixing = mixing if mixing and (mixing.mixup or mixing.cutmix) else None
        self.forward_backward = (
            tf.function(self._forward_backward, jit_compile=True, autograph=False)
            if options.xla
            else self._forward_backward
        )

    def __call__(self, images: tf.Tensor, labels: tf.Tensor) -> StepRecord:
        """Trains on uint8 `images` [b, h, w, c] and integer `labels` [b]; the update is the same on all replicas."""
        model, optimizer = self._model, self._model.optimizer
        replicas = model.distribute_strategy.num_replicas_in_sync
        statistics = moving_statistics(model)
        old_statistics = [tf.identity(variable) for variable in statistics]
        loss_scale, learning_rate = tf.identity(optimizer.loss_scale), next_learning_rate(optimizer)
        images, labels = self.mix(images, labels)
        variables_before = self._observer.copy_variables_if_due()
        loss, accuracy, penalty, logits, gradients = self.accumulate(images, labels)
        # Without loss scaling nothing is divided. Keras warns if this method is not called, so it gets an empty list.
        unscaled = optimizer.get_unscaled_gradients(gradients if self._scales_loss else [])
        replica_gradients = gradients = unscaled or gradients
        # Statistics become their mean over the replicas: a checkpoint stores one value, but in evaluation each replica
        # reads its own.
        means = [variable / replicas for variable in statistics]
        loss, accuracy, penalty, *reduced = sum_over_replicas([loss, accuracy, penalty, *means, *gradients])
        means, gradients = reduced[: len(means)], reduced[len(means) :]
        norm = tf.linalg.global_norm(gradients)
        finite = tf.math.is_finite(norm)
        edges, counts = self._observer.bin_if_due(gradients)
        gradients = self._limit(gradients, norm)
        # The optimizer must skip the update exactly if `finite` is False, even if only the norm has overflowed.
        gradients[0] += tf.where(finite, 0.0, np.nan)
        self._apply(gradients)
        for variable, mean, old in zip(statistics, means, old_statistics, strict=True):
            variable.assign(tf.where(finite, mean, old))  # skipped together with the update
        if model.averages is not None:
            model.averages.update(model.data_step - model.lost_steps)
        if model.has_user_metrics:
            model.compiled_metrics.update_state(labels, logits)
        layer_row = self._observer.layer_row_if_due(
            images, labels, logits, self.mean_loss, replica_gradients, gradients, norm, variables_before
        )
        row = step_row.pack_row(
            loss=loss,
            accuracy=accuracy,
            penalty=penalty,
            gradient_norm=norm,
            learning_rate=learning_rate,
            loss_scale=loss_scale,
            nonfinite=~finite,
        )
        return StepRecord(row, layer_row, edges, counts)

    def mix(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the batch after mixup and CutMix, with targets instead of labels; unchanged if both are off."""
        if self._mixing is None:
            return images, labels
        model = self._model
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        key = tf.constant([model.seed, MIXING_STREAM], tf.int32)
        for number in (model.data_step, replica):
            key = tf.random.experimental.stateless_fold_in(key, number, alg="philox")
        return mix_batch(images, labels, model.output_shape[-1], self._mixing.mixup, self._mixing.cutmix, key)

    def accumulate(
        self, images: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Returns (loss, accuracy, penalty, logits, gradients): `forward_backward` summed over the parts of a batch."""
        if self._parts == 1:
            return self.forward_backward(images, labels)
        # The batch size may be unknown when the function is traced: it varies in a replay.
        images, labels = (tf.reshape(tensor, [self._parts, -1, *tensor.shape[1:]]) for tensor in (images, labels))

        def add_part(part, loss, accuracy, penalty, logits, gradients):
            new = self.forward_backward(images[part], labels[part], part)
            gradients = [a + b for a, b in zip(gradients, new[4], strict=True)]
            return part + 1, loss + new[0], accuracy + new[1], penalty + new[2], logits.write(part, new[3]), gradients

        model = self._model
        logits = tf.TensorArray(tf.float32, self._parts, element_shape=[images.shape[1], model.output_shape[-1]])
        start = (0, 0.0, 0.0, 0.0, logits, [tf.zeros(v.shape, v.dtype) for v in model.trainable_variables])
        _, loss, accuracy, penalty, logits, gradients = tf.while_loop(
            lambda part, *_: part < self._parts, add_part, start, parallel_iterations=1
        )
        return loss, accuracy, penalty, logits.concat(), gradients

    def _forward_backward(
        self, images: tf.Tensor, labels: tf.Tensor, part: tf.Tensor | int = 0
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Returns (loss, accuracy, penalty, logits, gradients) of one part of a replica's batch.

        Loss and accuracy are means over the part, and the penalty is the sum of the layers' regularization losses; all
        three are divided by the number of parts on all replicas: their sums over parts and replicas are means over the
        global batch. The gradients are those of loss plus penalty times the loss scale.

        Args:
          images: uint8 [b, h, w, c].
          labels: int [b], or targets float [b, classes].
          part: number of the part, from 0.
        """
        model = self._model
        parts = model.distribute_strategy.num_replicas_in_sync * self._parts
        model.dropout_step.part = part
        try:
            with tf.GradientTape() as tape:
                logits = call_with_autograph(model, images, training=True)
                loss, penalty = self.mean_loss(labels, logits), tf.add_n([0.0, *model.losses])
                scaled = model.optimizer.get_scaled_loss((loss + penalty) / parts)
        finally:
            model.dropout_step.part = 0
        gradients = tape.gradient(scaled, model.trainable_variables)
        missing = [v.name for v, g in zip(model.trainable_variables, gradients, strict=True) if g is None]
        if missing:
            raise ValueError(
                f"no gradient reaches {', '.join(missing)}: the network's output must depend on every trainable weight."
            )
        accuracy = tf.reduce_mean(top1_correct(labels, logits)) / parts
        return loss / parts, accuracy, penalty / parts, logits, gradients

    def mean_loss(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Mean loss over the examples, float32 [], with class weights and without regularization losses."""
        per_example = self._loss.call(labels, logits)
        if self._class_weights is not None:
            weights = tf.constant(self._class_weights, tf.float32)[:, None]
            per_example = per_example * tf.matmul(one_hot_targets(labels, len(self._class_weights)), weights)[:, 0]
        return tf.reduce_mean(per_example)

    def _limit(self, gradients: Sequence[tf.Tensor], norm: tf.Tensor) -> list[tf.Tensor]:
        """Returns `gradients` after the guard limits their norm and after clipping. `norm` is their global norm."""
        if self._options.guarded:
            median, unlimited = tf.identity(self._model.gradient_norm_median), gradients
            shorten = lambda: clip_by_norm(unlimited, norm, median)  # noqa: E731
            gradients = tf.cond(norm > OUTLIER_NORM_FACTOR * median, shorten, lambda: unlimited)
        return self._options.clipping(gradients, norm, self._model)

    def _apply(self, gradients: Sequence[tf.Tensor]) -> None:
        """Updates the weights with gradients that have been summed over the replicas already."""
        optimizer = self._model.optimizer
        without_reduction = {"skip_gradients_aggregation": True}
        if is_legacy(optimizer):
            without_reduction = {"experimental_aggregate_gradients": False}
        optimizer.apply_gradients(zip(gradients, self._model.trainable_variables, strict=True), **without_reduction)


def moving_statistics(model: keras.Model) -> list[tf.Variable]:
    """The floating-point variables that training writes beside the weights: BatchNorm's moving means and variances."""
    metric_variables = {id(variable) for metric in model.metrics for variable in metric.variables}
    statistics = [
        variable
        for variable in model.non_trainable_variables
        if variable.dtype.is_floating and id(variable) not in metric_variables
    ]
    if model.distribute_strategy.num_replicas_in_sync == 1:
        return statistics
    # Replicas can only write variables with an aggregation; the others, such as Normalization's, are constant.
    return [variable for variable in statistics if variable.aggregation != tf.VariableAggregation.NONE]


def next_learning_rate(optimizer: keras.mixed_precision.LossScaleOptimizer) -> tf.Tensor:
    """Returns the learning rate of the next update, float32 []."""
    inner = optimizer.inner_optimizer
    # Keras's newer optimizers hold the schedule in `_learning_rate`, and its last value in `learning_rate`.
    rate = getattr(inner, "_learning_rate", None)
    rate = inner.learning_rate if rate is None else rate
    return rate(optimizer.iterations) if callable(rate) else tf.identity(rate)


def is_legacy(optimizer: Any) -> bool:
    """Whether `optimizer` belongs to the older of Keras's two families, as tensorflow-addons' optimizers do."""
    return isinstance(optimizer, keras.optimizers.legacy.Optimizer)


def top1_correct(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """1 for a correct prediction, 0 for a wrong one, float32 [b]; for soft targets the share of the predicted class."""
    predicted = tf.argmax(logits, -1)
    if labels.dtype.is_floating:
        return tf.gather(labels, predicted, batch_dims=1)
    return tf.cast(predicted == tf.cast(labels, tf.int64), tf.float32)
