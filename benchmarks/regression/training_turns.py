"""Short training runs of a network that easily becomes unstable, one seed per run: a task file of `peers/worker.py`.

Trains a narrow resnet9 at a learning rate of 1, the largest of 0.001, 0.003, 0.01, ... at which this network trains.
Anything that makes updates larger, or gradients less accurate, changes the final loss (1.17 to 1.47 for three seeds,
1.91 to 2.30 at a rate of 3). The runs train as `evenkeel train` does, but write no files.
"""

from __future__ import annotations

import itertools

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import (
    ModelConfig,
    OptimizerConfig,
    StrategyConfig,
    TrainConfig,
)
from evenkeel.models.distribute.strategy import create_strategy, replica_shard
from evenkeel.models.telemetry import step_row
from evenkeel.models.training import build_model
from evenkeel.pipeline import build
from evenkeel.pipeline.config import AugmentConfig, DataConfig, ShapesConfig
from evenkeel.pipeline.dataset import load_dataset

STEPS, BATCH = 200, 32


class LossRecorder(keras.callbacks.Callback):
    """Records the loss of every step in `losses`, float [steps]."""

    def on_train_begin(self, logs=None):
        self.losses = np.zeros(0)

    def on_train_batch_end(self, batch, logs=None):
        self.losses = np.concatenate([self.losses, step_row.column(self.model.rows, "loss")])


def prepare(threads: int):
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    seeds, devices = itertools.count(), create_strategy(StrategyConfig(name="one"))

    def train_run(seed: int) -> list[float | str]:
        """Trains once and returns the loss of each step. NaN and infinity are strings, as JSON cannot hold them."""
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
        build_model.configure_process(config)
        data = load_dataset(config.data)
        model = build_model.create_model(config, data, devices, STEPS)
        batches = build.training_batches(data, config.data, seed, replica_shard(devices, BATCH))
        recorder = LossRecorder()
        model.fit(batches, steps_per_epoch=STEPS, epochs=1, verbose=0, callbacks=[recorder])
        return [loss if np.isfinite(loss) else str(loss) for loss in recorder.losses.tolist()]

    def run(count: int) -> dict[str, list[float | str]]:
        """Trains `count` runs and returns the losses of the last one."""
        for _ in range(count):
            losses = train_run(next(seeds))
        return {"losses": losses}

    return {
        "same": {"steps a run": STEPS, "images a step": BATCH},
        "images_per_step": STEPS * BATCH,
        "about": f"tensorflow {tf.__version__}, {threads} threads",
    }, run
