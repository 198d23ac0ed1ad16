"""Telemetry of training steps: computed inside the step, read by the host after each compiled call.

`StepObserver` computes histograms and layer statistics in the steps in which they are due. `CallTelemetry` holds the
values of the last compiled call for the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.optim.optimizers import second_moments
from evenkeel.models.telemetry import histograms, step_row
from evenkeel.models.telemetry.layer_stats import LAYER_STATS_IMAGES, LayerStats, gradient_noise_scale


class StepObserver:
    """Computes histograms and layer statistics of a training step, on one replica."""

    def __init__(
        self, model: keras.Model, histograms_every: int, layer_stats: LayerStats | None, layer_stats_every: int
    ) -> None:
        """Intervals are in steps. `histograms_every=0` turns histograms off, `layer_stats=None` layer statistics."""
        self._model, self._layer_stats = model, layer_stats
        self._histograms_every, self._layer_stats_every = histograms_every, layer_stats_every

    def bin_if_due(self, gradients: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (edges, counts) of the histograms of all weights, then all gradients.

        They are zeros on replicas other than the first, and in steps in which histograms are not due.
        """
        every, tensors = self._histograms_every, 2 * len(gradients)
        nothing = tf.zeros([tensors, 2]), tf.zeros([tensors, histograms.BINS + 1], tf.int32)
        if not every:
            return nothing
        first_replica = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
        due = first_replica & (self._model.data_step % every == 0)
        weights = [tf.convert_to_tensor(variable) for variable in self._model.trainable_variables]
        return tf.cond(due, lambda: histograms.bin_counts_of_all([*weights, *gradients]), lambda: nothing)

    def copy_variables_if_due(self) -> list[tf.Tensor]:
        """Copies the values that `layer_row_if_due` compares with those after the update; empty if not due."""
        stats = self._layer_stats
        if stats is None:
            return []
        nothing = lambda: [tf.zeros([0] * len(v.shape)) for v in stats.compared_variables]  # noqa: E731
        return tf.cond(self._layer_stats_due(), stats.copy_variables, nothing)

    def layer_row_if_due(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        logits: tf.Tensor,
        mean_loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        replica_gradients: Sequence[tf.Tensor],
        gradients: Sequence[tf.Tensor],
        norm: tf.Tensor,
        variables_before: Sequence[tf.Tensor],
    ) -> tf.Tensor:
        """Computes the layer statistics after the update, float32 [size]; NaN in steps in which they are not due.

        Args:
          images, labels, logits: the replica's batch and the network's logits for it.
          mean_loss: computes the mean loss of labels and logits.
          replica_gradients: this replica's gradients, before they are summed over the replicas.
          gradients: the gradients that the update applied.
          norm: global norm of the summed gradients.
          variables_before: what `copy_variables_if_due` returned before the update.
        """
        stats = self._layer_stats
        if stats is None:
            return tf.zeros([0])
        model, replicas = self._model, self._model.distribute_strategy.num_replicas_in_sync
        first_labels, first_logits = labels[:LAYER_STATS_IMAGES], logits[:LAYER_STATS_IMAGES]

        def compute() -> tf.Tensor:
            # A replica's gradients are those of its mean loss divided by the number of replicas, see `TrainingStep`.
            squared = tf.square(tf.linalg.global_norm(replica_gradients) * replicas) if replicas > 1 else 0.0
            return stats.compute(
                model.get_layer("normalize")(images[:LAYER_STATS_IMAGES]),
                lambda logits: mean_loss(first_labels, logits),
                mean_loss(first_labels, first_logits),
                gradient_noise_scale(squared, tf.square(norm), tf.cast(tf.shape(images)[0], tf.float32), replicas),
                gradients,
                second_moments(model.optimizer.inner_optimizer, model.trainable_variables),
                variables_before,
            )

        return tf.cond(self._layer_stats_due(), compute, lambda: tf.fill([stats.size], np.nan))

    def _layer_stats_due(self) -> tf.Tensor:
        return self._model.data_step % self._layer_stats_every == 0


class CallTelemetry:
    """Telemetry of the last compiled call, in variables that the host reads after the call."""

    def __init__(self, layer_row_size: int) -> None:
        """Must be called outside the strategy's scope: the values belong to the host, not to a replica."""
        self._rows = _host_variable(len(step_row.COLUMNS))
        self._layer_rows = _host_variable(layer_row_size)
        self._edges = _host_variable(2)
        self._counts = _host_variable(histograms.BINS + 1, tf.int32)
        self._histogram_step = tf.Variable(-1, dtype=tf.int64, trainable=False)

    # Called in the compiled call.

    @property
    def layer_row_shape(self) -> tf.TensorShape:
        return self._layer_rows.shape[1:]

    def store_rows(self, rows: tf.TensorArray, layer_rows: tf.TensorArray) -> tf.Tensor:
        """Replaces the rows of the last call; returns the new rows, float32 [steps, len(COLUMNS)]."""
        stored = self._rows.assign(rows.stack())
        self._layer_rows.assign(layer_rows.stack())
        return stored

    def store_histograms(self, step: tf.Tensor, edges: tf.Tensor, counts: tf.Tensor) -> bool:
        self._edges.assign(edges)
        self._counts.assign(counts)
        self._histogram_step.assign(step)
        return True

    # Called on the host.

    @property
    def rows(self) -> np.ndarray:
        """One row for each step, float32 [steps, len(COLUMNS)], see `step_row`."""
        return self._rows.numpy()

    @property
    def layer_rows(self) -> np.ndarray:
        """Layer statistics of each step, float32 [steps, size]; NaN in steps in which they were not due."""
        return self._layer_rows.numpy()

    @property
    def histogram_step(self) -> int:
        """The step of the newest histograms; -1 before the first."""
        return int(self._histogram_step.numpy())

    def histograms(self, variable_names: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Returns {tag: (edges, counts)} of every weight and every gradient, see `histograms.bin_counts`."""
        tags = [f"{kind}/{name}" for kind in ("weights", "gradients") for name in variable_names]
        return dict(zip(tags, zip(self._edges.numpy(), self._counts.numpy(), strict=True), strict=True))


def _host_variable(columns: int, dtype: tf.DType = tf.float32) -> tf.Variable:
    """Creates a variable for a table with any number of rows, empty at first."""
    return tf.Variable(tf.zeros([0, columns], dtype), shape=[None, columns], trainable=False)
