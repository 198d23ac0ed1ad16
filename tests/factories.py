"""Networks, models, examples and strategies for tests of training.

model, rows = fit(two(), normed, steps=20)
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import OptimizerConfig, StrategyConfig
from evenkeel.models.distribute import strategy
from evenkeel.models.networks.cnn import cnn
from evenkeel.models.optim import optimizers
from evenkeel.models.optim.clipping import Clipping
from evenkeel.models.optim.losses import Crossentropy
from evenkeel.models.optim.schedules import Schedule
from evenkeel.models.telemetry.metrics import CONFIDENCE_BINS
from evenkeel.models.training.stable_model import StableModel
from evenkeel.models.training.step_options import StepOptions

layers = keras.layers


FILE = str(pathlib.Path(__file__))


def plain(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """A user's network without BatchNorm, so that several replicas compute the same as one device."""
    inputs = x = keras.Input(input_shape)
    penalty = keras.regularizers.L2(1e-3)
    x = layers.Conv2D(6, 3, 2, "same", activation="relu", kernel_regularizer=penalty, name="first")(x)
    x = layers.Conv2D(8, 3, 2, "same", activation="relu", kernel_regularizer=penalty, name="second")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(layers.Flatten()(x)), name="plain")


def normed(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """A user's network with BatchNorm and Keras's Dropout."""
    inputs = x = keras.Input(input_shape)
    x = layers.Conv2D(6, 3, 2, "same", use_bias=False, name="first")(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9, name="norm")(x))
    x = layers.Dropout(0.2, name="drop")(layers.Conv2D(8, 3, 2, "same", name="second")(x))
    return keras.Model(inputs, layers.Dense(classes, name="logits")(layers.Flatten()(x)), name="normed")


def shallow(input_shape: tuple[int, int, int], classes: int, dropout: float = 0.0) -> keras.Model:
    """The cnn with 2 convolutions instead of 6, which is built and traced in half the time."""
    return cnn(input_shape, classes, width=8, dropout=dropout, depths=(1, 1), multiples=(1, 2))


dropping = functools.partial(shallow, dropout=0.2)


CLASSES, SIZE, BATCH = 10, 8, 20


STEP_OPTIONS = dataclasses.fields(StepOptions)


Network = Callable[[tuple[int, int, int], int], keras.Model]


def examples(count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Images that a small network can learn, a pattern per class under noise; none is all white."""
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=count)
    patterns, noise = (rng.integers(0, 255, (n, SIZE, SIZE, 3)) for n in (CLASSES, count))
    return ((patterns[labels] + noise) // 2).astype(np.uint8), labels


IMAGES, LABELS = examples()


def one() -> tf.distribute.Strategy:
    return strategy.create_strategy(StrategyConfig(name="one"))


def two() -> tf.distribute.Strategy:
    """Two replicas on the logical CPUs."""
    return strategy.create_strategy(StrategyConfig(name="mirrored", logical_cpus=2))


def batches(devices: tf.distribute.Strategy, images: np.ndarray, labels: np.ndarray, batch: int = BATCH) -> Any:
    """The examples in order, for ever, fed to each replica as the pipeline feeds them."""
    replica_shard = strategy.replica_shard(devices, batch)
    dataset = (
        tf.data.Dataset.from_tensor_slices((images, labels))
        .batch(replica_shard.batch_size, drop_remainder=True)
        .repeat()
    )
    return devices.distribute_datasets_from_function(lambda _: dataset)


class Rows(keras.callbacks.Callback):
    """Keeps the row of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[np.ndarray] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.blocks.append(self.model.rows)


def compiled(
    devices: tf.distribute.Strategy,
    network: Network = plain,
    config: OptimizerConfig | None = None,
    policy: str = "float32",
    per_call: int = 5,
    wrapped: Callable[[Any], Any] = lambda optimizer: optimizer,
    **options: Any,
) -> StableModel:
    """A model with the same first weights every time; `options` are of `StepOptions` or `compile`."""
    config = config or OptimizerConfig(learning_rate=0.05, schedule="constant")
    keras.mixed_precision.set_global_policy(policy)
    keras.utils.set_random_seed(1)
    with devices.scope():
        model = StableModel.wrap(network((SIZE, SIZE, 3), CLASSES), [127.5] * 3, [74.0] * 3, seed=1)
        rate = Schedule(config, BATCH, steps_per_epoch=20, epochs=1)
        optimizer = optimizers.create_optimizer(config, rate, model.trainable_variables)
        options = {"clipping": Clipping(norm=config.clip_norm), "accumulate": config.accumulate, **options}
        ours = {field.name: options.pop(field.name) for field in STEP_OPTIONS if field.name in options}
        model.compile(wrapped(optimizer), Crossentropy(), StepOptions(**ours), steps_per_execution=per_call, **options)
    return model


def fit(
    devices: tf.distribute.Strategy,
    *args: Any,
    steps: int = 20,
    epochs: int = 1,
    batch: int = BATCH,
    images: np.ndarray = IMAGES,
    labels: np.ndarray = LABELS,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **options: Any,
) -> tuple[StableModel, np.ndarray]:
    """The model `compiled` by the options and trained, and its rows."""
    model, rows = compiled(devices, *args, **options), Rows()
    fed = batches(devices, images, labels, batch)
    model.fit(fed, steps_per_epoch=steps, epochs=epochs, verbose=0, callbacks=[rows, *callbacks])
    return model, np.concatenate(rows.blocks)


def weights(model: keras.Model) -> list[np.ndarray]:
    return [variable.numpy() for variable in model.trainable_variables]


def by_hand(model: StableModel, images: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Gradients of the mean loss over the batch and of the penalties, for a model without BatchNorm."""
    with tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(images, training=True))
        loss = tf.reduce_mean(losses) + tf.add_n(model.losses)
    return [gradient.numpy() for gradient in tape.gradient(loss, model.trainable_variables)]


def network_of(model: StableModel) -> keras.Model:
    """The network inside, without normalization and metrics."""
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


OF_ADDONS = ("lamb", "radam", "lookahead", "novograd")


needs_addons = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_addons") is None, reason="tensorflow-addons stops at Python 3.11"
)


def skip_without_addons(names: Iterable[str]) -> list[Any]:
    """`names` as pytest parameters; optimizers of tensorflow-addons are skipped if it is not installed."""
    return [pytest.param(name, marks=needs_addons) if name in OF_ADDONS else name for name in names]


def crossentropy(logits: np.ndarray, labels: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    """[b]: Szegedy et al. 2016, section 7."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_shares = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    classes = logits.shape[1]
    target = np.eye(classes)[labels] * (1 - smoothing) + smoothing / classes
    return -(target * log_shares).sum(axis=1)


def expected_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Guo et al. 2017, equation 3."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    total = 0.0
    for low in np.arange(CONFIDENCE_BINS) / CONFIDENCE_BINS:
        inside = (confidence >= low) & (confidence < low + 1 / CONFIDENCE_BINS)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total
