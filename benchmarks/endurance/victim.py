"""A life of the run that `benchmarks.endurance.chaos` kills: trains, or goes on, and tells its step after each call.

    python -m benchmarks.endurance.victim RUN TOLD REPLICAS EPOCHS

TOLD is a file that holds the step as 8 bytes, little end first: what is written there outlives the writer.
"""

from __future__ import annotations

import os
import sys
import unittest.mock
from typing import Any

EVERY = 10  # steps between checkpoints
PER_CALL = 2
STEPS_PER_EPOCH = 15


def main(run: str, told: str, replicas: int, epochs: int) -> int:
    """The exit code that tools.train has."""
    from evenkeel.models import callbacks, train
    from evenkeel.models.config import (
        AveragingConfig,
        CheckpointConfig,
        ModelConfig,
        OptimizerConfig,
        StrategyConfig,
        TrainConfig,
    )
    from evenkeel.models.telemetry.progress import Progress
    from evenkeel.models.training.summary import exit_code
    from evenkeel.pipeline.config import AugmentConfig, DataConfig, ShapesConfig

    class Telling(Progress):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            super().on_train_batch_end(batch, logs)
            os.pwrite(out, self.model.step.to_bytes(8, "little"), 0)

    config = TrainConfig(
        epochs=epochs,
        deterministic=True,
        precision="float32",
        guard="act",
        preflight="off",
        steps_per_execution=PER_CALL,
        histograms_every=50,
        data=DataConfig(
            image_size=16,
            batch_size=20,
            shapes=ShapesConfig(size=16, count=300),
            augment=AugmentConfig(flip=0.5, pad_crop=2, brightness=0.1),
        ),
        model=ModelConfig(name="cnn", width=4, dropout=0.2),
        optimizer=OptimizerConfig(name="adam", learning_rate=0.003),
        averaging=AveragingConfig("ema", decay=0.99),
        checkpoint=CheckpointConfig(every_steps=EVERY),
        strategy=StrategyConfig(name="mirrored", logical_cpus=2) if replicas == 2 else StrategyConfig(name="one"),
    )
    out = os.open(told, os.O_WRONLY | os.O_CREAT)
    resume = os.path.exists(os.path.join(run, "config.json"))
    with unittest.mock.patch.object(callbacks, "Progress", Telling):
        summary = train.train(config, run, resume=resume)
    return exit_code(summary)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
