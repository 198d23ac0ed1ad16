"""Builds the training cases that `benchmarks.speed.gpu` compares. This module defines no flags.

cases = build_turns(DataConfig(image_size=224, batch_size=256), ModelConfig(name="resnet50"), "/tmp/events")
results = results_from_samples(measure_interleaved(cases, rounds=9), batch_size=256)
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from evenkeel.benchmarks.results import Result
from evenkeel.benchmarks.timing import Sample
from evenkeel.models.config import (
    ModelConfig,
    OptimizerConfig,
    StrategyConfig,
    TrainConfig,
)
from evenkeel.pipeline.config import DataConfig

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras as keras

PRECISIONS = ("mixed_bfloat16", "mixed_float16")
STEPS_PER_CALL = 20  # in one compiled call
STEPS_PER_TURN = 100  # equal to the number of steps between histograms


def build_turns(data: DataConfig, model: ModelConfig, directory: str) -> dict[str, Callable[[], object]]:
    """Returns {case: function that trains for `STEPS_PER_TURN` steps}; `directory` is the place for event files."""
    cases: dict[str, Callable[[], object]] = {}
    for precision in PRECISIONS:
        config = TrainConfig(
            data=data,
            model=model,
            optimizer=OptimizerConfig(learning_rate=0.01),
            strategy=StrategyConfig(name="one"),
            precision=precision,
            guard="off",
            histograms_every=0,
            steps_per_execution=STEPS_PER_CALL,
        )
        name = precision.removeprefix("mixed_")
        cases[f"{name}/plain"] = _fit_turn(dataclasses.replace(config, xla="off"))
        cases[f"{name}/xla"] = _fit_turn(dataclasses.replace(config, xla="on"))
        cases[f"{name}/whole"] = _fit_turn(dataclasses.replace(config, xla="off"), whole=True)
        cases[f"{name}/watched"] = _fit_turn(
            dataclasses.replace(config, xla="on", guard="watch", histograms_every=STEPS_PER_TURN),
            os.path.join(directory, name),
        )
    config = dataclasses.replace(config, xla="on", precision=PRECISIONS[0])
    return {
        **cases,
        "bfloat16/held": _step_turn(config, in_memory=True),
        "bfloat16/fed": _step_turn(config, in_memory=False),
    }


def _fit_turn(config: TrainConfig, event_directory: str = "", whole: bool = False) -> Callable[[], object]:
    """Returns a function that trains for one turn with `fit`, on one batch.

    If `event_directory` is given, the guard and TensorBoard observe the training. If `whole` is true, XLA compiles the
    step as one function.
    """
    from evenkeel.models.stability.guard import StabilityGuard
    from evenkeel.models.telemetry.incidents import Incidents
    from evenkeel.models.telemetry.tensorboard import TensorBoard

    model, batches = _build(config)
    batches, turns_done = _repeat_first_batch(batches), 0
    if whole:
        model = _plain_keras_model(model, config)
    callbacks: list[keras.callbacks.Callback] = []
    if event_directory:
        callbacks = [
            StabilityGuard(False, Incidents()),
            TensorBoard(event_directory, config.data.batch_size, ("0", "1")),
        ]

    def turn() -> None:
        nonlocal turns_done
        turns_done += 1
        fit = {"steps_per_epoch": STEPS_PER_TURN, "initial_epoch": turns_done - 1, "epochs": turns_done, "verbose": 0}
        model.fit(batches, callbacks=callbacks, **fit)

    return turn


def _step_turn(config: TrainConfig, in_memory: bool) -> Callable[[], object]:
    """Returns a function that runs the training steps of one turn without `fit`."""
    model, batches = _build(config)
    iterator, steps = iter(_repeat_first_batch(batches) if in_memory else batches), model.make_train_function()

    def turn() -> None:
        for _ in range(STEPS_PER_TURN // STEPS_PER_CALL):
            steps(iterator)
        model.rows  # noqa: B018  waits for the device

    return turn


def _build(config: TrainConfig) -> tuple[keras.Model, tf.data.Dataset]:
    """Builds the model and the batches that `evenkeel train` would use."""
    from evenkeel.models.distribute import strategy
    from evenkeel.models.training import build_model
    from evenkeel.models.training.batches import distribute_training
    from evenkeel.pipeline.build import training_batches
    from evenkeel.pipeline.dataset import load_dataset

    build_model.configure_process(config)
    devices, data = strategy.create_strategy(config.strategy), load_dataset(config.data)
    replica_shard = strategy.replica_shard(devices, config.data.batch_size)
    batches = training_batches(data, config.data, config.seed, replica_shard)
    return build_model.create_model(config, data, devices, STEPS_PER_TURN), distribute_training(batches, devices)


def _repeat_first_batch(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Returns a data set that repeats the first batch without end."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensors(next(iter(batches))).repeat()


def _plain_keras_model(model: keras.Model, config: TrainConfig) -> keras.Model:
    """Returns a plain Keras model of the same network. XLA compiles its whole training step as one function."""
    import tf_keras as keras

    from evenkeel.models.optim import losses, optimizers

    plain = keras.Model(model.inputs, model.outputs)
    optimizer = optimizers.create_optimizer(config.optimizer, config.optimizer.learning_rate, plain.trainable_variables)
    if config.precision == "mixed_float16":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    loss = losses.create_loss(config.loss, config.label_smoothing, config.focal_gamma)
    plain.compile(optimizer, loss, steps_per_execution=STEPS_PER_CALL, jit_compile=True)
    return plain


def results_from_samples(samples: Mapping[str, Sequence[Sample]], batch_size: int) -> list[Result]:
    """Returns the throughput of each case, the wall time that telemetry adds, and the throughput of /fed over /held."""
    wall = {name: [sample.wall_seconds for sample in case_samples] for name, case_samples in samples.items()}
    images = STEPS_PER_TURN * batch_size
    results = [
        Result("gpu", name, "images_per_second", "1/s", "higher", tuple(images / value for value in seconds))
        for name, seconds in wall.items()
    ]
    for case, seconds in wall.items():
        precision, name = case.split("/")
        if name == "watched":
            added = tuple(a / b - 1 for a, b in zip(seconds, wall[f"{precision}/xla"], strict=True))
            results.append(Result("gpu", case, "added_wall_fraction", "1", "lower", added))
        if name == "fed":
            share = tuple(b / a for a, b in zip(seconds, wall[f"{precision}/held"], strict=True))
            results.append(Result("gpu", case, "throughput_share", "1", "higher", share))
    return results
