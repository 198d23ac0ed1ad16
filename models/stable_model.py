"""StableModel(keras.Model): the training step; gradients, reduction, guard, telemetry.

    model = StableModel.wrap(network, mean=[125.3] * 3, std=[62.0] * 3)
    model.compile(keras.optimizers.SGD(0.1), Crossentropy(), steps_per_execution=20, histograms_every=100)
    model.fit(batches, steps_per_epoch=100, epochs=5, callbacks=[...])

`fit` is Keras's. Many steps run in one compiled call; each leaves a row of telemetry (`rows`), and every
`histograms_every` steps the buckets of all weights and gradients (`histograms`). Loss for gradients is divided by the
global batch, so that gradients sum over replicas; loss for people is the mean.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from models import histograms, telemetry
from models.layers import Dropout
from pipeline.normalize import Normalize

LossScaleOptimizer = keras.mixed_precision.LossScaleOptimizer
SUM = tf.distribute.ReduceOp.SUM


class ConfusionMatrix(keras.metrics.Metric):
    """Weights of examples by true class (row) and predicted class (column), float32 [classes, classes]."""

    def __init__(self, classes: int, name: str = "confusion", **kwargs) -> None:
        super().__init__(name=name, **kwargs)
        self.classes = classes
        self.matrix = self.add_weight("matrix", shape=[classes, classes], initializer="zeros", dtype=tf.float32)

    def update_state(
        self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> tf.Operation:
        predicted = tf.argmax(y_pred, axis=-1)
        return self.matrix.assign_add(
            tf.math.confusion_matrix(y_true, predicted, self.classes, sample_weight, dtype=tf.float32)
        )

    def result(self) -> tf.Tensor:
        return tf.identity(self.matrix)

    def reset_state(self) -> None:
        self.matrix.assign(tf.zeros_like(self.matrix))


def clock_in_graph() -> Callable[[], tf.Tensor]:
    """Seconds (float64 []) as an operation. TensorFlow's own is refused under op determinism."""
    try:
        tf.timestamp()
    except tf.errors.FailedPreconditionError:
        return lambda: tf.numpy_function(time.perf_counter, [], tf.float64)
    return tf.timestamp


