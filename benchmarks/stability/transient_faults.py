"""Injects transient faults into a running `fit` for some steps. The guard does not know of them.

    injection = multiply_learning_rate(first_step=140, steps=20, seed=0, factor=100.0)
    training = injection.transform_dataset(training, model.step, classes=10)
    model.fit(training, callbacks=[*injection.callbacks, StabilityGuard(act=True)], ...)    # in this order

`StableModel.data_step`, the number of batches read, counts the steps of a fault. A rollback does not decrease it, so
the fault does not return after a rollback. The injections work on one device, with a model that has not been trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.optim.schedules import ScaledSchedule
from evenkeel.models.training.stable_model import StableModel

Batch = tuple[tf.Tensor, tf.Tensor]
BatchCorruption = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, int], Batch]  # (images, labels, key int32 [2], classes)
WeightCorruption = Callable[[StableModel, np.random.Generator], Any]


def keep_dataset(training: tf.data.Dataset, start_step: int, classes: int) -> tf.data.Dataset:
    return training


@dataclasses.dataclass(frozen=True)
class Injection:
    """A fault that is active for `steps` steps, starting at `first_step`.

    Attributes:
      first_step: the first faulty step.
      steps: number of faulty steps.
      transform_dataset: function of (training batches, step of the first batch, number of classes) that returns the
        batches to train on.
      callbacks: callbacks for `fit`, which must come before the callback of the guard.
    """

    first_step: int
    steps: int
    transform_dataset: Callable[[tf.data.Dataset, int, int], tf.data.Dataset] = keep_dataset
    callbacks: tuple[keras.callbacks.Callback, ...] = ()


# Faults.


def corrupt_batches(first_step: int, steps: int, seed: int, corrupt: BatchCorruption) -> Injection:
    """Replaces each batch of the faulty steps by the result of `corrupt`."""

    def transform_dataset(training: tf.data.Dataset, start_step: int, classes: int) -> tf.data.Dataset:
        def corrupt_if_active(step: tf.Tensor, batch: Batch) -> Batch:
            key = tf.stack([seed, tf.cast(step, tf.int32)])
            return tf.cond(_is_active(step, first_step, steps), lambda: corrupt(*batch, key, classes), lambda: batch)

        return training.enumerate(start_step).map(corrupt_if_active)

    return Injection(first_step, steps, transform_dataset)


def multiply_learning_rate(first_step: int, steps: int, seed: int, factor: float) -> Injection:
    """Multiplies the learning rate by `factor`, in addition to the schedule and the factor of the guard."""
    return Injection(first_step, steps, callbacks=(_LearningRateCallback(first_step, steps, factor),))


def multiply_pixels(first_step: int, steps: int, seed: int, factor: float, images: int | None = None) -> Injection:
    """Multiplies the normalized pixels of the first `images` images of a batch (None: of all images) by `factor`.

    The factor may be NaN or infinite.
    """
    return Injection(first_step, steps, callbacks=(_PixelsCallback(first_step, steps, factor, images),))


def corrupt_weights(first_step: int, steps: int, seed: int, corrupt: WeightCorruption) -> Injection:
    """Calls `corrupt` once, before the first compiled call that starts at `first_step` or later."""
    return Injection(first_step, steps, callbacks=(_WeightsCallback(first_step, seed, corrupt),))


# Corruptions of batches.


def replace_by_outliers(images: tf.Tensor, labels: tf.Tensor, key: tf.Tensor, classes: int) -> Batch:
    """Replaces the images by noise, black and white, in turn."""
    noise = tf.cast(tf.random.stateless_uniform(tf.shape(images), key, 0, 256, tf.int32), tf.uint8)
    kinds = tf.stack([noise, tf.zeros_like(images), tf.fill(tf.shape(images), tf.constant(255, tf.uint8))])
    kind = tf.range(tf.shape(images)[0]) % 3
    return tf.ensure_shape(tf.gather(tf.transpose(kinds, [1, 0, 2, 3, 4]), kind, batch_dims=1), images.shape), labels


def replace_labels(images: tf.Tensor, labels: tf.Tensor, key: tf.Tensor, classes: int) -> Batch:
    """Replaces every label by a random wrong label."""
    shift = tf.random.stateless_uniform(tf.shape(labels), key, 1, classes, tf.int32)
    return images, (labels + tf.cast(shift, labels.dtype)) % classes


# Corruptions of weights.


def negate_logits(model: StableModel, rng: np.random.Generator) -> None:
    """Multiplies the kernel of the logits by -100."""
    kernel = _kernels(model)[-1]
    kernel.assign(-100.0 * kernel)


def flip_bits(model: StableModel, rng: np.random.Generator) -> None:
    """Flips one bit in every thousandth weight of each kernel, and in at least one weight."""
    for kernel in _kernels(model):
        bits = kernel.numpy().copy().view(np.uint32).reshape(-1)
        positions = rng.choice(bits.size, max(1, bits.size // 1000), replace=False)
        bits[positions] ^= np.uint32(1) << rng.integers(0, 32, len(positions)).astype(np.uint32)
        kernel.assign(bits.view(np.float32).reshape(kernel.shape))


def _kernels(model: StableModel) -> list[tf.Variable]:
    return [variable for variable in model.trainable_variables if "kernel" in variable.name]


# Callbacks.


def _is_active(step: tf.Tensor, first_step: int, steps: int) -> tf.Tensor:
    return (step >= first_step) & (step < first_step + steps)


class _LearningRateCallback(keras.callbacks.Callback):
    def __init__(self, first_step: int, steps: int, factor: float) -> None:
        super().__init__()
        self._first_step, self._steps, self._factor = first_step, steps, factor

    def on_train_begin(self, logs: Any = None) -> None:
        optimizer = self.model.optimizer.inner_optimizer
        # This wraps the schedule that the guard scales, so the learning rate is multiplied by both the guard's
        # factor and the fault's factor.
        optimizer._learning_rate = _TransientSchedule(
            optimizer._learning_rate, self.model, self._first_step, self._steps, self._factor
        )


class _TransientSchedule(ScaledSchedule):
    """A schedule that multiplies the learning rate by `factor` while the fault is active."""

    def __init__(self, schedule: Any, model: StableModel, first_step: int, steps: int, factor: float) -> None:
        super().__init__(schedule, tf.Variable(factor, trainable=False))
        self._model, self._first_step, self._steps = model, first_step, steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        active = _is_active(self._model.data_step, self._first_step, self._steps)
        return self.schedule(step) * tf.where(active, tf.cast(self.factor, tf.float32), 1.0)


class _PixelsCallback(keras.callbacks.Callback):
    def __init__(self, first_step: int, steps: int, factor: float, images: int | None) -> None:
        super().__init__()
        self._first_step, self._steps, self._factor, self._images = first_step, steps, factor, images

    def on_train_begin(self, logs: Any = None) -> None:
        """Wraps the normalization layer, because only its output can be NaN or infinite: pixels are integers before."""
        model, layer = self.model, self.model.get_layer("normalize")
        normalize, original_forward_backward = layer.call, model.training_step.forward_backward

        def normalize_and_multiply(images: tf.Tensor) -> tf.Tensor:
            x = normalize(images)
            selected = tf.range(tf.shape(x)[0]) < (tf.shape(x)[0] if self._images is None else self._images)
            active = _is_active(model.data_step, self._first_step, self._steps) & selected
            return tf.where(active[:, None, None, None], x * tf.cast(self._factor, x.dtype), x)

        def forward_backward(*args: Any) -> Any:
            # The layer is wrapped only while the training step is traced, so that validation images stay unchanged.
            layer.call = normalize_and_multiply
            try:
                return original_forward_backward(*args)
            finally:
                layer.call = normalize

        model.training_step.forward_backward = forward_backward


class _WeightsCallback(keras.callbacks.Callback):
    """Corrupts the weights once.

    Attributes:
      corrupted_step: the step before which the weights were corrupted; -1 until then.
    """

    def __init__(self, first_step: int, seed: int, corrupt: WeightCorruption) -> None:
        super().__init__()
        self._first_step, self._seed, self._corrupt, self.corrupted_step = first_step, seed, corrupt, -1

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.corrupted_step < 0 and self.model.step >= self._first_step:
            self.corrupted_step = self.model.step
            self._corrupt(self.model, np.random.default_rng(self._seed))
