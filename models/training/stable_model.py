"""StableModel(keras.Model): the training step; gradients, reduction, guard, telemetry.

    model = StableModel.wrap(network, mean=[125.3] * 3, std=[62.0] * 3)
    model.compile(keras.optimizers.SGD(0.1), Crossentropy(), steps_per_execution=20, histograms_every=100)
    model.fit(batches, steps_per_epoch=100, epochs=5, callbacks=[...])

`fit` is Keras's. Many steps run in one compiled call; each leaves a row of telemetry (`rows`), and every
`histograms_every` steps the buckets of all weights and gradients (`histograms`), every `watch_every` steps figures of
each layer (`layers_rows`). Loss for gradients is divided by the global batch, so that gradients sum over replicas; loss
for people is the mean.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import MixingConfig
from evenkeel.models.distribute.strategy import summed
from evenkeel.models.networks.autograph import called
from evenkeel.models.networks.layers import Dropout
from evenkeel.models.networks.normalize import Normalize, Standardize
from evenkeel.models.optim import (
    losses,
    mixing,
    optimizers,
    schedules,
)
from evenkeel.models.optim.averaging import Averages, Averaging, recomputing
from evenkeel.models.optim.clipping import Clipping, by_norm
from evenkeel.models.telemetry import histograms, scores, step_row
from evenkeel.models.telemetry.layer_stats import IMAGES, Probe, noise_scale
from evenkeel.models.telemetry.metrics import Calibration, ConfusionMatrix

LossScaleOptimizer = keras.mixed_precision.LossScaleOptimizer
MIXING = -1  # the use of randomness beside the layers', which count from 0
OUTLYING = 10.0  # times its usual norm: a gradient that a guarded step cuts down


def clock_in_graph() -> Callable[[], tf.Tensor]:
    """Seconds (float64 []) as an operation. TensorFlow's own is refused under op determinism."""
    try:
        tf.timestamp()
    except tf.errors.FailedPreconditionError:
        return lambda: tf.numpy_function(time.perf_counter, [], tf.float64)
    return tf.timestamp


def is_legacy(optimizer: Any) -> bool:
    """Whether it is of the older of Keras's two families, as those of tensorflow-addons are."""
    return isinstance(optimizer, keras.optimizers.legacy.Optimizer)