class StableModel(keras.Model):
    """Any functional Keras model with uint8 images in and logits out, trained as the module says.

    `data_step` counts the batches seen and never goes back; checkpoints hold it beside the model.
    """

    # Declared on the class because Keras makes weights of all other variables it is given.
    data_step: tf.Variable = None
    train_function: Any = None
    _host: dict[str, tf.Variable] = {}  # noqa: RUF012 (set per instance in compile)
    # Where the next `fit` starts, (epoch, step in it); counts once.
    resume_at: tuple[int, int] | None = None

    @classmethod
    def wrap(
        cls,
        network: keras.Model,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int = 0,
    ) -> StableModel:
        """`network` (normalized images [b, h, w, c] -> logits [b, classes]) behind normalization, weights copied.

        Keras's Dropout layers become ones whose masks are keyed by (seed, layer, step, replica).
        """
        channels = network.input_shape[-1]

        def replaced(layer: keras.layers.Layer) -> keras.layers.Layer:
            if type(layer) is keras.layers.Dropout:
                return Dropout(layer.rate, layer.noise_shape, name=layer.name)
            return layer.__class__.from_config(layer.get_config())

        inner = keras.models.clone_model(network, clone_function=replaced)
        inner.set_weights(network.get_weights())
        inputs = keras.Input(network.input_shape[1:], dtype=tf.uint8, name="images")
        normalize = Normalize(mean or [0.0] * channels, std or [1.0] * channels, name="normalize")
        logits = keras.layers.Activation("linear", dtype=tf.float32, name="float32")(inner(normalize(inputs)))
        model = cls(inputs, logits, name=network.name)
        model.data_step = tf.Variable(
            0, dtype=tf.int64, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA, name="data_step"
        )
        random = [layer for layer in inner._flatten_layers() if isinstance(layer, Dropout)]
        for number, layer in enumerate(random):
            layer.seed, layer.step = (seed, number), model.data_step.read_value
        return model

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer,
        loss: Any,
        xla: bool = False,
        clip_norm: float = 0.0,
        histograms_every: int = 0,
        **kwargs: Any,
    ) -> None:
        """Keras's, and: forward and backward under XLA, clipping to a global norm, steps between histograms (0: off).

        `loss` is a Keras loss over one output. Any optimizer is wrapped in a `LossScaleOptimizer`, which skips an
        update with a non-finite gradient on all replicas, slots included; its scale moves in float16 only.
        """
        if not isinstance(optimizer, LossScaleOptimizer):
            if keras.mixed_precision.global_policy().name == "mixed_float16":
                optimizer = LossScaleOptimizer(optimizer)
            else:
                optimizer = LossScaleOptimizer(optimizer, initial_scale=1, dynamic_growth_steps=2**31 - 1)
        # Keras warns about weights in evaluation unless this is said; they weigh `metrics` here.
        kwargs.setdefault("weighted_metrics", [])
        super().compile(optimizer=optimizer, loss=loss, **kwargs)
        self._per_example_loss = keras.losses.get(loss)
        self._has_metrics = bool(kwargs.get("metrics") or kwargs.get("weighted_metrics"))
        self._clip_norm, self._histograms_every = clip_norm, histograms_every
        self._forward_backward = tf.function(self._gradients, jit_compile=True) if xla else self._gradients
        with self.distribute_strategy.scope():
            self._test_loss, self._test_accuracy = keras.metrics.Mean("loss"), keras.metrics.Mean("accuracy")
            self._confusion = ConfusionMatrix(self.output_shape[-1])
        # What the host reads after a call lives outside the replicas.
        shapes = {"rows": [None, len(telemetry.ROW)], "edges": [None, 2], "counts": [None, histograms.BINS + 1]}
        kinds = {"counts": tf.int32}
        self._host = {
            name: tf.Variable(tf.zeros([0, shape[1]], kinds.get(name, tf.float32)), shape=shape, trainable=False)
            for name, shape in shapes.items()
        }
        self._host["histogram_step"] = tf.Variable(-1, dtype=tf.int64, trainable=False)
        self._host["epoch"] = tf.Variable(tf.zeros([3]), trainable=False)  # sums of loss and accuracy; steps

    @property
    def step(self) -> int:
        """Batches seen since the start of the run: the value of `data_step`."""
        return int(self.distribute_strategy.experimental_local_results(self.data_step)[0].numpy())

    # What one compiled call left behind.

    @property
    def rows(self) -> np.ndarray:
        """float32 [steps, len(telemetry.ROW)]: a row for each step of the last call."""
        return self._host["rows"].numpy()

    @property
    def histogram_step(self) -> int:
        """The step whose histograms are held; -1 before the first."""
        return int(self._host["histogram_step"].numpy())

    @property
    def histograms(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """{tag: (edges, counts)} of every weight and every gradient, as in `histograms.bucketed`."""
        names = [variable.name.split(":")[0] for variable in self.trainable_variables]
        tags = [f"weights/{name}" for name in names] + [f"gradients/{name}" for name in names]
        edges, counts = self._host["edges"].numpy(), self._host["counts"].numpy()
        return dict(zip(tags, zip(edges, counts, strict=True), strict=True))

    # The training step.

    def _gradients(self, images: tf.Tensor, labels: tf.Tensor):
        """(loss for people, number right, logits, gradients of the scaled loss), this replica's parts of sums."""
        replicas = self.distribute_strategy.num_replicas_in_sync
        with tf.GradientTape() as tape:
            logits = self(images, training=True)
            loss = tf.reduce_mean(self._per_example_loss.call(labels, logits))
            # A part of the sum over replicas: their mean over the global batch.
            loss = (loss + tf.add_n([0.0, *self.losses])) / replicas
            scaled = self.optimizer.get_scaled_loss(loss)
        right = tf.reduce_mean(tf.cast(tf.argmax(logits, -1) == tf.cast(labels, tf.int64), tf.float32)) / replicas
        return loss, right, logits, tape.gradient(scaled, self.trainable_variables)

    def _replica_step(self, images: tf.Tensor, labels: tf.Tensor):
        """One step on one replica: (telemetry row, histogram edges, histogram counts)."""
        optimizer, context = self.optimizer, tf.distribute.get_replica_context()
        statistics = self._statistics()
        before = [tf.identity(v) for v in statistics]
        scale = tf.identity(optimizer.loss_scale)
        loss, right, logits, gradients = self._forward_backward(images, labels)
        missing = [v.name for v, g in zip(self.trainable_variables, gradients, strict=True) if g is None]
        if missing:
            raise ValueError(f"no gradient reaches {', '.join(missing)}: they do not lead to the output.")
        gradients = optimizer.get_unscaled_gradients(gradients)
        # One for all replicas: a checkpoint holds one, and evaluation reads each replica's own.
        means = [v / context.num_replicas_in_sync for v in statistics]
        loss, right, *both = context.all_reduce(SUM, [loss, right, *means, *gradients])
        means, gradients = both[: len(means)], both[len(means) :]
        norm = tf.linalg.global_norm(gradients)
        finite = tf.math.is_finite(norm)
        edges, counts = self._buckets(gradients)
        if self._clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self._clip_norm, use_norm=norm)
        # The optimizer must skip on exactly what `finite` says, a norm that overflows included.
        gradients[0] += tf.where(finite, 0.0, np.nan)
        optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True), skip_gradients_aggregation=True
        )
        for variable, mean, old in zip(statistics, means, before, strict=True):  # skipped like the update
            variable.assign(tf.where(finite, mean, old))
        if self._has_metrics:
            self.compiled_metrics.update_state(labels, logits)
        row = telemetry.row(
            loss=loss,
            accuracy=right,
            gradient_norm=norm,
            learning_rate=optimizer.learning_rate,  # a schedule's is set by apply_gradients
            loss_scale=scale,
            nonfinite=~finite,
        )
        return row, edges, counts

    def _statistics(self) -> list[tf.Variable]:
        """The floating-point state that training writes beside the weights: BatchNorm's moving mean and variance."""
        of_metrics = {id(v) for metric in self.metrics for v in metric.variables}
        state = [v for v in self.non_trainable_variables if v.dtype.is_floating and id(v) not in of_metrics]
        if self.distribute_strategy.num_replicas_in_sync == 1:
            return state
        # Replicas can write only what says how it is aggregated; the rest, Normalization's for one, is constant.
        return [v for v in state if v.aggregation != tf.VariableAggregation.NONE]

    def _buckets(self, gradients: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Histograms of weights and gradients where this step is due, on the first replica; else zeros."""
        every, tensors = self._histograms_every, 2 * len(gradients)
        nothing = tf.zeros([tensors, 2]), tf.zeros([tensors, histograms.BINS + 1], tf.int32)
        if not every:
            return nothing
        first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
        due = first & (self.data_step % every == 0)
        weights = [tf.convert_to_tensor(v) for v in self.trainable_variables]
        return tf.cond(due, lambda: histograms.bucketed_all([*weights, *gradients]), lambda: nothing)

    def make_train_function(self, force: bool = False):
        if self.train_function is not None and not force:
            return self.train_function
        strategy, host, every = self.distribute_strategy, self._host, self._histograms_every
        local = lambda value: strategy.experimental_local_results(value)  # noqa: E731
        clock = clock_in_graph()

        @tf.function(reduce_retracing=True)
        def train_function(iterator):
            # Over the variable, not a constant: the last call of an epoch may be shorter.
            count = tf.cast(self._steps_per_execution, tf.int32)
            rows = tf.TensorArray(tf.float32, size=count, element_shape=[len(telemetry.ROW)])
            for i in tf.range(count):
                asked = clock()
                with tf.control_dependencies([asked]):
                    images, labels = next(iterator)
                with tf.control_dependencies([*local(images), *local(labels)]):
                    waited = tf.cast(clock() - asked, tf.float32)
                row, edges, counts = strategy.run(self._replica_step, args=(images, labels))
                rows = rows.write(i, tf.concat([local(row)[0], [waited]], axis=0))
                if every and self.data_step % every == 0:
                    host["edges"].assign(local(edges)[0])
                    host["counts"].assign(local(counts)[0])
                    host["histogram_step"].assign(self.data_step)
                self.data_step.assign_add(1)
            block = host["rows"].assign(rows.stack())
            sums = tf.reduce_sum(block[:, :2], axis=0)
            epoch = host["epoch"].assign_add(tf.concat([sums, [tf.cast(count, tf.float32)]], axis=0))
            self._train_counter.assign_add(tf.cast(count, tf.int64))
            mine = {"loss": epoch[0] / epoch[2], "accuracy": epoch[1] / epoch[2]}
            return {**{m.name: m.result() for m in self.compiled_metrics.metrics}, **mine}

        self.train_function = train_function
        return train_function

    def reset_metrics(self) -> None:
        super().reset_metrics()
        self._host["epoch"].assign(tf.zeros([3]))

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Means over examples by their weights: filled-up last batches count for what they hold."""
        images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        if weights is None:
            weights = tf.ones_like(labels, tf.float32)
        logits = self(images, training=False)
        losses = self._per_example_loss.call(labels, logits)
        right = tf.cast(tf.argmax(logits, -1) == tf.cast(labels, tf.int64), tf.float32)
        self._test_loss.update_state(losses, weights)
        self._test_accuracy.update_state(right, weights)
        self._confusion.update_state(labels, logits, weights)
        if self._has_metrics:
            self.compiled_metrics.update_state(labels, logits, weights)
        mine = {"loss": self._test_loss.result(), "accuracy": self._test_accuracy.result()}
        return {**{m.name: m.result() for m in self.compiled_metrics.metrics}, **mine}

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's; leaves `confusion_matrix`, float32 [classes, classes] by true (row) and predicted class."""
        results = super().evaluate(*args, **kwargs)
        # Read here because every worker of a cluster has to take part in reading it.
        self.confusion_matrix = self._confusion.result().numpy()
        return results

    def _maybe_load_initial_counters_from_ckpt(self, steps_per_epoch: int, initial_epoch: int) -> tuple[int, int]:
        """Keras asks here where to start: the way into the middle of an epoch."""
        start, self.resume_at = self.resume_at or (initial_epoch, 0), None
        return start
