"""Measures the time to the end of the first call of training steps in a script that does nothing else.

    python -m benchmarks.speed.bare_step '{"model": {"name": "resnet9", "width": 16}}'

The script imports TensorFlow, builds the model and compiles the training steps that `evenkeel train` would use with
this configuration, and runs two calls of these steps on a batch of random images. It has no data set, checks,
checkpoints or event files, and does not import the modules for them. It prints one line of JSON with three times since
the start: after the model was built, after the first call, and after the second call.
"""

from __future__ import annotations

import json
from typing import Any, cast

import numpy as np

from evenkeel.benchmarks import command
from evenkeel.models.config import TrainConfig, from_dict
from evenkeel.pipeline.errors import require


def main(argv: list[str]) -> int:
    require(len(argv) == 2, "the argument is missing: give one configuration as JSON.")
    config = from_dict(TrainConfig, json.loads(argv[1]))
    import tensorflow as tf

    from evenkeel.models.config import StrategyConfig
    from evenkeel.models.distribute.strategy import create_strategy
    from evenkeel.models.run.summary import time_since_start
    from evenkeel.models.training import build_model

    class Data:
        """The attributes of a data set that the model needs."""

        classes = tuple(map(str, range(10)))
        mean, std = [127.5] * 3, [64.0] * 3

    build_model.configure_process(config)
    model = build_model.create_model(
        config, cast(Any, Data()), create_strategy(StrategyConfig(name="one")), steps_per_epoch=94
    )
    size, batch = config.data.image_size, config.data.batch_size
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    batches = tf.data.Dataset.from_tensors((images, np.arange(batch) % 10)).repeat()
    times = [time_since_start()]
    for _ in range(2):
        model.fit(batches, steps_per_epoch=int(model._steps_per_execution.numpy()), epochs=1, verbose=0)
        times.append(time_since_start())
    print(json.dumps(times))
    return 0


if __name__ == "__main__":
    command.run(main, positional=True)
