"""A network trained on a GPU in every way that `benchmarks.speed.gpu` compares; without flags.

cases = trainings(DataConfig(image_size=224, batch_size=256), ModelConfig(name="resnet50"), "/tmp/events")
results = measured(interleaved(cases, rounds=9), batch=256)
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
PER_CALL, STEPS = 20, 100  # steps in a compiled call, and in a turn: as many as from one histogram to the next


def trainings(data: DataConfig, model: ModelConfig, directory: str) -> dict[str, Callable[[], object]]:
    """{case: trains a turn of `STEPS`}; event files go under `directory`."""
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
            steps_per_execution=PER_CALL,
        )
        name = precision.removeprefix("mixed_")
        cases[f"{name}/plain"] = _training(dataclasses.replace(config, xla="off"))
        cases[f"{name}/xla"] = _training(dataclasses.replace(config, xla="on"))
        cases[f"{name}/whole"] = _training(dataclasses.replace(config, xla="off"), whole=True)
        cases[f"{name}/watched"] = _training(
            dataclasses.replace(config, xla="on", guard="watch", histograms_every=STEPS), os.path.join(directory, name)
        )
    config = dataclasses.replace(config, xla="on", precision=PRECISIONS[0])
    return {**cases, "bfloat16/held": _steps(config, held=True), "bfloat16/fed": _steps(config, held=False)}


def _training(config: TrainConfig, board: str = "", whole: bool = False) -> Callable[[], object]:
    """A turn of `fit` on one batch: watched where there is a `board`, with `whole` one compiled function of Keras's."""
    from evenkeel.models.stability.guard import StabilityGuard
    from evenkeel.models.telemetry.incidents import Incidents
    from evenkeel.models.telemetry.tensorboard import TensorBoard

    model, batches = _made(config)
    batches, done = _held(batches), 0
    if whole:
        model = _whole(model, config)
    callbacks: list[keras.callbacks.Callback] = []
    if board:
        callbacks = [StabilityGuard(False, Incidents()), TensorBoard(board, config.data.batch_size, ("0", "1"))]

    def turn() -> None:
        nonlocal done
        done += 1
        fit = {"steps_per_epoch": STEPS, "initial_epoch": done - 1, "epochs": done, "verbose": 0}
        model.fit(batches, callbacks=callbacks, **fit)

    return turn


def _steps(config: TrainConfig, held: bool) -> Callable[[], object]:
    """A turn of steps and nothing else."""
    model, batches = _made(config)
    iterator, steps = iter(_held(batches) if held else batches), model.make_train_function()

    def turn() -> None:
        for _ in range(STEPS // PER_CALL):
            steps(iterator)
        model.rows  # noqa: B018  waits for the device

    return turn


def _made(config: TrainConfig) -> tuple[keras.Model, tf.data.Dataset]:
    """The model that `tools.train` would make, and its batches."""
    from evenkeel.models import train as training
    from evenkeel.models.distribute import strategy
    from evenkeel.models.training import build_model
    from evenkeel.pipeline.dataset import load_dataset

    build_model.set_up(config)
    devices, data = strategy.create(config.strategy), load_dataset(config.data)
    share = strategy.share(devices, config.data.batch_size)
    batches, _ = training.batches(config, data, devices, share, start_step=0)
    return build_model.create_model(config, data, devices, STEPS), batches


def _held(batches: tf.data.Dataset) -> tf.data.Dataset:
    """The first batch again and again."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensors(next(iter(batches))).repeat()


def _whole(model: keras.Model, config: TrainConfig) -> keras.Model:
    """A plain Keras model of the same network, its step compiled in one."""
    import tf_keras as keras

    from evenkeel.models.optim import losses, optimizers

    plain = keras.Model(model.inputs, model.outputs)
    optimizer = optimizers.create(config.optimizer, config.optimizer.learning_rate, plain.trainable_variables)
    if config.precision == "mixed_float16":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    loss = losses.create(config.loss, config.label_smoothing, config.focal_gamma)
    plain.compile(optimizer, loss, steps_per_execution=PER_CALL, jit_compile=True)
    return plain


def measured(samples: Mapping[str, Sequence[Sample]], batch: int) -> list[Result]:
    """Throughput of each case; what watching adds, and the share of the throughput that is left when fed from files."""
    wall = {name: [sample.wall_seconds for sample in of] for name, of in samples.items()}
    found = [
        Result("gpu", name, "images_per_second", "1/s", "higher", tuple(STEPS * batch / seconds for seconds in of))
        for name, of in wall.items()
    ]
    for case, of in wall.items():
        precision, name = case.split("/")
        if name == "watched":
            added = tuple(a / b - 1 for a, b in zip(of, wall[f"{precision}/xla"], strict=True))
            found.append(Result("gpu", case, "added_wall_fraction", "1", "lower", added))
        if name == "fed":
            left = tuple(b / a for a, b in zip(of, wall[f"{precision}/held"], strict=True))
            found.append(Result("gpu", case, "throughput_share", "1", "higher", left))
    return found
