"""Builds the cases that `benchmarks.speed.observe` compares: a plain resnet9, and one with each kind of observation.

    cases = build_turns(steps=100, directory="/tmp/events")
    cases["plain"]()

This module defines no flags, so that the stability suite can measure the cases, too.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

BATCH_SIZE, SIDE, CLASSES, WIDTH = 128, 32, 10, 32
STEPS_PER_CALL = 20  # in one compiled call, in all cases


def build_turns(steps: int, directory: str) -> dict[str, Callable[[], object]]:
    """Returns {case: function that trains for `STEPS_PER_CALL` steps}, with histograms every `steps` steps.

    The event files are written below `directory`.
    """
    import numpy as np
    import tensorflow as tf
    import tf_keras as keras

    from evenkeel.models.distribute.strategy import precision_policy
    from evenkeel.models.networks.resnet import resnet9
    from evenkeel.models.optim.losses import Crossentropy
    from evenkeel.models.stability.guard import StabilityGuard
    from evenkeel.models.telemetry.tensorboard import TensorBoard
    from evenkeel.models.training.build_model import LAYER_STATS_EVERY
    from evenkeel.models.training.stable_model import StableModel
    from evenkeel.models.training.step_options import StepOptions

    keras.mixed_precision.set_global_policy(precision_policy("auto"))
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (BATCH_SIZE, SIDE, SIDE, 3), np.uint8)
    labels = random.integers(0, CLASSES, BATCH_SIZE)
    batches = tf.data.Dataset.from_tensors((images, labels)).repeat()

    def stable_model() -> StableModel:
        return StableModel.wrap(resnet9((SIDE, SIDE, 3), CLASSES, WIDTH), [127.5] * 3, [73.9] * 3)

    def plain_model() -> keras.Model:
        network = stable_model()
        model = keras.Model(network.inputs, network.outputs)
        model.compile(optimizer(), Crossentropy(), metrics=["accuracy"], steps_per_execution=STEPS_PER_CALL)
        return model

    def optimizer() -> keras.optimizers.Optimizer:
        return keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True, jit_compile=False)

    def build_turn(model: keras.Model, *callbacks: keras.callbacks.Callback) -> Callable[[], object]:
        epochs = itertools.count()

        def turn() -> None:
            epoch = next(epochs)
            fit = {"steps_per_epoch": STEPS_PER_CALL, "initial_epoch": epoch, "epochs": epoch + 1, "verbose": 0}
            model.fit(batches, callbacks=list(callbacks), **fit)

        return turn

    def build_observed_turn(name: str, *callbacks: keras.callbacks.Callback, **options) -> Callable[[], object]:
        model = stable_model()
        step_options = StepOptions(histograms_every=steps, **options)
        model.compile(optimizer(), Crossentropy(), step_options, steps_per_execution=STEPS_PER_CALL)
        return build_turn(
            model, TensorBoard(os.path.join(directory, name), BATCH_SIZE, map(str, range(CLASSES))), *callbacks
        )

    keras_callback = keras.callbacks.TensorBoard(
        os.path.join(directory, "keras"), histogram_freq=steps // STEPS_PER_CALL, update_freq=STEPS_PER_CALL
    )
    return {
        "plain": build_turn(plain_model()),
        "observed": build_observed_turn("observed"),
        "guarded": build_observed_turn(
            "guarded", StabilityGuard(act=True), layer_stats_every=LAYER_STATS_EVERY, guarded=True
        ),
        "keras_tensorboard": build_turn(plain_model(), keras_callback),
    }
