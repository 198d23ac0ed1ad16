"""Short runs of a network that is easily upset, seed after seed: a task of `peers/worker.py` for two versions.

A narrow resnet9 at a learning rate of 1, the most of 0.001, 0.003, 0.01, ... that it takes: what makes updates larger,
or gradients less right, is seen in its last loss (1.17 to 1.47 for three seeds, 1.91 to 2.30 at a rate of 3). It trains
as `tools.train` does, without what that writes.
"""

from __future__ import annotations

import itertools

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models import train as training
from evenkeel.models.config import (
    ModelConfig,
    OptimizerConfig,
    StrategyConfig,
    TrainConfig,
)
from evenkeel.models.distribute.strategy import create, share
from evenkeel.models.telemetry import step_row
from evenkeel.pipeline import build
from evenkeel.pipeline.config import AugmentConfig, DataConfig, ShapesConfig
from evenkeel.pipeline.dataset import load_dataset

STEPS, BATCH = 200, 32


class Losses(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.of_steps = np.zeros(0)

    def on_train_batch_end(self, batch, logs=None):
        self.of_steps = np.concatenate([self.of_steps, step_row.column(self.model.rows, "loss")])


def prepare(threads: int):
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    seeds, devices = itertools.count(), create(StrategyConfig(name="one"))

    def trained(seed: int) -> list[float | str]:
        """The loss of each step; NaN and infinity as strings, as JSON has no such numbers."""
        config = TrainConfig(
            epochs=1,
            seed=seed,
            precision="float32",
            xla="off",
            histograms_every=0,
            guard="off",
            data=DataConfig(
                shapes=ShapesConfig(size=32, count=STEPS * BATCH),
                batch_size=BATCH,
                augment=AugmentConfig(flip=0.5, pad_crop=2),
            ),
            model=ModelConfig(name="resnet9", width=8),
            optimizer=OptimizerConfig(name="sgd", learning_rate=1.0, warmup_epochs=0.25),
        )
        training.set_up(config)
        data = load_dataset(config.data)
        model = training.create_model(config, data, devices, STEPS)
        batches = build.training_batches(data, config.data, seed, share(devices, BATCH))
        losses = Losses()
        model.fit(batches, steps_per_epoch=STEPS, epochs=1, verbose=0, callbacks=[losses])
        return [loss if np.isfinite(loss) else str(loss) for loss in losses.of_steps.tolist()]

    def run(count: int) -> dict[str, list[float | str]]:
        """The losses of the last of `count` runs."""
        for _ in range(count):
            losses = trained(next(seeds))
        return {"losses": losses}

    return {
        "same": {"steps a run": STEPS, "images a step": BATCH},
        "images_per_step": STEPS * BATCH,
        "about": f"tensorflow {tf.__version__}, {threads} threads",
    }, run
