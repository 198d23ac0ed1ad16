"""The same on whatever GPUs there are: float16, XLA, histograms, one replica against several."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import (
    ModelConfig,
    OptimizerConfig,
    StrategyConfig,
    TrainConfig,
)
from evenkeel.models.optim.losses import Crossentropy
from evenkeel.models.train import train
from evenkeel.models.training.stable_model import StableModel
from evenkeel.pipeline.config import DataConfig

GPUS = tf.config.list_physical_devices("GPU")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not GPUS, reason="TensorFlow finds no GPU here")]


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
@pytest.mark.parametrize("xla", ["on", "off"])
def test_all_gpus_train_and_leave_histograms(
    precision: str, xla: str, small: DataConfig, tmp_path: pathlib.Path
) -> None:
    batch = 20 * len(GPUS)
    config = TrainConfig(
        epochs=4,
        precision=precision,
        xla=xla,
        histograms_every=5,
        data=dataclasses.replace(small, batch_size=batch),
        model=ModelConfig(name="resnet9", width=8),
        optimizer=OptimizerConfig(learning_rate=0.05),
        strategy=StrategyConfig(name="auto"),
    )
    summary = train(config, str(tmp_path / "run"))
    assert summary["status"] == "completed"
    assert summary["final"]["loss"] < np.log(10)
    assert list((tmp_path / "run" / "train").glob("events*"))


def weights_after(strategy: tf.distribute.Strategy, steps: int) -> list[np.ndarray]:
    """The weights of a network without BatchNorm after `steps` steps on the same global batches."""
    random = np.random.default_rng(0)
    batch = 8 * len(GPUS)
    images = random.integers(0, 256, (batch, 8, 8, 3), np.uint8)
    labels = random.integers(0, 4, batch)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        inputs = keras.Input((8, 8, 3))
        x = keras.layers.Flatten()(keras.layers.Conv2D(8, 3, activation="relu")(inputs))
        model = StableModel.wrap(keras.Model(inputs, keras.layers.Dense(4)(x)), [127.5] * 3, [64.0] * 3)
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), Crossentropy(), steps_per_execution=5)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    batches = tf.data.Dataset.from_tensors((images, labels)).repeat().with_options(options)
    model.fit(strategy.experimental_distribute_dataset(batches), steps_per_epoch=steps, verbose=0)
    return [weight.numpy() for weight in model.trainable_variables]


@pytest.mark.skipif(len(GPUS) < 2, reason="one against several GPUs needs two")
def test_one_gpu_and_all_of_them_give_the_same_weights() -> None:
    one, several = (weights_after(s, 20) for s in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy()))
    for a, b in zip(one, several, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
