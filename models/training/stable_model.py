"""StableModel: a Keras model for images whose training step is guarded, observed, and runs many times in one call.

    model = StableModel.wrap(network, mean=[125.3] * 3, std=[62.0] * 3)
    options = StepOptions(histograms_every=100, layer_stats_every=20)
    model.compile(keras.optimizers.SGD(0.1), Crossentropy(), options, steps_per_execution=20)
    model.fit(batches, steps_per_epoch=100, epochs=5, callbacks=[...])

`fit` and `evaluate` are Keras's. The work is done by parts of the model: `training_step` trains on one replica,
`evaluation_step` evaluates, and `telemetry` holds what the steps of the last compiled call reported (`rows`,
`layer_rows`, `histograms`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.networks.layers import Dropout, copy_layer
from evenkeel.models.networks.normalize import Normalize, Standardize
from evenkeel.models.optim import losses, schedules
from evenkeel.models.optim.averaging import WeightAverages
from evenkeel.models.telemetry.layer_stats import LayerStats
from evenkeel.models.training.evaluation_step import EvaluationStep, build_test_function
from evenkeel.models.training.observation import CallTelemetry, StepObserver
from evenkeel.models.training.step_options import StepOptions
from evenkeel.models.training.train_function import build_train_function
from evenkeel.models.training.training_step import DropoutStep, TrainingStep, is_legacy, moving_statistics

LossScaleOptimizer = keras.mixed_precision.LossScaleOptimizer


class StableModel(keras.Model):
    """A functional Keras model, uint8 images in and logits out, with the project's training and evaluation steps.

        model = evenkeel.StableModel.wrap(network, mean=[127.5] * 3, std=[64.0] * 3)
        model.compile(optimizer, loss, evenkeel.StepOptions(guarded=True))
        model.fit(batches, steps_per_epoch=100, epochs=5)

    Attributes:
      data_step: int64 []; batches seen since the start of the run. It never goes back, and checkpoints hold it.
      lost_steps: int64 []; steps that rollbacks undid.
      steps_to_make_up: int64 []; undone steps that the next compiled call adds to its own.
      lr_scale: float32 []; the learning rate is this factor times the scheduled learning rate.
      lr_scale_target: float32 []; the value to which `lr_scale` rises after the guard has lowered it.
      gradient_norm_median: float32 []; recent median of the gradient norm, set by the guard.
      chance_loss: loss of random guessing; None if unknown.
      epoch_sums: float32 [3]; training loss, accuracy and number of steps of this epoch, summed.
      resume_at: (epoch, step in the epoch) at which the next `fit` starts; used only once.
      averages: averages of the weights, which evaluation uses once they exist; None without averaging.
      statistics_batches: (training batches, number of steps) to recompute BatchNorm's statistics for SWA.
      layer_stats: names the observed layers, and splits `layer_rows` into statistics; None without layer statistics.
      dropout_step: the step number that keys dropout masks.
      has_user_metrics: whether metrics were passed to `compile`.
    """

    # Declared on the class, because Keras adds any other variable that is assigned to a model to the model's weights.
    data_step: tf.Variable = None
    lost_steps: tf.Variable = None
    steps_to_make_up: tf.Variable = None
    lr_scale: tf.Variable = None
    lr_scale_target: tf.Variable = None
    gradient_norm_median: tf.Variable = None
    epoch_sums: tf.Variable = None
    averages: WeightAverages | None = None
    chance_loss: float | None = None
    resume_at: tuple[int, int] | None = None
    statistics_batches: tuple[Any, int] | None = None
    layer_stats: LayerStats | None = None
    train_function: Any = None
    test_function: Any = None
    _keep_epoch_sums: bool = False

    @classmethod
    def wrap(
        cls,
        network: keras.Model,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int = 0,
        standardize: bool = False,
    ) -> StableModel:
        """Creates a model, not compiled, that normalizes uint8 images and passes them to a copy of `network`.

        Args:
          network: normalized images [b, h, w, c] -> logits [b, classes]. Keras's Dropout layers are replaced by layers
            with masks that are keyed by (seed, layer, step, replica). Layers of your own classes are not copied but
            shared, and Dropout inside of them stays Keras's.
          mean, std: one number per channel, in units of 0..255; without them pixels are not changed.
          seed: seed of dropout masks and mixing.
          standardize: normalize each image by its own mean and standard deviation instead.
        """
        _work_around_tanh_fusion(network)
        inner = keras.models.clone_model(network, clone_function=_clone_layer)
        inner.set_weights(network.get_weights())
        channels = network.input_shape[-1]
        inputs = keras.Input(network.input_shape[1:], dtype=tf.uint8, name="images")
        normalization = mean or [0.0] * channels, std or [1.0] * channels
        normalize = Standardize(name="normalize") if standardize else Normalize(*normalization, name="normalize")
        logits = keras.layers.Activation("linear", dtype=tf.float32, name="float32")(inner(normalize(inputs)))
        model = cls(inputs, logits, name=network.name)
        model.data_step = _replicated_variable(0, tf.int64, "data_step")
        model.lr_scale = _replicated_variable(1.0, tf.float32, "lr_scale")
        model.lr_scale_target = _replicated_variable(1.0, tf.float32, "lr_scale_target")
        model.lost_steps = _replicated_variable(0, tf.int64, "lost_steps")
        model.gradient_norm_median = _replicated_variable(np.inf, tf.float32, "gradient_norm_median")
        model.seed, model.dropout_step = seed, DropoutStep(model.data_step)
        dropouts = [layer for layer in inner._flatten_layers() if isinstance(layer, Dropout)]
        for number, layer in enumerate(dropouts):
            layer.seed, layer.step = (seed, number), model.dropout_step
        return model

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | keras.optimizers.legacy.Optimizer,
        loss: Any,
        options: StepOptions | None = None,
        **kwargs: Any,
    ) -> None:
        """Keras's `compile`, with the settings of the steps in `options`.

        Any optimizer is wrapped in a `LossScaleOptimizer`, which skips an update with a non-finite gradient on all
        replicas, slots included; the loss scale changes in float16 only.

        Args:
          optimizer: an optimizer of either of Keras's two families.
          loss: a Keras loss, or its name, for the model's only output.
          options: see `StepOptions`; its defaults if None.
          kwargs: further arguments of Keras's `compile`, such as `metrics` and `steps_per_execution`.
        """
        options = options or StepOptions()
        scales_loss = isinstance(optimizer, LossScaleOptimizer)
        if not scales_loss:
            scales_loss = keras.mixed_precision.global_policy().name == "mixed_float16"
            fixed = {} if scales_loss else {"initial_scale": 1, "dynamic_growth_steps": 2**31 - 1}
            optimizer = LossScaleOptimizer(optimizer, **fixed)
        # Without this argument Keras warns about sample weights in evaluation. Here they do apply to `metrics`.
        kwargs.setdefault("weighted_metrics", [])
        super().compile(optimizer=optimizer, loss=loss, **kwargs)
        if options.guarded:
            schedules.scale_schedule(optimizer.inner_optimizer, self.lr_scale)
        loss = keras.losses.get(loss)
        self.has_user_metrics = bool(kwargs.get("metrics") or kwargs.get("weighted_metrics"))
        self.dropout_step.parts = options.accumulate
        with self.distribute_strategy.scope():
            self.evaluation_step = EvaluationStep(self, loss, options.evaluate_flipped)
            # Keras resets metrics that are attributes of the model. Checkpoints use these names as keys.
            self._test_loss, self._test_accuracy, self._test_top_5, self._confusion, self._calibration = (
                self.evaluation_step.metrics
            )
            # The slots are made now: legacy optimizers fail if a compiled loop over several replicas has to make them.
            build = optimizer._create_all_weights if is_legacy(optimizer) else optimizer.build
            build(self.trainable_variables)
            self.layer_stats = (
                LayerStats(self.get_layer(self.name), self.trainable_variables, options.accumulate)
                if options.layer_stats_every
                else None
            )
            self.chance_loss = losses.chance_loss(loss, self.output_shape[-1])
            if options.averaging:
                averaged = [*self.trainable_variables, *moving_statistics(self)]
                self.averages = WeightAverages(averaged, options.averaging)
        self.telemetry = CallTelemetry(self.layer_stats.size if self.layer_stats else 0)
        self.steps_to_make_up = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.epoch_sums = tf.Variable(tf.zeros([3]), trainable=False)
        observer = StepObserver(self, options.histograms_every, self.layer_stats, options.layer_stats_every)
        self.training_step = TrainingStep(self, loss, options, observer, scales_loss)
        self._histograms_every = options.histograms_every

    @property
    def step(self) -> int:
        """Batches seen since the start of the run: the value of `data_step`."""
        return int(self.distribute_strategy.experimental_local_results(self.data_step)[0].numpy())

    @property
    def trained_steps(self) -> int:
        """Steps whose updates are in the weights: `step` minus the steps that rollbacks undid."""
        return self.step - int(self.distribute_strategy.experimental_local_results(self.lost_steps)[0].numpy())

    def record_rollback(self, steps: int) -> None:
        """Counts `steps` trained steps as undone; the next compiled call runs that many more."""
        self.lost_steps.assign_add(steps)
        self.steps_to_make_up.assign_add(steps)

    def scale_learning_rate(self, factor: float) -> None:
        """Sets the learning rate to `factor` (above 0) times its scheduled or constant value, from the next step on."""
        rate = schedules.learning_rate_variable(self.optimizer.inner_optimizer)
        if rate is not None:
            rate.assign(rate * factor / self.lr_scale)
        self.lr_scale.assign(factor)

    def epoch_means(self) -> dict[str, float]:
        """Mean training loss and accuracy over the steps of this epoch."""
        loss, accuracy, steps = self.epoch_sums.numpy()
        return {"loss": float(loss / steps), "accuracy": float(accuracy / steps)}

    # Telemetry of the last compiled call.

    @property
    def rows(self) -> np.ndarray:
        """One row of `step_row` for each step, float32 [steps, len(COLUMNS)]."""
        return self.telemetry.rows

    @property
    def layer_rows(self) -> np.ndarray:
        """Layer statistics of each step, float32 [steps, layer_stats.size]; NaN in steps in which they were not due."""
        return self.telemetry.layer_rows

    @property
    def histogram_step(self) -> int:
        """The step of the newest histograms; -1 before the first."""
        return self.telemetry.histogram_step

    @property
    def histograms(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """{tag: (edges, counts)} of every weight and every gradient, see `histograms.bin_counts`."""
        return self.telemetry.histograms([variable.name.split(":")[0] for variable in self.trainable_variables])

    # Evaluation.

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `evaluate`, with the averaged weights if there are any.

        Sets `confusion_matrix`, float32 [classes, classes] (rows are true classes, columns are predicted classes), and
        `scores`, see `scores.compute_scores`.
        """
        with self.evaluation_weights():
            self._keep_epoch_sums = True
            results = super().evaluate(*args, **kwargs)
        self.confusion_matrix, self.scores = self.evaluation_step.read_scores()
        return results

    def evaluation_weights(self) -> contextlib.AbstractContextManager[None]:
        """A context in which the model has the weights that `evaluate` uses: the averages, if there are any."""
        return self.evaluation_step.averaged_weights()

    def evaluation_logits(self, images: tf.Tensor) -> tf.Tensor:
        """Computes the logits, float32 [b, classes], of uint8 `images` in the same way as evaluation."""
        return self.evaluation_step.logits(images)

    # Methods that Keras calls.

    def make_train_function(self, force: bool = False) -> Any:
        if self.train_function is None or force:
            self.train_function = build_train_function(self, self._histograms_every)
        return self.train_function

    def make_test_function(self, force: bool = False) -> Any:
        if self.test_function is None or force:
            self.test_function = build_test_function(self)
        return self.test_function

    def reset_metrics(self) -> None:
        """Called at the start of an epoch or evaluation; a resumed epoch and an evaluation keep the epoch's sums."""
        super().reset_metrics()
        if not self._keep_epoch_sums:
            self.epoch_sums.assign(tf.zeros([3]))
        self._keep_epoch_sums = False

    def _maybe_load_initial_counters_from_ckpt(self, steps_per_epoch: int, initial_epoch: int) -> tuple[int, int]:
        """Keras asks this hook where to start; this is the only way to start in the middle of an epoch."""
        start, self.resume_at = self.resume_at or (initial_epoch, 0), None
        self._keep_epoch_sums = start[1] > 0
        return start


def _clone_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    if type(layer) is keras.layers.Dropout:
        return Dropout(layer.rate, layer.noise_shape, name=layer.name)
    return copy_layer(layer)


def _replicated_variable(value: float, dtype: tf.DType, name: str) -> tf.Variable:
    """Creates a variable with the same value on all replicas."""
    first = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(value, dtype=dtype, trainable=False, aggregation=first, name=name)


def _work_around_tanh_fusion(network: keras.Model) -> None:
    """Turns off, for the process, the fusion of convolution, BatchNorm and tanh in inference, if `network` has a tanh.

    TensorFlow 2.21 has no CPU kernel for the fused operation: "Fusion is not implemented: [FusedBatchNorm,Tanh]".
    """
    layers = network._flatten_layers(include_self=False)
    if any(getattr(layer, "activation", None) is keras.activations.tanh for layer in layers):
        tf.config.optimizer.set_experimental_options({"remapping": False})
