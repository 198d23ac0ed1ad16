"""One resnet9 trained as it is and under every kind of observation: what `benchmarks.speed.observe` compares.

    cases = trainings(steps=100, directory="/tmp/events")
    cases["plain"]()

Without flags, so that the stability suite can measure them as well.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

BATCH, SIDE, CLASSES, WIDTH = 128, 32, 10, 32
PER_CALL = 20  # steps in a compiled call, for all


def trainings(steps: int, directory: str) -> dict[str, Callable[[], object]]:
    """{case: trains a turn of `PER_CALL` steps}, histograms every `steps`; event files go under `directory`."""
    import numpy as np
    import tensorflow as tf
    import tf_keras as keras

    from evenkeel.models.distribute.strategy import precision
    from evenkeel.models.networks.resnet import resnet9
    from evenkeel.models.optim.losses import Crossentropy
    from evenkeel.models.stability.guard import StabilityGuard
    from evenkeel.models.telemetry.tensorboard import TensorBoard
    from evenkeel.models.training.build_model import WATCH_EVERY
    from evenkeel.models.training.stable_model import StableModel

    keras.mixed_precision.set_global_policy(precision("auto"))
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8)
    labels = random.integers(0, CLASSES, BATCH)
    batches = tf.data.Dataset.from_tensors((images, labels)).repeat()

    def stable() -> StableModel:
        return StableModel.wrap(resnet9((SIDE, SIDE, 3), CLASSES, WIDTH), [127.5] * 3, [73.9] * 3)

    def plain_keras() -> keras.Model:
        of = stable()
        model = keras.Model(of.inputs, of.outputs)
        model.compile(optimizer(), Crossentropy(), metrics=["accuracy"], steps_per_execution=PER_CALL)
        return model

    def optimizer() -> keras.optimizers.Optimizer:
        return keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True, jit_compile=False)

    def training(model: keras.Model, *callbacks: keras.callbacks.Callback) -> Callable[[], object]:
        epochs = itertools.count()

        def turn() -> None:
            epoch = next(epochs)
            fit = {"steps_per_epoch": PER_CALL, "initial_epoch": epoch, "epochs": epoch + 1, "verbose": 0}
            model.fit(batches, callbacks=list(callbacks), **fit)

        return turn

    def watched(name: str, *callbacks: keras.callbacks.Callback, **options) -> Callable[[], object]:
        model = stable()
        model.compile(optimizer(), Crossentropy(), histograms_every=steps, steps_per_execution=PER_CALL, **options)
        return training(model, TensorBoard(os.path.join(directory, name), BATCH, map(str, range(CLASSES))), *callbacks)

    theirs = keras.callbacks.TensorBoard(
        os.path.join(directory, "keras"), histogram_freq=steps // PER_CALL, update_freq=PER_CALL
    )
    return {
        "plain": training(plain_keras()),
        "observed": watched("observed"),
        "guarded": watched("guarded", StabilityGuard(act=True), watch_every=WATCH_EVERY, guarded=True),
        "keras_tensorboard": training(plain_keras(), theirs),
    }
