"""Starts or resumes a run and records its steps: the training process that `benchmarks.endurance.chaos` kills.

    python -m benchmarks.endurance.victim RUN STEP_FILE REPLICAS EPOCHS

After each compiled call, the process writes the step to STEP_FILE as 8 bytes, little-endian. The file survives when the
process is killed.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from evenkeel.pipeline.config import AugmentConfig, DataConfig, ShapesConfig

CHECKPOINT_EVERY_STEPS = 10
STEPS_PER_CALL = 2
STEPS_PER_EPOCH = 15


def main(run: str, step_file: str, replicas: int, epochs: int) -> int:
    """Trains, and returns the exit code that `evenkeel train` would return."""
    import tf_keras as keras

    from evenkeel.models.config import (
        AveragingConfig,
        CheckpointConfig,
        ModelConfig,
        OptimizerConfig,
        StrategyConfig,
        TrainConfig,
    )
    from evenkeel.models.run.summary import exit_code
    from evenkeel.models.train import train

    class StepRecorder(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            os.pwrite(descriptor, self.model.step.to_bytes(8, "little"), 0)

    config = TrainConfig(
        epochs=epochs,
        deterministic=True,
        precision="float32",
        guard="act",
        preflight="off",
        steps_per_execution=STEPS_PER_CALL,
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
        checkpoint=CheckpointConfig(every_steps=CHECKPOINT_EVERY_STEPS),
        strategy=StrategyConfig(name="mirrored", logical_cpus=2) if replicas == 2 else StrategyConfig(name="one"),
    )
    descriptor = os.open(step_file, os.O_WRONLY | os.O_CREAT)
    resume = os.path.exists(os.path.join(run, "config.json"))
    return exit_code(train(config, run, resume=resume, callbacks=[StepRecorder()]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
