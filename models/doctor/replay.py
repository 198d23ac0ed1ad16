"""Controlled replay: the same batches under one change, from the seed's weights or from a checkpoint.

    bench = Bench(config.strategy)
    run = bench.begin(config)
    bench.advance(run, steps=100)
    accuracy, loss = bench.validate(run)
    other = bench.begin(changed(config, {"optimizer.learning_rate": 0.01}))

Runs take turns on compiled models: those that differ in seed, learning rate or images alone share one, and each keeps
its own weights, slots and step, so that any of them can be gone on with.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models import train as training
from evenkeel.models.config import (
    StrategyConfig,
    TrainConfig,
    config_json,
    from_dict,
    to_dict,
)
from evenkeel.models.distribute import strategy
from evenkeel.models.networks import factory as network
from evenkeel.models.stability.detectors import WINDOW, Trace, first_loss
from evenkeel.models.telemetry import step_row
from evenkeel.models.training import build_model
from evenkeel.models.training.checkpoints import Checkpoints
from evenkeel.models.training.snapshots import changing
from evenkeel.models.training.stable_model import StableModel
from evenkeel.pipeline import build, dataset
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.errors import require

MODELS = 8  # compiled ones that are kept: each holds its weights twice, and its graphs
VALIDATED = 1000  # images: an accuracy of a half is known to 1.6 points
EVALUATED = 250  # images of a replica and step
HELD = 64 * 2**20  # bytes of decoded images up to which these are kept
HOPELESS = 40  # updates skipped in a row: the weights do not change any more


def changed(config: TrainConfig, flags: dict[str, Any]) -> TrainConfig:
    """`config` with the options `flags`, by their dotted names.

    Raises:
      UsageError: there is no such option, or its value is a bad one.
    """
    values = to_dict(config)
    for name, value in flags.items():
        *groups, last = name.split(".")
        group = values
        for each in groups:
            group = group.setdefault(each, {})
            require(isinstance(group, dict), f"{name} is no option: {each} has none of its own.")
        group[last] = value
    return from_dict(TrainConfig, values)


@dataclasses.dataclass(eq=False)
class Run:
    """A configuration on its way: what it has become after `step` steps, and what these left behind.

    `rows` are float32 [steps, len(telemetry.ROW)], `layers` [steps, size of the model's probe].
    """

    config: TrainConfig
    data: Dataset
    first_step: int
    step: int
    state: list[np.ndarray]
    rows: np.ndarray
    layers: np.ndarray
    validated: list[tuple[int, float, float]]  # step, accuracy, loss

    @property
    def loss(self) -> np.ndarray:
        return step_row.column(self.rows, "loss").astype(np.float64)

    @property
    def gradient_norm(self) -> np.ndarray:
        return step_row.column(self.rows, "gradient_norm").astype(np.float64)


@dataclasses.dataclass(eq=False)
class _Compiled:
    model: StableModel
    variables: list[tf.Variable]
    start: list[np.ndarray]
    steps_per_call: int


class Bench:
    """Makes runs and goes on with them, on the devices of a strategy; keeps the `models` compiled last."""

    def __init__(self, devices: StrategyConfig | None = None, models: int = MODELS) -> None:
        self._kept = models
        self.devices = strategy.create(devices or StrategyConfig(name="one"))
        self._models: collections.OrderedDict[str, _Compiled] = collections.OrderedDict()
        self._data = functools.lru_cache(maxsize=4)(dataset.load_dataset)
        self._open: tuple[Run, Any] | None = None
        self._evaluation = functools.lru_cache(maxsize=4)(self._evaluation_batches)

    def data_of(self, config: TrainConfig) -> Dataset:
        return self._data(_as_read(config.data))

    def begin(self, config: TrainConfig, checkpoint: str = "") -> Run:
        """A run at its start, or as the `checkpoint` (a directory) of a run with the same variables left it."""
        data = self.data_of(config)
        compiled = self._compiled(config, data)
        model = compiled.model
        for variable, value in zip(compiled.variables, compiled.start, strict=True):
            variable.assign(value)
        if checkpoint:
            Checkpoints(os.path.dirname(checkpoint), model).restore(checkpoint)
        else:
            model.get_layer(model.name).set_weights(self._fresh(config, data).get_weights())
            model.data_step.assign(0)
        size = model.probe.size if model.probe else 0
        nothing = np.zeros((0, len(step_row.ROW)), np.float32), np.zeros((0, size), np.float32)
        return Run(config, data, model.step, model.step, self._values(compiled.variables), *nothing, [])

    def advance(self, run: Run, steps: int) -> None:
        """Trains `run` for so many steps more; fewer where every update of many in a row was skipped.

        As `fit` does, but on batches that stay open: to make them anew takes as long as 10 steps of a small network.
        """
        compiled, batches = self._placed(run), self._batches(run)
        model = compiled.model
        call, end = model.make_train_function(), run.step + steps
        with self.devices.scope():
            while run.step < end and not _hopeless(run):
                count = min(compiled.steps_per_call, end - run.step)
                model._steps_per_execution.assign(count)
                call(batches)
                run.rows, run.layers = (
                    np.concatenate([run.rows, model.rows]),
                    np.concatenate([run.layers, model.layers_rows]),
                )
                run.step += count
        run.state = self._values(compiled.variables)

    def validate(self, run: Run) -> tuple[float, float]:
        """(accuracy, mean loss) on up to `VALIDATED` validation images, drawn once."""
        model = self._placed(run).model
        batches, steps = self.evaluation(run.config)
        results = training.evaluate(model, batches, steps)
        run.validated.append((run.step, results["accuracy"], results["loss"]))
        return results["accuracy"], results["loss"]

    def evaluation(self, config: TrainConfig) -> tuple[Any, int]:
        """The batches of those images, and how many there are."""
        return self._evaluation(_as_read(config.data))

    def trace(self, run: Run) -> Trace:
        """The run's telemetry as `detectors` want it."""
        model = self._compiled(run.config, run.data).model
        probe = model.probe
        column = lambda name: step_row.column(run.rows, name).astype(np.float64)  # noqa: E731
        steps = np.arange(run.first_step, run.first_step + len(run.rows))
        due = np.isfinite(run.layers).any(axis=1)
        per_epoch = training.steps_in_epoch(run.config, run.data)
        at = np.array([step - run.first_step for step, _, _ in run.validated], np.int64)
        before = [np.median(run.loss[max(0, end - WINDOW) : end]) if end else np.nan for end in at]
        return Trace(
            steps=steps,
            loss=run.loss,
            gradient_norm=run.gradient_norm,
            learning_rate=column("learning_rate"),
            loss_scale=column("loss_scale"),
            nonfinite=column("nonfinite"),
            warmup=round(run.config.optimizer.warmup_epochs * per_epoch),
            due=steps[due],
            layers=probe.read(run.layers[due].astype(np.float64)) if probe and due.any() else {},
            validated=np.array([step for step, _, _ in run.validated], np.int64),
            validation_loss=np.array([loss for _, _, loss in run.validated]),
            training_loss=np.array(before),
            began=first_loss(run.loss) if run.first_step == 0 and len(run.rows) else None,
            guess=model.guess,
        )

    def model(self, run: Run) -> StableModel:
        """A compiled model with `run`'s weights in it, until the next call."""
        return self._placed(run).model

    def network(self, run: Run) -> keras.Model:
        """The network of `run` with the weights that it began with."""
        return self._fresh(run.config, run.data)

    def places(self, run: Run) -> list[str]:
        """The layers that its telemetry is of, from the input on."""
        probe = self._compiled(run.config, run.data).model.probe
        return probe.groups if probe else []

    def activations(self, run: Run) -> list[str]:
        """Those of them that have an activation, or are one."""
        probe = self._compiled(run.config, run.data).model.probe
        return probe.activations if probe else []

    @property
    def replicas(self) -> int:
        return self.devices.num_replicas_in_sync

    # What is shared.

    def _compiled(self, config: TrainConfig, data: Dataset) -> _Compiled:
        key = _key(config, data)
        if key in self._models:
            self._models.move_to_end(key)
            build_model.set_up(config)
            return self._models[key]
        build_model.set_up(config)
        per_epoch = training.steps_in_epoch(config, data)
        # The rate is 1 in the compiled function, and scaled to what a run's configuration says.
        plain = changed(config, {"optimizer.learning_rate": 1.0, "seed": 0, "histograms_every": 0, "guard": "act"})
        model = build_model.create_model(plain, data, self.devices, per_epoch)
        variables = changing(model)
        at_once = int(model._steps_per_execution.numpy())
        self._models[key] = _Compiled(model, variables, self._values(variables), at_once)
        while len(self._models) > self._kept:
            self._models.popitem(last=False)
        return self._models[key]

    def _placed(self, run: Run) -> _Compiled:
        compiled = self._compiled(run.config, run.data)
        for variable, value in zip(compiled.variables, run.state, strict=True):
            variable.assign(value)
        compiled.model.data_step.assign(run.step)
        compiled.model.scale_rate(run.config.optimizer.learning_rate)
        compiled.model.usual_norm.assign(np.inf)
        return compiled

    def _values(self, variables: list[tf.Variable]) -> list[np.ndarray]:
        local = self.devices.experimental_local_results
        # Copies: on a CPU, what .numpy() gives is the variable's own memory.
        return [np.array(local(variable)[0].numpy()) for variable in variables]

    def _fresh(self, config: TrainConfig, data: Dataset) -> keras.Model:
        """The network, and the weights, that `train` would begin with."""
        build_model.set_up(config)
        size, channels = config.data.image_size, config.data.channels
        with self.devices.scope(), named_anew():
            return network.create(config.model, (size, size, channels), len(data.classes))

    def _batches(self, run: Run) -> Any:
        """An iterator over what `run` is to see next: of the run that was gone on with last, the one it has."""
        if self._open is None or self._open[0] is not run:
            config = run.config.data
            share = strategy.share(self.devices, config.batch_size)
            ds = self.devices.distribute_datasets_from_function(
                lambda _: build.training_batches(run.data, config, run.config.seed, share, run.step)
            )
            self._open = None  # before another one is made: each has threads and buffers
            self._open = run, iter(ds)
        return self._open[1]

    def _evaluation_batches(self, config: DataConfig) -> tuple[Any, int]:
        data = self._data(config)
        rows = np.random.default_rng(0).permutation(len(data.validation))[:VALIDATED]
        index = data.validation.take(np.sort(rows))
        share = strategy.share(self.devices, EVALUATED * self.devices.num_replicas_in_sync)
        small = len(index) * config.image_size**2 * config.channels <= HELD

        def batches(_: tf.distribute.InputContext) -> tf.data.Dataset:
            ds = build.evaluation_batches(index, config, share)
            return ds.cache() if small else ds

        ds = self.devices.distribute_datasets_from_function(batches)
        return ds, -(-len(index) // share.global_batch_size)


def _hopeless(run: Run) -> bool:
    """Whether so many updates in a row were skipped, in calls of many steps, that the next ones will be as well."""
    last = run.rows[-HOPELESS:]
    skipped = step_row.column(last, "nonfinite") > 0
    # A loss scale above 1 is still on its way down.
    return len(last) == HOPELESS and bool(skipped.all()) and step_row.column(last, "loss_scale")[-1] <= 1


@contextlib.contextmanager
def named_anew() -> Iterator[None]:
    """Layers are named as in a process that makes no other network: Keras counts on from the last one."""
    names = keras.src.backend.get_default_graph_uid_map()
    before = dict(names)
    names.clear()
    try:
        yield
    finally:
        names.clear()
        names.update(before)


def _as_read(config: DataConfig) -> DataConfig:
    """Without what does not matter to which images there are."""
    plain = DataConfig()
    return dataclasses.replace(
        config, augment=plain.augment, batch_size=plain.batch_size, balance=plain.balance, standardize=False
    )


def _key(config: TrainConfig, data: Dataset) -> str:
    """What two runs must have in common to share a compiled model."""
    rate = config.optimizer
    timeless = rate.schedule == "constant" and rate.warmup_epochs == 0 and config.averaging.name != "swa"
    read = config.data
    plain = DataConfig(image_size=read.image_size, channels=read.channels, standardize=read.standardize)
    same = dataclasses.replace(
        config,
        seed=0,
        guard="act",
        histograms_every=0,
        epochs=1 if timeless else config.epochs,
        optimizer=dataclasses.replace(rate, learning_rate=1.0),
        data=dataclasses.replace(plain, batch_size=read.batch_size),
    )
    steps = 0 if timeless else training.steps_in_epoch(config, data)
    counts = data.class_counts.tolist() if config.class_weights == "balanced" else len(data.classes)
    return hashlib.sha256(f"{config_json(same)} {data.mean} {data.std} {counts} {steps}".encode()).hexdigest()