def rightness(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """float32 [b]: 1 where the largest logit is the label's, 0 where not; the target's share of it for soft targets."""
    predicted = tf.argmax(logits, -1)
    if labels.dtype.is_floating:
        return tf.gather(labels, predicted, batch_dims=1)
    return tf.cast(predicted == tf.cast(labels, tf.int64), tf.float32)


def _keep_from_fusing_tanh(network: keras.Model) -> None:
    """Turns off, for the process, what makes one operation of a convolution, BatchNorm and tanh in inference.

    TensorFlow 2.21 has no kernel for it on a CPU: "Fusion is not implemented: [FusedBatchNorm,Tanh]".
    """
    layers = network._flatten_layers(include_self=False)
    if any(getattr(layer, "activation", None) is keras.activations.tanh for layer in layers):
        tf.config.optimizer.set_experimental_options({"remapping": False})


def _alike(value: float, dtype: tf.DType, name: str) -> tf.Variable:
    """A number that is the same on all replicas."""
    first = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(value, dtype=dtype, trainable=False, aggregation=first, name=name)


class StableModel(keras.Model):
    """Any functional Keras model with uint8 images in and logits out, trained as the module says.

    `data_step` counts the batches seen and never goes back; checkpoints hold it beside the model.
    """

    # Declared on the class because Keras makes weights of all other variables it is given.
    data_step: tf.Variable = None
    # What a guard turns: the learning rate is `rate_factor` times what it would be, and comes to `rate_cut` times that
    # as it warms up; gradients are usually so long.
    rate_factor: tf.Variable = None
    rate_cut: tf.Variable = None
    lost_steps: tf.Variable = None  # that rollbacks undid
    usual_norm: tf.Variable = None
    guess: float | None = None  # the loss of an answer that favours no class, where `losses` knows it
    train_function: Any = None
    test_function: Any = None
    _host: dict[str, tf.Variable] = {}  # noqa: RUF012 (set per instance in compile)
    # Of training loss and accuracy in this epoch, and its steps: float32 [3].
    epoch_sums: tf.Variable = None
    _keep_sums: bool = False
    # Where the next `fit` starts, (epoch, step in it); counts once.
    resume_at: tuple[int, int] | None = None
    # What evaluation sees in place of the weights, once there is something in it.
    averages: Averages | None = None
    # Training batches, and how many, to recompute BatchNorm's statistics with where averaging asks for that.
    statistics_batches: tuple[Any, int] | None = None
    # The part of a batch being trained: masks of dropout differ between parts.
    _part: tf.Tensor | int = 0
    _parts: int = 1
    _recompute: Callable[[Any, int], None] | None = None

    @classmethod
    def wrap(
        cls,
        network: keras.Model,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int = 0,
        standardize: bool = False,
    ) -> StableModel:
        """`network` (normalized images [b, h, w, c] -> logits [b, classes]) behind normalization, weights copied.

        By `mean` and `std` of each channel, or with `standardize` by those of each image.

        Keras's Dropout layers become ones whose masks are keyed by (seed, layer, step, replica).
        """
        channels = network.input_shape[-1]

        def replaced(layer: keras.layers.Layer) -> keras.layers.Layer:
            if type(layer) is keras.layers.Dropout:
                return Dropout(layer.rate, layer.noise_shape, name=layer.name)
            config = layer.get_config()
            if isinstance(layer, keras.layers.BatchNormalization):
                config["synchronized"] = layer.synchronized  # Keras leaves it out
            return layer.__class__.from_config(config)

        _keep_from_fusing_tanh(network)
        inner = keras.models.clone_model(network, clone_function=replaced)
        inner.set_weights(network.get_weights())
        inputs = keras.Input(network.input_shape[1:], dtype=tf.uint8, name="images")
        of_all = mean or [0.0] * channels, std or [1.0] * channels
        normalize = Standardize(name="normalize") if standardize else Normalize(*of_all, name="normalize")
        logits = keras.layers.Activation("linear", dtype=tf.float32, name="float32")(inner(normalize(inputs)))
        model = cls(inputs, logits, name=network.name)
        model.data_step = _alike(0, tf.int64, "data_step")
        model.rate_factor = _alike(1.0, tf.float32, "rate_factor")
        model.rate_cut = _alike(1.0, tf.float32, "rate_cut")
        model.lost_steps = _alike(0, tf.int64, "lost_steps")
        model.usual_norm = _alike(np.inf, tf.float32, "usual_norm")
        random = [layer for layer in inner._flatten_layers() if isinstance(layer, Dropout)]
        for number, layer in enumerate(random):
            layer.seed, layer.step = (seed, number), model._random_step
        model._seed = seed
        return model

    def _random_step(self) -> tf.Tensor:
        """A number (int64 []) of its own for every step and part of a batch."""
        return self.data_step.read_value() * self._parts + tf.cast(self._part, tf.int64)

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | keras.optimizers.legacy.Optimizer,
        loss: Any,
        xla: bool = False,
        clipping: Clipping | None = None,
        histograms_every: int = 0,
        watch_every: int = 0,
        guarded: bool = False,
        accumulate: int = 1,
        class_weights: Sequence[float] | None = None,
        mixing: MixingConfig | None = None,
        averaging: Averaging | None = None,
        evaluate_flipped: bool = False,
        **kwargs: Any,
    ) -> None:
        """Keras's, and more.

        `loss` is a Keras loss over one output. Any optimizer is wrapped in a `LossScaleOptimizer`, which skips an
        update with a non-finite gradient on all replicas, slots included; its scale moves in float16 only.

        Args:
          xla: forward and backward under XLA.
          histograms_every: steps between histograms of all weights and gradients; 0 is off.
          watch_every: steps between looks at each layer, see `probe`; 0 is off.
          guarded: a gradient more than `OUTLYING` times as long as `usual_norm` is cut down to that, and the learning
            rate can be scaled, see `scale_rate`; for `guard.StabilityGuard`.
          accumulate: parts that each replica's batch is taken in, one after another; they make one update.
          class_weights: weights of the classes in the training loss.
          evaluate_flipped: evaluation takes the mean of the logits of each image and of its mirror image.
          mixing: mixup and CutMix of each replica's batch.
          averaging: which average of the weights `evaluate` sees.
        """
        self._scales = isinstance(optimizer, LossScaleOptimizer)
        if not self._scales:
            self._scales = keras.mixed_precision.global_policy().name == "mixed_float16"
            still = {} if self._scales else {"initial_scale": 1, "dynamic_growth_steps": 2**31 - 1}
            optimizer = LossScaleOptimizer(optimizer, **still)
        # Keras warns about weights in evaluation unless this is said; they weigh `metrics` here.
        kwargs.setdefault("weighted_metrics", [])
        super().compile(optimizer=optimizer, loss=loss, **kwargs)
        self._guarded = guarded
        if guarded:
            schedules.scaled(optimizer.inner_optimizer, self.rate_factor)
        self._per_example_loss = keras.losses.get(loss)
        self._evaluate_flipped = evaluate_flipped
        self._has_metrics = bool(kwargs.get("metrics") or kwargs.get("weighted_metrics"))
        self._clipping, self._histograms_every, self._parts = clipping or Clipping(), histograms_every, accumulate
        self._class_weights = None if class_weights is None else list(class_weights)
        self._mixing = mixing if mixing and (mixing.mixup or mixing.cutmix) else None
        self._forward_backward = (
            tf.function(self._gradients, jit_compile=True, autograph=False) if xla else self._gradients
        )
        with self.distribute_strategy.scope():
            self._test_loss, self._test_accuracy = keras.metrics.Mean("loss"), keras.metrics.Mean("accuracy")
            self._test_top_5 = keras.metrics.Mean("top_5")
            self._confusion, self._calibration = ConfusionMatrix(self.output_shape[-1]), Calibration()
            # Now, because the older family fails in a compiled loop over several replicas that has to make its slots.
            build = optimizer._create_all_weights if is_legacy(optimizer) else optimizer.build
            build(self.trainable_variables)
            self.probe = Probe(self.get_layer(self.name), self.trainable_variables, accumulate) if watch_every else None
            self._watch_every = watch_every
            guess = losses.guess(self._per_example_loss, self.output_shape[-1])
            # As rows have it: with the penalties, as they are at first.
            self.guess = None if guess is None else guess + float(tf.add_n([0.0, *self.losses]))
            if averaging:
                self.averages = Averages([*self.trainable_variables, *self._statistics()], averaging)
        # What the host reads after a call lives outside the replicas.
        shapes = {
            "rows": [None, len(step_row.ROW)],
            "layers": [None, self.probe.size if self.probe else 0],
            "edges": [None, 2],
            "counts": [None, histograms.BINS + 1],
        }
        kinds = {"counts": tf.int32}
        self._host = {
            name: tf.Variable(tf.zeros([0, shape[1]], kinds.get(name, tf.float32)), shape=shape, trainable=False)
            for name, shape in shapes.items()
        }
        self._host["histogram_step"] = tf.Variable(-1, dtype=tf.int64, trainable=False)
        self._host["behind"] = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.epoch_sums = tf.Variable(tf.zeros([3]), trainable=False)

    @property
    def step(self) -> int:
        """Batches seen since the start of the run: the value of `data_step`."""
        return int(self.distribute_strategy.experimental_local_results(self.data_step)[0].numpy())

    @property
    def trained_steps(self) -> int:
        """Those whose updates are in the weights: `step`, less what rollbacks undid."""
        return self.step - int(self.distribute_strategy.experimental_local_results(self.lost_steps)[0].numpy())

    def undo(self, steps: int) -> None:
        """Says that so many trained steps have just been undone: the next call of many steps makes up for them."""
        self.lost_steps.assign_add(steps)
        self._host["behind"].assign_add(steps)

    def scale_rate(self, factor: float) -> None:
        """From now on the learning rate is `factor`, above 0, times what its schedule or its owner says."""
        rate = schedules.plain_rate(self.optimizer.inner_optimizer)
        if rate is not None:
            rate.assign(rate * factor / self.rate_factor)
        self.rate_factor.assign(factor)

    def epoch_means(self) -> dict[str, float]:
        """Training loss and accuracy of the steps of this epoch."""
        loss, accuracy, steps = self.epoch_sums.numpy()
        return {"loss": float(loss / steps), "accuracy": float(accuracy / steps)}

    # What one compiled call left behind.

    @property
    def rows(self) -> np.ndarray:
        """float32 [steps, len(telemetry.ROW)]: a row for each step of the last call."""
        return self._host["rows"].numpy()

    @property
    def layers_rows(self) -> np.ndarray:
        """float32 [steps, probe.size]: what `probe.read` takes apart, NaN for steps that were not due."""
        return self._host["layers"].numpy()

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

    def _gradients(self, images: tf.Tensor, labels: tf.Tensor, part: tf.Tensor | int = 0):
        """(loss for people, number right, logits, gradients of the scaled loss), this part's parts of sums.

        `labels` are int [b], or targets float [b, classes].
        """
        # The loss's part of the sum over parts and replicas: their mean over the global batch.
        parts = self.distribute_strategy.num_replicas_in_sync * self._parts
        self._part = part
        try:
            with tf.GradientTape() as tape:
                logits = called(self, images, training=True)
                loss = tf.reduce_mean(self._weighted(self._per_example_loss.call(labels, logits), labels))
                loss = (loss + tf.add_n([0.0, *self.losses])) / parts
                scaled = self.optimizer.get_scaled_loss(loss)
        finally:
            self._part = 0
        gradients = tape.gradient(scaled, self.trainable_variables)
        missing = [v.name for v, g in zip(self.trainable_variables, gradients, strict=True) if g is None]
        if missing:
            raise ValueError(f"no gradient reaches {', '.join(missing)}: they do not lead to the output.")
        right = tf.reduce_mean(rightness(labels, logits)) / parts
        return loss, right, logits, gradients

    def _weighted(self, per_example: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        if self._class_weights is None:
            return per_example
        weights = tf.constant(self._class_weights, tf.float32)[:, None]
        return per_example * tf.matmul(losses.targets(labels, len(self._class_weights)), weights)[:, 0]

    def _accumulated(self, images: tf.Tensor, labels: tf.Tensor):
        """As `_gradients`, part after part."""
        if self._parts == 1:
            return self._forward_backward(images, labels)
        # The number of images need not be known beforehand: a replay's batches have any.
        images, labels = (tf.reshape(of, [self._parts, -1, *of.shape[1:]]) for of in (images, labels))

        def add(part, loss, right, logits, gradients):
            more = self._forward_backward(images[part], labels[part], part)
            gradients = [a + b for a, b in zip(gradients, more[3], strict=True)]
            return part + 1, loss + more[0], right + more[1], logits.write(part, more[2]), gradients

        logits = tf.TensorArray(tf.float32, self._parts, element_shape=[images.shape[1], self.output_shape[-1]])
        start = (0, 0.0, 0.0, logits, [tf.zeros(v.shape, v.dtype) for v in self.trainable_variables])
        _, loss, right, logits, gradients = tf.while_loop(
            lambda part, *_: part < self._parts, add, start, parallel_iterations=1
        )
        return loss, right, logits.concat(), gradients

    def _mixed(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if self._mixing is None:
            return images, labels
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        key = tf.constant([self._seed, MIXING], tf.int32)
        for number in (self.data_step, replica):
            key = tf.random.experimental.stateless_fold_in(key, number, alg="philox")
        return mixing.mixed(images, labels, self.output_shape[-1], self._mixing.mixup, self._mixing.cutmix, key)

    def _replica_step(self, images: tf.Tensor, labels: tf.Tensor):
        """One step on one replica: (telemetry row, layers, histogram edges, histogram counts)."""
        optimizer, replicas = self.optimizer, self.distribute_strategy.num_replicas_in_sync
        statistics = self._statistics()
        before = [tf.identity(v) for v in statistics]
        scale, rate = tf.identity(optimizer.loss_scale), self._learning_rate()
        images, labels = self._mixed(images, labels)
        weights = self._weights_if_due()
        loss, right, logits, gradients = self._accumulated(images, labels)
        # A scale of 1 is not multiplied with; the empty list keeps Keras from warning of that.
        unscaled = optimizer.get_unscaled_gradients(gradients if self._scales else [])
        own = gradients = unscaled or gradients
        # One for all replicas: a checkpoint holds one, and evaluation reads each replica's own.
        means = [v / replicas for v in statistics]
        loss, right, *both = summed([loss, right, *means, *gradients])
        means, gradients = both[: len(means)], both[len(means) :]
        norm = tf.linalg.global_norm(gradients)
        finite = tf.math.is_finite(norm)
        edges, counts = self._buckets(gradients)
        if self._guarded:
            usual, reduced_ones = tf.identity(self.usual_norm), gradients
            cut = lambda: by_norm(reduced_ones, norm, usual)  # noqa: E731
            gradients = tf.cond(norm > OUTLYING * usual, cut, lambda: reduced_ones)
        gradients = self._clipping(gradients, norm, self)
        # The optimizer must skip on exactly what `finite` says, a norm that overflows included.
        gradients[0] += tf.where(finite, 0.0, np.nan)
        reduced = {"skip_gradients_aggregation": True}
        if is_legacy(optimizer):
            reduced = {"experimental_aggregate_gradients": False}
        optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True), **reduced)
        for variable, mean, old in zip(statistics, means, before, strict=True):  # skipped like the update
            variable.assign(tf.where(finite, mean, old))
        if self.averages is not None:
            self.averages.update(self.data_step - self.lost_steps)
        if self._has_metrics:
            self.compiled_metrics.update_state(labels, logits)
        layers = self._layers_if_due(images, labels, logits, own, gradients, norm, weights)
        row = step_row.row(
            loss=loss,
            accuracy=right,
            gradient_norm=norm,
            learning_rate=rate,
            loss_scale=scale,
            nonfinite=~finite,
        )
        return row, layers, edges, counts

    def _learning_rate(self) -> tf.Tensor:
        """That of the coming update."""
        inner = self.optimizer.inner_optimizer
        # Keras holds a schedule here, and what it gave last under `learning_rate`.
        rate = getattr(inner, "_learning_rate", None)
        rate = inner.learning_rate if rate is None else rate
        return rate(self.optimizer.iterations) if callable(rate) else tf.identity(rate)

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

    def _due(self) -> tf.Tensor:
        return self.data_step % self._watch_every == 0

    def _weights_if_due(self) -> list[tf.Tensor]:
        """What `_layers_if_due` compares the weights with after the update."""
        if self.probe is None:
            return []
        nothing = lambda: [tf.zeros([0] * len(v.shape)) for v in self.probe.watched]  # noqa: E731
        return tf.cond(self._due(), self.probe.weights, nothing)

    def _layers_if_due(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        logits: tf.Tensor,
        own: Sequence[tf.Tensor],
        gradients: Sequence[tf.Tensor],
        norm: tf.Tensor,
        before: Sequence[tf.Tensor],
    ) -> tf.Tensor:
        """float32 [probe.size], after the update; NaN where this step is not due. `own` are a replica's gradients."""
        if self.probe is None:
            return tf.zeros([0])
        probe, replicas = self.probe, self.distribute_strategy.num_replicas_in_sync
        some, shown = labels[:IMAGES], logits[:IMAGES]

        def loss_of(logits: tf.Tensor) -> tf.Tensor:
            return tf.reduce_mean(self._weighted(self._per_example_loss.call(some, logits), some))

        def measured() -> tf.Tensor:
            # The parts of a sum over replicas are of means, see `_gradients`.
            squared = tf.square(tf.linalg.global_norm(own) * replicas) if replicas > 1 else 0.0
            return probe.measured(
                self.get_layer("normalize")(images[:IMAGES]),
                loss_of,
                loss_of(shown),
                noise_scale(squared, tf.square(norm), tf.cast(tf.shape(images)[0], tf.float32), replicas),
                gradients,
                optimizers.second_moments(self.optimizer.inner_optimizer, self.trainable_variables),
                before,
            )

        return tf.cond(self._due(), measured, lambda: tf.fill([probe.size], np.nan))

    def make_train_function(self, force: bool = False):
        if self.train_function is not None and not force:
            return self.train_function
        strategy, host, every = self.distribute_strategy, self._host, self._histograms_every
        local = lambda value: strategy.experimental_local_results(value)  # noqa: E731
        clock = clock_in_graph()

        # AutoGraph is for layers only, see `autograph`.
        @tf.function(reduce_retracing=True, autograph=False)
        def train_function(iterator):
            # Over the variable, not a constant: the last call of an epoch may be shorter.
            count = tf.cast(self._steps_per_execution + host["behind"], tf.int32)
            host["behind"].assign(0)
            rows = tf.TensorArray(tf.float32, size=count, element_shape=[len(step_row.ROW)])
            layers = tf.TensorArray(tf.float32, size=count, element_shape=host["layers"].shape[1:])

            def step(i: tf.Tensor, rows: tf.TensorArray, layers: tf.TensorArray):
                asked = clock()
                with tf.control_dependencies([asked]):
                    images, labels = next(iterator)
                with tf.control_dependencies([*local(images), *local(labels)]):
                    waited = tf.cast(clock() - asked, tf.float32)
                row, looked_at, edges, counts = strategy.run(self._replica_step, args=(images, labels))
                rows = rows.write(i, tf.concat([local(row)[0], [waited]], axis=0))
                layers = layers.write(i, local(looked_at)[0])
                if every:
                    keep = functools.partial(self._keep_histograms, local(edges)[0], local(counts)[0])
                    tf.cond(self.data_step % every == 0, keep, lambda: False)
                self.data_step.assign_add(1)
                return i + 1, rows, layers

            _, rows, layers = tf.while_loop(lambda i, *_: i < count, step, (0, rows, layers))
            block = host["rows"].assign(rows.stack())
            host["layers"].assign(layers.stack())
            sums = tf.reduce_sum(block[:, :2], axis=0)
            epoch = self.epoch_sums.assign_add(tf.concat([sums, [tf.cast(count, tf.float32)]], axis=0))
            self._train_counter.assign_add(tf.cast(count, tf.int64))
            mine = {"loss": epoch[0] / epoch[2], "accuracy": epoch[1] / epoch[2]}
            return {**{m.name: m.result() for m in self.compiled_metrics.metrics}, **mine}

        self.train_function = train_function
        return train_function

    def _keep_histograms(self, edges: tf.Tensor, counts: tf.Tensor) -> bool:
        self._host["edges"].assign(edges)
        self._host["counts"].assign(counts)
        self._host["histogram_step"].assign(self.data_step)
        return True

    def reset_metrics(self) -> None:
        """Keras's, where an epoch or an evaluation begins; an epoch that goes on keeps its sums."""
        super().reset_metrics()
        if not self._keep_sums:
            self.epoch_sums.assign(tf.zeros([3]))
        self._keep_sums = False

    def make_test_function(self, force: bool = False):
        """As Keras's, but what a call returns is read once behind its steps, and AutoGraph is for layers only."""
        if self.test_function is not None and not force:
            return self.test_function

        @tf.function(reduce_retracing=True, autograph=False)
        def test_function(iterator):
            count = tf.cast(self._steps_per_execution, tf.int32)

            def step(i: tf.Tensor) -> tf.Tensor:
                self.distribute_strategy.run(self._replica_test, args=(next(iterator),))
                return i + 1

            tf.while_loop(lambda i: i < count, step, [0])
            self._test_counter.assign_add(tf.cast(count, tf.int64))
            mine = {"loss": self._test_loss.result(), "accuracy": self._test_accuracy.result()}
            return {**{m.name: m.result() for m in self.compiled_metrics.metrics}, **mine}

        self.test_function = test_function
        return test_function

    def _replica_test(self, data: Any) -> None:
        """Means over examples by their weights: filled-up last batches count for what they hold."""
        images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        if weights is None:
            weights = tf.ones_like(labels, tf.float32)
        logits = self.evaluated_logits(images)
        self._test_loss.update_state(self._per_example_loss.call(labels, logits), weights)
        self._test_accuracy.update_state(rightness(labels, logits), weights)
        self._test_top_5.update_state(tf.math.in_top_k(labels, logits, 5), weights)
        self._confusion.update_state(labels, logits, weights)
        self._calibration.update_state(labels, logits, weights)
        if self._has_metrics:
            self.compiled_metrics.update_state(labels, logits, weights)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's, of the averaged weights where there are any.

        Leaves `confusion_matrix`, float32 [classes, classes] by true (row) and predicted class, and `scores`, {name:
        figure} as in `scores.all_scores`.
        """
        with self.evaluated_weights():
            self._keep_sums = True
            results = super().evaluate(*args, **kwargs)
        # Read here because every worker of a cluster has to take part in reading it.
        self.confusion_matrix = self._confusion.result().numpy()
        top_5 = float(self._test_top_5.result()) if len(self.confusion_matrix) > 5 else None
        self.scores = scores.all_scores(self.confusion_matrix, self._calibration.result().numpy(), top_5)
        return results

    @contextlib.contextmanager
    def evaluated_weights(self) -> Iterator[None]:
        """The weights inside of the block are those that `evaluate` sees: averages, where there are any."""
        averages = self.averages if self.averages is not None and self.averages.ready(self.trained_steps) else None
        with averages.applied() if averages else contextlib.nullcontext():
            if averages and averages.averaging.recompute and self.statistics_batches:
                if self._recompute is None:
                    self._recompute = recomputing(self)
                self._recompute(*self.statistics_batches)
            yield

    def evaluated_logits(self, images: tf.Tensor) -> tf.Tensor:
        """float32 [b, classes] of uint8 `images`, as evaluation takes them."""
        logits = called(self, images, training=False)
        return (logits + called(self, images[:, :, ::-1], training=False)) / 2 if self._evaluate_flipped else logits

    def _maybe_load_initial_counters_from_ckpt(self, steps_per_epoch: int, initial_epoch: int) -> tuple[int, int]:
        """Keras asks here where to start: the way into the middle of an epoch."""
        start, self.resume_at = self.resume_at or (initial_epoch, 0), None
        self._keep_sums = start[1] > 0
        return start
