"""Controlled replays: the same batches with one change, from the seed's initial weights or from a checkpoint.

    engine = ReplayEngine(config.strategy)
    run = engine.begin(config)
    engine.advance(run, steps=100)
    accuracy, loss = engine.validate(run)
    other = engine.begin(with_options(config, {"optimizer.learning_rate": 0.01}))

Runs take turns on compiled models. Runs that differ only in seed, learning rate or images share a model. Each run keeps
its own weights, optimizer slots and step, so any run can be continued.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import (
    StrategyConfig,
    TrainConfig,
    config_json,
    with_options,
)
from evenkeel.models.distribute import strategy
from evenkeel.models.networks import factory
from evenkeel.models.run.checkpoints import Checkpoints
from evenkeel.models.stability.rolling import BASELINE_STEPS
from evenkeel.models.stability.trace import Trace, first_loss
from evenkeel.models.telemetry import step_row
from evenkeel.models.training import build_model
from evenkeel.models.training.batches import count_steps_per_epoch
from evenkeel.models.training.snapshots import state_variables
from evenkeel.models.training.stable_model import StableModel
from evenkeel.pipeline import build, dataset
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import Dataset

MAX_COMPILED_MODELS = 8  # each model takes memory for its graphs and twice its weights
VALIDATION_IMAGES = 1000  # an accuracy of a half has a standard error of 1.6 points
EVALUATION_BATCH = 250  # images per replica and step
MAX_CACHED_BYTES = 64 * 2**20  # decoded validation images up to this size are cached
MAX_SKIPPED_UPDATES = 40  # consecutive skipped updates after which the weights will not change any more


@dataclasses.dataclass(eq=False)
class Run:
    """The state of a run, and the telemetry of its steps.

    Attributes:
      config: the run's configuration.
      data: the run's data set.
      first_step: the step that the run started from.
      step: the number of steps so far.
      state: values of all variables that training changes.
      rows: telemetry of each step, float32 [steps, len(step_row.COLUMNS)].
      layers: layer statistics of each step, float32 [steps, size].
      validated: (step, accuracy, loss) of each validation.
      correct: bool [n], whether the prediction was right for each image of the last validation.
      losses: float64 [n], the loss of each image of the last validation.
    """

    config: TrainConfig
    data: Dataset
    first_step: int
    step: int
    state: list[np.ndarray]
    rows: np.ndarray
    layers: np.ndarray
    validated: list[tuple[int, float, float]]
    correct: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, bool))
    losses: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))

    @property
    def loss(self) -> np.ndarray:
        """The loss of each step in nats, float64 [steps]."""
        return step_row.column(self.rows, "loss").astype(np.float64)

    @property
    def gradient_norm(self) -> np.ndarray:
        """The global gradient norm of each step, float64 [steps]."""
        return step_row.column(self.rows, "gradient_norm").astype(np.float64)


@dataclasses.dataclass(eq=False)
class _CompiledModel:
    """A compiled model that runs share.

    Attributes:
      model: the model.
      variables: the variables that training changes.
      initial_values: the initial values of `variables`.
      steps_per_call: steps in one compiled call.
      judge: compiled function from a batch to the losses, correct predictions and weights of its images.
    """

    model: StableModel
    variables: list[tf.Variable]
    initial_values: list[np.ndarray]
    steps_per_call: int
    judge: Callable[[Any], tuple[Any, Any, Any]]


class ReplayEngine:
    """Starts and continues runs on the devices of a strategy; keeps the `max_models` most recently used models."""

    def __init__(
        self,
        devices: StrategyConfig | None = None,
        max_models: int = MAX_COMPILED_MODELS,
        load_dataset: Callable[[DataConfig], Dataset] = dataset.load_dataset,
    ) -> None:
        self._max_models = max_models
        self.devices = strategy.create_strategy(devices or StrategyConfig(name="one"))
        self._models: collections.OrderedDict[str, _CompiledModel] = collections.OrderedDict()
        self._load_dataset = functools.lru_cache(maxsize=4)(load_dataset)
        self._open_batches: tuple[Run, Any] | None = None
        self._cached_evaluation_batches = functools.lru_cache(maxsize=4)(self._create_evaluation_batches)

    @property
    def replicas(self) -> int:
        return self.devices.num_replicas_in_sync

    def load_data(self, config: TrainConfig) -> Dataset:
        return self._load_dataset(without_batch_options(config.data))

    def begin(self, config: TrainConfig, checkpoint: str = "") -> Run:
        """Creates a run at its start, or at a `checkpoint` (a directory) of a run with the same variables."""
        data = self.load_data(config)
        compiled = self._compiled_model(config, data)
        model = compiled.model
        for variable, value in zip(compiled.variables, compiled.initial_values, strict=True):
            variable.assign(value)
        if checkpoint:
            Checkpoints(os.path.dirname(checkpoint), model).restore(checkpoint)
        else:
            model.get_layer(model.name).set_weights(self._create_network(config, data).get_weights())
            model.data_step.assign(0)
        size = model.layer_stats.size if model.layer_stats else 0
        rows, layers = np.zeros((0, len(step_row.COLUMNS)), np.float32), np.zeros((0, size), np.float32)
        return Run(config, data, model.step, model.step, self._copy_values(compiled.variables), rows, layers, [])

    def advance(self, run: Run, steps: int) -> None:
        """Trains `run` for `steps` more steps; fewer if `MAX_SKIPPED_UPDATES` updates in a row were skipped.

        Unlike `fit`, it keeps the iterator over batches open: a new iterator takes as long as 10 steps of a small
        network.
        """
        compiled, batches = self._load_state(run), self._batches(run)
        model = compiled.model
        train_function, end = model.make_train_function(), run.step + steps
        with self.devices.scope():
            while run.step < end and not _is_stuck(run):
                count = min(compiled.steps_per_call, end - run.step)
                model._steps_per_execution.assign(count)
                train_function(batches)
                run.rows, run.layers = (
                    np.concatenate([run.rows, model.rows]),
                    np.concatenate([run.layers, model.layer_rows]),
                )
                run.step += count
        run.state = self._copy_values(compiled.variables)

    def validate(self, run: Run) -> tuple[float, float]:
        """Returns (accuracy, mean loss) on at most `VALIDATION_IMAGES` validation images, the same in every call."""
        run.losses, run.correct = self._judge(run, *self.evaluation_batches(run.config))
        accuracy, loss = float(run.correct.mean()), float(run.losses.mean())
        run.validated.append((run.step, accuracy, loss))
        return accuracy, loss

    def judge_training_images(self, run: Run) -> tuple[np.ndarray, np.ndarray]:
        """Returns (losses float64 [n], correct bool [n]) of at most `VALIDATION_IMAGES` training images.

        The images are not augmented, and the network is in inference mode: the results compare with those of
        `validate`.
        """
        config = without_batch_options(run.config.data)
        return self._judge(run, *self._cached_evaluation_batches(config, of_training_images=True))

    def _judge(self, run: Run, batches: Any, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the loss, float64 [n], and the correctness, bool [n], of each image of `steps` batches."""
        compiled, local = self._load_state(run), self.devices.experimental_local_results
        parts: list[list[np.ndarray]] = []
        with compiled.model.evaluation_weights(), self.devices.scope():
            for batch in itertools.islice(batches, steps):
                judged = compiled.judge(batch)
                parts.append([np.concatenate([part.numpy() for part in local(values)]) for values in judged])
        losses, correct, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
        return losses[weights > 0].astype(np.float64), correct[weights > 0]

    def evaluation_batches(self, config: TrainConfig) -> tuple[Any, int]:
        """Returns (the batches that `validate` uses, their number)."""
        return self._cached_evaluation_batches(without_batch_options(config.data))

    def trace(self, run: Run) -> Trace:
        """The run's telemetry, for detectors."""
        model = self._compiled_model(run.config, run.data).model
        stats = model.layer_stats
        column = lambda name: step_row.column(run.rows, name).astype(np.float64)  # noqa: E731
        steps = np.arange(run.first_step, run.first_step + len(run.rows))
        due = np.isfinite(run.layers).any(axis=1)
        steps_per_epoch = count_steps_per_epoch(run.config, run.data)
        ends = np.array([step - run.first_step for step, _, _ in run.validated], np.int64)
        training_loss = [np.median(run.loss[max(0, end - BASELINE_STEPS) : end]) if end else np.nan for end in ends]
        return Trace(
            steps=steps,
            loss=run.loss,
            gradient_norm=run.gradient_norm,
            learning_rate=column("learning_rate"),
            loss_scale=column("loss_scale"),
            nonfinite=column("nonfinite"),
            warmup=round(run.config.optimizer.warmup_epochs * steps_per_epoch),
            due=steps[due],
            layers=stats.unpack(run.layers[due].astype(np.float64)) if stats and due.any() else {},
            validated=np.array([step for step, _, _ in run.validated], np.int64),
            validation_loss=np.array([loss for _, _, loss in run.validated]),
            training_loss=np.array(training_loss),
            began=first_loss(run.loss) if run.first_step == 0 and len(run.rows) else None,
            guess=model.chance_loss,
            batch=run.config.data.batch_size,
            steps_per_epoch=steps_per_epoch,
            accuracy=column("accuracy"),
        )

    def load_model(self, run: Run) -> StableModel:
        """Returns a compiled model that holds `run`'s weights until the next call of any method."""
        return self._load_state(run).model

    def initial_network(self, run: Run) -> keras.Model:
        """The network of `run` with its initial weights."""
        return self._create_network(run.config, run.data)

    def layer_names(self, run: Run) -> list[str]:
        """Names of the layers in the run's trace, from the input on."""
        stats = self._compiled_model(run.config, run.data).model.layer_stats
        return stats.groups if stats else []

    def activation_names(self, run: Run) -> list[str]:
        """Names of the layers in the run's trace that have an activation or are activation layers."""
        stats = self._compiled_model(run.config, run.data).model.layer_stats
        return stats.activations if stats else []

    def _compiled_model(self, config: TrainConfig, data: Dataset) -> _CompiledModel:
        key = _sharing_key(config, data)
        build_model.configure_process(config)
        if key in self._models:
            self._models.move_to_end(key)
            return self._models[key]
        steps_per_epoch = count_steps_per_epoch(config, data)
        # The compiled function has a learning rate of 1; `_load_state` scales it to the rate of a run's configuration.
        shared = with_options(
            config, {"optimizer.learning_rate": 1.0, "seed": 0, "histograms_every": 0, "guard": "act"}
        )
        model = build_model.create_model(shared, data, self.devices, steps_per_epoch)
        variables = state_variables(model)
        steps_per_call = int(model._steps_per_execution.numpy())
        values = self._copy_values(variables)
        judge = _make_judge(model, self.devices)
        self._models[key] = _CompiledModel(model, variables, values, steps_per_call, judge)
        while len(self._models) > self._max_models:
            self._models.popitem(last=False)
        return self._models[key]

    def _load_state(self, run: Run) -> _CompiledModel:
        """Returns the compiled model of `run`, with the run's state in the variables of the model."""
        compiled = self._compiled_model(run.config, run.data)
        for variable, value in zip(compiled.variables, run.state, strict=True):
            variable.assign(value)
        compiled.model.data_step.assign(run.step)
        compiled.model.scale_learning_rate(run.config.optimizer.learning_rate)
        compiled.model.gradient_norm_median.assign(np.inf)
        return compiled

    def _copy_values(self, variables: list[tf.Variable]) -> list[np.ndarray]:
        local = self.devices.experimental_local_results
        # np.array copies: on a CPU, .numpy() returns the variable's own memory.
        return [np.array(local(variable)[0].numpy()) for variable in variables]

    def _create_network(self, config: TrainConfig, data: Dataset) -> keras.Model:
        """Creates a network with the layer names and initial weights that `train` would give it."""
        build_model.configure_process(config)
        shape = (*config.data.image_shape, config.data.channels)
        with self.devices.scope(), fresh_layer_names():
            return factory.create_network(config.model, shape, len(data.classes))

    def _batches(self, run: Run) -> Any:
        """Returns an iterator over `run`'s next batches; it stays open while the same run advances."""
        if self._open_batches is None or self._open_batches[0] is not run:
            config = run.config.data
            shard = strategy.replica_shard(self.devices, config.batch_size)
            ds = self.devices.distribute_datasets_from_function(
                lambda _: build.training_batches(run.data, config, run.config.seed, shard, run.step)
            )
            self._open_batches = None  # frees the threads and buffers of the old iterator first
            self._open_batches = run, iter(ds)
        return self._open_batches[1]

    def _create_evaluation_batches(self, config: DataConfig, of_training_images: bool = False) -> tuple[Any, int]:
        data = self._load_dataset(config)
        index = data.train if of_training_images else data.validation
        rows = np.random.default_rng(0).permutation(len(index))[:VALIDATION_IMAGES]
        index = index.take(np.sort(rows))
        shard = strategy.replica_shard(self.devices, EVALUATION_BATCH * self.devices.num_replicas_in_sync)
        fits_in_memory = len(index) * math.prod(config.image_shape) * config.channels <= MAX_CACHED_BYTES

        def create_batches(_: tf.distribute.InputContext) -> tf.data.Dataset:
            ds = build.evaluation_batches(index, config, shard)
            return ds.cache() if fits_in_memory else ds

        ds = self.devices.distribute_datasets_from_function(create_batches)
        return ds, -(-len(index) // shard.global_batch_size)


def _make_judge(model: StableModel, devices: tf.distribute.Strategy) -> Callable[[Any], tuple[Any, Any, Any]]:
    """Compiles a function: batch -> (losses float32, correct bool, weights float32) of its images, [b] per replica."""

    def judge_on_replica(images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, ...]:
        logits = model.evaluation_step.logits(images)
        correct = tf.argmax(logits, axis=-1) == tf.cast(labels, tf.int64)
        return model.evaluation_step.losses(labels, logits), correct, weights

    return tf.function(lambda batch: devices.run(judge_on_replica, args=batch), autograph=False)


@contextlib.contextmanager
def fresh_layer_names() -> Iterator[None]:
    """Names layers as in a process without other networks; by default Keras continues to count from the last one."""
    names = keras.src.backend.get_default_graph_uid_map()
    saved_names = dict(names)
    names.clear()
    try:
        yield
    finally:
        names.clear()
        names.update(saved_names)


def _is_stuck(run: Run) -> bool:
    """Whether the last `MAX_SKIPPED_UPDATES` updates were all skipped, and no lower loss scale can help."""
    last = run.rows[-MAX_SKIPPED_UPDATES:]
    skipped = step_row.column(last, "nonfinite") > 0
    # A loss scale above 1 is still being halved.
    return len(last) == MAX_SKIPPED_UPDATES and bool(skipped.all()) and step_row.column(last, "loss_scale")[-1] <= 1


def without_batch_options(config: DataConfig) -> DataConfig:
    """Returns `config` with defaults for the options that do not affect which images are in the data set."""
    default = DataConfig()
    return dataclasses.replace(
        config, augment=default.augment, batch_size=default.batch_size, balance=default.balance, standardize=False
    )


def _sharing_key(config: TrainConfig, data: Dataset) -> str:
    """Hash of everything that runs must have in common to share a compiled model."""
    optimizer, read = config.optimizer, config.data
    timeless = optimizer.schedule == "constant" and optimizer.warmup_epochs == 0 and config.averaging.name != "swa"
    plain = DataConfig(image_size=read.image_size, channels=read.channels, standardize=read.standardize)
    shared = dataclasses.replace(
        config,
        seed=0,
        guard="act",
        histograms_every=0,
        epochs=1 if timeless else config.epochs,
        optimizer=dataclasses.replace(optimizer, learning_rate=1.0),
        data=dataclasses.replace(plain, batch_size=read.batch_size),
    )
    steps = 0 if timeless else count_steps_per_epoch(config, data)
    counts = data.class_counts.tolist() if config.class_weights == "balanced" else len(data.classes)
    return hashlib.sha256(f"{config_json(shared)} {data.mean} {data.std} {counts} {steps}".encode()).hexdigest()
