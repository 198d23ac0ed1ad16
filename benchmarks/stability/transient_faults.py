"""Faults that strike a running `fit` for some steps and are gone: the harness puts them in and tells nobody.

    injection = surge(first=140, steps=20, seed=0, times=100.0)
    training = injection.dataset(training, model.step, classes=10)
    model.fit(training, callbacks=[*injection.callbacks, StabilityGuard(act=True)], ...)    # in this order

All are keyed by the number of batches seen, `StableModel.data_step`, which never goes back: after a rollback they do
not come again. One device only, and a model that has not been fitted before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.optim.schedules import Scaled
from evenkeel.models.training.stable_model import StableModel

Batch = tuple[tf.Tensor, tf.Tensor]
Spoil = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, int], Batch]  # (images, labels, key int32 [2], classes)


def untouched(training: tf.data.Dataset, start_step: int, classes: int) -> tf.data.Dataset:
    return training


@dataclasses.dataclass(frozen=True)
class Injection:
    """What happens in `steps` steps from `first` on.

    `dataset` takes the training batches, the step of the first of them and the number of classes. `callbacks` come
    before the guard's.
    """

    first: int
    steps: int
    dataset: Callable[[tf.data.Dataset, int, int], tf.data.Dataset] = untouched
    callbacks: tuple[keras.callbacks.Callback, ...] = ()


def batches(first: int, steps: int, seed: int, spoil: Spoil) -> Injection:
    """Batches as `spoil` leaves them."""

    def dataset(training: tf.data.Dataset, start_step: int, classes: int) -> tf.data.Dataset:
        def spoilt(step: tf.Tensor, batch: Batch) -> Batch:
            key = tf.stack([seed, tf.cast(step, tf.int32)])
            struck = (step >= first) & (step < first + steps)
            return tf.cond(struck, lambda: spoil(*batch, key, classes), lambda: batch)

        return training.enumerate(start_step).map(spoilt)

    return Injection(first, steps, dataset)


def outliers(images: tf.Tensor, labels: tf.Tensor, key: tf.Tensor, classes: int) -> Batch:
    """Noise, black and white in turn."""
    noise = tf.cast(tf.random.stateless_uniform(tf.shape(images), key, 0, 256, tf.int32), tf.uint8)
    kinds = tf.stack([noise, tf.zeros_like(images), tf.fill(tf.shape(images), tf.constant(255, tf.uint8))])
    which = tf.range(tf.shape(images)[0]) % 3
    return tf.ensure_shape(tf.gather(tf.transpose(kinds, [1, 0, 2, 3, 4]), which, batch_dims=1), images.shape), labels


def wrong_labels(images: tf.Tensor, labels: tf.Tensor, key: tf.Tensor, classes: int) -> Batch:
    """No label is right."""
    shift = tf.random.stateless_uniform(tf.shape(labels), key, 1, classes, tf.int32)
    return images, (labels + tf.cast(shift, labels.dtype)) % classes


def surge(first: int, steps: int, seed: int, times: float) -> Injection:
    """The learning rate is so many times what its schedule, and a guard, say."""
    return Injection(first, steps, callbacks=(_Surge(first, steps, times),))


def pixels(first: int, steps: int, seed: int, times: float, images: int | None = None) -> Injection:
    """The normalized pixels of the first `images` of a batch, or of all, times `times`: NaN and infinity too."""
    return Injection(first, steps, callbacks=(_Pixels(first, steps, times, images),))


def weights(first: int, steps: int, seed: int, corrupt: Callable[[StableModel, np.random.Generator], Any]) -> Injection:
    """`corrupt` writes to the weights once, before the first compiled call that begins at `first` or later."""
    return Injection(first, steps, callbacks=(_Weights(first, seed, corrupt),))


def larger_logits(model: StableModel, rng: np.random.Generator) -> None:
    """The kernel of the logits times -100."""
    kernel = _kernels(model)[-1]
    kernel.assign(-100.0 * kernel)


def flipped_bits(model: StableModel, rng: np.random.Generator) -> None:
    """In one weight of a thousand of each kernel, at least one of each, one bit is flipped."""
    for kernel in _kernels(model):
        bits = kernel.numpy().copy().view(np.uint32).reshape(-1)
        at = rng.choice(bits.size, max(1, bits.size // 1000), replace=False)
        bits[at] ^= np.uint32(1) << rng.integers(0, 32, len(at)).astype(np.uint32)
        kernel.assign(bits.view(np.float32).reshape(kernel.shape))


def _kernels(model: StableModel) -> list[tf.Variable]:
    return [variable for variable in model.trainable_variables if "kernel" in variable.name]


def _struck(step: tf.Tensor, first: int, steps: int) -> tf.Tensor:
    return (step >= first) & (step < first + steps)


class _Surge(keras.callbacks.Callback):
    def __init__(self, first: int, steps: int, times: float) -> None:
        super().__init__()
        self._first, self._steps, self._times = first, steps, times

    def on_train_begin(self, logs: Any = None) -> None:
        optimizer = self.model.optimizer.inner_optimizer
        # Around what a guard scales, so that its factor and this one multiply.
        optimizer._learning_rate = _Surging(optimizer._learning_rate, self.model, self._first, self._steps, self._times)


class _Surging(Scaled):
    """A schedule that is `times` itself while the model's `data_step` lies in the burst."""

    def __init__(self, schedule: Any, model: StableModel, first: int, steps: int, times: float) -> None:
        super().__init__(schedule, tf.Variable(times, trainable=False))
        self._model, self._first, self._steps = model, first, steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        struck = _struck(self._model.data_step, self._first, self._steps)
        return self.schedule(step) * tf.where(struck, tf.cast(self.factor, tf.float32), 1.0)


class _Pixels(keras.callbacks.Callback):
    def __init__(self, first: int, steps: int, times: float, images: int | None) -> None:
        super().__init__()
        self._first, self._steps, self._times, self._images = first, steps, times, images

    def on_train_begin(self, logs: Any = None) -> None:
        """Behind the normalization: before it pixels are bytes, which cannot say it."""
        model, layer = self.model, self.model.get_layer("normalize")
        normalized, forward = layer.call, model._forward_backward

        def spoilt(images: tf.Tensor) -> tf.Tensor:
            x = normalized(images)
            some = tf.range(tf.shape(x)[0]) < (tf.shape(x)[0] if self._images is None else self._images)
            struck = _struck(model.data_step, self._first, self._steps) & some
            return tf.where(struck[:, None, None, None], x * tf.cast(self._times, x.dtype), x)

        def forward_backward(*args: Any) -> Any:
            # While the training step is traced only: validation sees images as they are.
            layer.call = spoilt
            try:
                return forward(*args)
            finally:
                layer.call = normalized

        model._forward_backward = forward_backward


class _Weights(keras.callbacks.Callback):
    def __init__(self, first: int, seed: int, corrupt: Callable[[StableModel, np.random.Generator], Any]) -> None:
        super().__init__()
        self._first, self._seed, self._corrupt, self.struck_at = first, seed, corrupt, -1

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.struck_at < 0 and self.model.step >= self._first:
            self.struck_at = self.model.step
            self._corrupt(self.model, np.random.default_rng(self._seed))
