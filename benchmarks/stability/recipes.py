"""Published training recipes: networks of other people with the hyperparameters of their publications.

    config = recipe_config("resnet20-adam", data, seed=3)

Only the number of epochs is not as published: a run sees about `RUN_IMAGES` images. The runs are sound, although some
learn slowly, so that each alarm is a false one. `RUNS` lists on which data sets each recipe runs. This module does not
import TensorFlow.
"""

from __future__ import annotations

import dataclasses
import os
from typing import NamedTuple

from evenkeel.models.config import ModelConfig, OptimizerConfig, TrainConfig
from evenkeel.pipeline.config import AugmentConfig, DataConfig

RUN_IMAGES = 9600
# Tutorials scale pixels from 0..255 to 0..1 in the network, as their networks here do.
SCALES_ITS_INPUT = ("tensorflow_tutorial", "keras_mnist", "cats_and_dogs", "vgg_blocks", "vgg_blocks_norm")
# Networks for which detectors or the doctor were changed after they had been wrong about them; the others are held out.
TUNING_NETWORKS = ("tensorflow_tutorial", "pytorch_tutorial", "keras_cifar10", "vgg_blocks", "vgg_blocks_norm")
ADAM = OptimizerConfig(name="adam", learning_rate=1e-3, schedule="constant")
SLOW_RMSPROP = OptimizerConfig(name="rmsprop", learning_rate=1e-4, schedule="constant")
SGD = OptimizerConfig(name="sgd", learning_rate=0.1, nesterov=False, schedule="constant")
NONE, FLIP_AND_CROP = AugmentConfig(), AugmentConfig(flip=0.5, pad_crop=4)


class Recipe(NamedTuple):
    """A published recipe.

    Attributes:
      network: a function of `published_networks`.
      optimizer: the published optimizer.
      batch_size: the published batch size.
      resembles: the network of the suite, in `networks.NETWORKS`, whose faults it can have.
      augment: the published augmentation.
      steps: the least steps of a run; BatchNorm with Keras's momentum of 0.99 needs 400 to know the statistics.
    """

    network: str
    optimizer: OptimizerConfig
    batch_size: int
    resembles: str = "plain"
    augment: AugmentConfig = NONE
    steps: int = 150


def _sgd(rate: float) -> OptimizerConfig:
    return dataclasses.replace(SGD, learning_rate=rate)


RECIPES = {
    "lenet5-sgd": Recipe("lenet5", _sgd(0.01), 64),
    "lenet5-adam": Recipe("lenet5", ADAM, 32),
    "tensorflow_tutorial": Recipe("tensorflow_tutorial", ADAM, 32),
    "pytorch_tutorial": Recipe("pytorch_tutorial", _sgd(0.001), 4),
    "pytorch_tutorial-adam": Recipe("pytorch_tutorial", ADAM, 32),
    "keras_cifar10": Recipe("keras_cifar10", SLOW_RMSPROP, 32),
    "keras_cifar10-adam": Recipe("keras_cifar10", ADAM, 64),
    "keras_mnist": Recipe("keras_mnist", ADAM, 128),
    "cats_and_dogs": Recipe("cats_and_dogs", SLOW_RMSPROP, 32),
    "vgg_blocks": Recipe("vgg_blocks", _sgd(0.001), 64),
    "vgg_blocks_norm": Recipe("vgg_blocks_norm", _sgd(0.001), 64, "resnet9", steps=400),
    "vgg_blocks_norm-adam": Recipe("vgg_blocks_norm", ADAM, 64, "cnn", steps=400),
    "all_convolutional": Recipe("all_convolutional", _sgd(0.01), 32),
    "resnet20": Recipe("resnet20", _sgd(0.1), 128, "resnet9", FLIP_AND_CROP, steps=100),
    "resnet20-adam": Recipe("resnet20", ADAM, 32, "cnn", FLIP_AND_CROP),
    "plain20": Recipe("plain20", _sgd(0.1), 128, "resnet9", FLIP_AND_CROP, steps=100),
    "mobilenet": Recipe("mobilenet", _sgd(0.1), 128, "resnet9", FLIP_AND_CROP),
    "mobilenet-adam": Recipe("mobilenet", ADAM, 32, "cnn"),
    "densenet": Recipe("densenet", dataclasses.replace(SGD, nesterov=True), 64, "resnet9", FLIP_AND_CROP),
    "densenet-adam": Recipe("densenet", ADAM, 64, "cnn"),
}
# On which data sets, see `data_sets`, each recipe runs: all on the photographs, and those that are used most on the
# others, as their users do.
RUNS = tuple(
    (recipe, data)
    for recipe, others in {
        "lenet5-sgd": "few",
        "lenet5-adam": "gray fifty",
        "tensorflow_tutorial": "gray few two fifty imbalanced",
        "pytorch_tutorial": "two",
        "pytorch_tutorial-adam": "gray imbalanced",
        "keras_cifar10": "two",
        "keras_cifar10-adam": "few fifty imbalanced",
        "keras_mnist": "gray two",
        "cats_and_dogs": "two",
        "vgg_blocks": "imbalanced",
        "vgg_blocks_norm": "two",
        "vgg_blocks_norm-adam": "few fifty",
        "all_convolutional": "two",
        "resnet20": "two",
        "resnet20-adam": "few fifty",
        "plain20": "",
        "mobilenet": "",
        "mobilenet-adam": "fifty imbalanced",
        "densenet": "",
        "densenet-adam": "two",
    }.items()
    for data in ("photos", *others.split())
)


def recipe_config(name: str, data: DataConfig, train_images: int, seed: int = 0) -> TrainConfig:
    """Returns the configuration of a run with a recipe of `RECIPES` on `data` with `train_images` training images."""
    recipe = RECIPES[name]
    run_images = max(RUN_IMAGES, recipe.steps * recipe.batch_size)
    return TrainConfig(
        epochs=max(1, round(run_images / train_images)),
        seed=seed,
        precision="float32",
        xla="off",
        histograms_every=0,
        data=dataclasses.replace(
            data,
            batch_size=recipe.batch_size,
            augment=recipe.augment,
            normalize=recipe.network not in SCALES_ITS_INPUT,
        ),
        model=ModelConfig(name=published_model_name(recipe.network)),
        optimizer=recipe.optimizer,
    )


def published_model_name(network: str) -> str:
    """Returns the value of the option `model.name` for a network of `published_networks`."""
    return f"{os.path.join(os.path.dirname(os.path.abspath(__file__)), 'published_networks.py')}:{network}"
