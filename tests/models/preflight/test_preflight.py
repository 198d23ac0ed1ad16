"""Every check before the first step on both sides of its limit, and none of them against what is sound."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.models import train
from evenkeel.models.config import (
    MixingConfig,
    ModelConfig,
    OptimizerConfig,
    StrategyConfig,
    TrainConfig,
)
from evenkeel.models.distribute import strategy
from evenkeel.models.preflight import (
    config_checks,
    data_checks,
    label_noise,
    network_checks,
)
from evenkeel.models.preflight.first_batch import Look
from evenkeel.models.preflight.preflight import (
    Telling,
    preflight,
    tell,
    thrown_away,
)
from evenkeel.models.stability.causes import CAUSES
from evenkeel.models.stability.diagnosis import Finding
from evenkeel.models.telemetry.incidents import Incidents
from evenkeel.pipeline.config import AugmentConfig, DataConfig, ShapesConfig
from evenkeel.pipeline.dataset import Dataset, load_dataset
from evenkeel.pipeline.prepare import skew
from tests import forked

ROOT = pathlib.Path(__file__).parents[3]
HERE = str(pathlib.Path(__file__))
layers = keras.layers
SHAPE, CLASSES, STEPS = (16, 16, 3), 10, 600


def config(network: str = "cnn", width: int = 4, epochs: int = 50, **changes: Any) -> TrainConfig:
    """A sound run of 750 steps over 300 images."""
    of_data = {name: changes.pop(name) for name in list(changes) if name in _fields(DataConfig)}
    chosen = DataConfig(image_size=16, batch_size=20, shapes=ShapesConfig(size=16, count=300))
    model = ModelConfig(network if network in ("cnn", "resnet9", "resnet18") else f"{HERE}:{network}", width=width)
    values: dict[str, Any] = {"model": model, "precision": "float32", "epochs": epochs}
    return TrainConfig(**{**values, "data": dataclasses.replace(chosen, **of_data), **changes})


def _fields(cls: type) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)} - {"balance"}


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    assert len({finding.check for finding in findings}) == len(findings)
    return {finding.check: finding for finding in findings}


def look(data: Dataset, network: str = "cnn", **options: Any) -> Look:
    return looked_at(config(network, **options), data)


def looked_at(made: TrainConfig, data: Dataset) -> Look:
    return Look(made, data, *data_checks.first_batch(made, data))


def of_network(data: Dataset, network: str = "cnn", steps: int = STEPS, **options: Any) -> dict[str, Finding]:
    made = config(network, **options)
    return by_name(list(network_checks.checks(made, looked_at(made, data), steps, replicas=1)))


def bad(findings: dict[str, Finding]) -> set[str]:
    return {name for name, finding in findings.items() if not finding.ok}


# Networks, as a user would write them.


def stack(
    shape: tuple[int, int, int],
    classes: int,
    depth: int = 4,
    activation: str = "relu",
    initializer: Any = "he_normal",
    norm: Any = None,
    before: Any = None,
    last: str | None = None,
    dropout: float = 0.0,
    bias: float = 0.0,
    penalty: float = 0.0,
) -> keras.Model:
    x = inputs = layers.Input(shape)
    x = before(x) if before else x
    for at in range(depth):
        options: dict[str, Any] = {"bias_initializer": keras.initializers.Constant(bias)}
        options["kernel_regularizer"] = keras.regularizers.L2(penalty) if penalty else None
        x = layers.Conv2D(8, 3, padding="same", kernel_initializer=initializer, name=f"conv{at}", **options)(x)
        x = norm()(x) if norm else x
        x = layers.LeakyReLU()(x) if activation == "leaky" else layers.Activation(activation)(x)
    x = layers.Flatten()(layers.MaxPool2D(4)(x))
    x = layers.Dropout(dropout, name="drop")(x) if dropout else x
    return keras.Model(inputs, layers.Dense(classes, activation=last, name="logits")(x))


made = functools.partial
slow_norm = made(layers.BatchNormalization, momentum=0.99999)
he, glorot = stack, made(stack, initializer="glorot_uniform", depth=6)
deep, self_normalizing = made(stack, depth=7), made(stack, depth=7, activation="selu", initializer="lecun_normal")
leaky, tanh = made(stack, activation="leaky"), made(stack, initializer="glorot_uniform", activation="tanh")
grouped = made(stack, norm=lambda: layers.GroupNormalization(4))
normed = made(stack, norm=made(layers.BatchNormalization, momentum=0.9), depth=6)
halved = made(stack, dropout=0.5)
rescaled = made(stack, before=lambda x: layers.Rescaling(1 / 255)(x))
own_norm = made(stack, before=lambda x: layers.BatchNormalization(momentum=0.9)(x))
arithmetic = made(stack, before=lambda x: x / 127.5 - 1)
probabilities, squashed = made(stack, last="softmax"), made(stack, last="sigmoid")
cut_off, bounded = made(stack, last="relu"), made(stack, last="tanh")
small = made(stack, initializer=keras.initializers.RandomNormal(stddev=1e-4, seed=0))
large = made(stack, initializer=keras.initializers.RandomNormal(stddev=3.0, seed=0))
sigmoids = made(stack, activation="sigmoid", initializer="glorot_uniform", depth=9)
few_sigmoids = made(stack, activation="sigmoid", initializer="glorot_uniform", depth=2)
normed_sigmoids = made(stack, activation="sigmoid", norm=made(layers.BatchNormalization, momentum=0.9), depth=3)
hidden_softmax = made(stack, activation="softmax", depth=3)
dead = made(stack, bias=-1e3)
saturated = made(stack, activation="tanh", initializer=keras.initializers.RandomNormal(stddev=5.0, seed=0))
slow = made(stack, norm=slow_norm)
jumpy = made(stack, norm=made(layers.BatchNormalization, momentum=0.1))
dropped, penalised = made(stack, dropout=0.9), made(stack, penalty=10.0)
lightly_penalised = made(stack, penalty=5e-4)


def frozen(shape: tuple[int, int, int], classes: int) -> keras.Model:
    network = stack(shape, classes)
    network.get_layer("conv1").trainable = False
    return network


def gated(shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Squeeze and excitation (Hu et al. 2018), its gates as Keras users write them."""
    x = inputs = layers.Input(shape)
    for at in range(3):
        x = layers.Conv2D(8, 3, padding="same", activation="relu", kernel_initializer="he_normal")(x)
        squeezed = layers.GlobalAveragePooling2D()(x)
        gate = layers.Reshape((1, 1, 8))(layers.Dense(8, activation="sigmoid")(squeezed))
        x = x * gate if at % 2 else layers.Multiply()([x, gate])
    x = layers.Flatten()(layers.MaxPool2D(4)(x))
    return keras.Model(inputs, layers.Dense(classes)(x))


@keras.utils.register_keras_serializable("tests")
class Stop(layers.Layer):
    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.stop_gradient(inputs)


def stopped(shape: tuple[int, int, int], classes: int) -> keras.Model:
    return stack(shape, classes, before=lambda x: Stop()(layers.Conv2D(4, 3, name="behind")(x)))


def zero_head(shape: tuple[int, int, int], classes: int) -> keras.Model:
    body = stack(shape, classes)
    x = body.get_layer("logits").input
    return keras.Model(body.inputs, layers.Dense(classes, kernel_initializer="zeros")(x))


def nested(shape: tuple[int, int, int], classes: int) -> keras.Model:
    inputs = x = layers.Input(shape)
    inner = keras.Model(inputs, layers.Conv2D(8, 3, activation="relu")(layers.Rescaling(1 / 255)(x)), name="inner")
    x = outer = layers.Input(shape)
    return keras.Model(outer, layers.Dense(classes)(layers.Flatten()(inner(x))))


SOUND = [
    "he",
    "self_normalizing",
    "glorot",
    "leaky",
    "tanh",
    "grouped",
    "normed",
    "halved",
    "zero_head",
    "few_sigmoids",
    "gated",
    "cnn",
    "resnet18",
]


@pytest.mark.parametrize("network", SOUND)
def test_nothing_is_said_of_a_sound_network(network: str, data: Dataset) -> None:
    assert bad(of_network(data, network)) == set()
    finding = network_checks.overfits(look(data, network))
    assert finding.ok, finding.line


def test_nothing_is_said_of_the_preset_that_everyone_starts_with() -> None:
    from evenkeel.models.config import from_dict
    from evenkeel.models.presets import PRESETS

    chosen = from_dict(TrainConfig, PRESETS["quick"])
    small = dataclasses.replace(chosen.data, shapes=ShapesConfig(count=1200))
    chosen = dataclasses.replace(chosen, data=small)
    findings = preflight(chosen, load_dataset(small), tf.distribute.get_strategy())
    assert [finding.line for finding in findings if not finding.ok] == []
    assert len(findings) == 30


@pytest.mark.parametrize(
    ("network", "check", "cause"),
    [
        ("probabilities", "output", "output_activation"),
        ("squashed", "output", "output_activation"),
        ("cut_off", "output", "output_activation"),
        ("bounded", "output", "output_activation"),
        ("small", "activation_scale", "initialization"),
        ("large", "activation_scale", "initialization"),
        ("large", "initial_loss", "initialization"),
        ("deep", "normalization", "no_normalization"),
        ("sigmoids", "gradient_flow", "saturating_activation"),
        ("normed_sigmoids", "flat_activations", "saturating_activation"),
        ("hidden_softmax", "flat_activations", "saturating_activation"),
        ("dead", "idle_units", "dying_activation"),
        ("dead", "gradients_arrive", "dying_activation"),
        ("saturated", "idle_units", "saturating_activation"),
        ("frozen", "frozen_layers", "frozen_layers"),
        ("stopped", "gradients_arrive", "frozen_layers"),
        ("dropped", "dropout", "dropout"),
        ("penalised", "penalty", "penalty"),
        ("slow", "batch_norm_momentum", "batch_norm_momentum"),
        ("jumpy", "batch_norm_momentum", "batch_norm_momentum"),
    ],
)
def test_what_is_wrong_with_a_network_is_named(network: str, check: str, cause: str, data: Dataset) -> None:
    finding = of_network(data, network)[check]
    assert not finding.ok, finding.line
    assert cause in finding.causes
    assert finding.remedy
    assert all(math.isfinite(value) for value in finding.evidence.values())


def test_a_layer_behind_a_stop_is_named(data: Dataset) -> None:
    assert "behind/kernel" in of_network(data, "stopped")["gradients_arrive"].seen


@pytest.mark.parametrize("network", ["rescaled", "own_norm", "arithmetic", "nested"])
def test_a_network_that_rescales_its_input_needs_no_normalization(network: str, small: DataConfig) -> None:
    raw = load_dataset(dataclasses.replace(small, normalize=False))
    assert of_network(raw, network, normalize=False)["input_scale"].ok
    finding = of_network(raw, "he", normalize=False)["input_scale"]
    assert not finding.ok
    assert finding.causes == ("input_scale",)
    assert finding.evidence["std"] > 30


def test_an_input_scaled_twice_is_seen(data: Dataset) -> None:
    assert not of_network(data, "rescaled")["input_scale"].ok


def test_an_unscaled_input_explains_a_large_first_loss(small: DataConfig) -> None:
    raw = load_dataset(dataclasses.replace(small, normalize=False))
    finding = of_network(raw, "he", normalize=False)["initial_loss"]
    assert not finding.ok
    assert finding.causes[0] == "input_scale"


@pytest.mark.parametrize("network", ["probabilities", "squashed", "dead"])
def test_one_batch_that_cannot_be_learnt(network: str, data: Dataset) -> None:
    finding = network_checks.overfits(look(data, network))
    assert not finding.ok, finding.line
    assert finding.evidence["steps"] == 120


def test_penalties_count_by_how_fast_they_shrink_weights(data: Dataset) -> None:
    sound = OptimizerConfig(learning_rate=0.05)
    assert of_network(data, "lightly_penalised", optimizer=sound)["penalty"].ok
    finding = of_network(data, "lightly_penalised", optimizer=OptimizerConfig(learning_rate=2.5))["penalty"]
    assert not finding.ok
    assert finding.evidence["decay"] == pytest.approx(2 * 5e-4 * 2.5 / 0.1)


@pytest.mark.parametrize(("steps", "ok"), [(600, True), (15, False)])
def test_moving_statistics_need_steps(steps: int, ok: bool, data: Dataset) -> None:
    assert of_network(data, "cnn", steps=steps)["batch_norm_momentum"].ok == ok


@pytest.mark.parametrize(
    ("network", "batch", "accumulate", "ok"),
    [("cnn", 20, 1, True), ("cnn", 20, 5, False), ("cnn", 4, 1, False), ("grouped", 4, 1, True)],
)
def test_batch_norm_needs_images(network: str, batch: int, accumulate: int, ok: bool, data: Dataset) -> None:
    optimizer = OptimizerConfig(accumulate=accumulate)
    assert of_network(data, network, batch_size=batch, optimizer=optimizer)["batch_norm_batch"].ok == ok


def test_float16_must_not_overflow(data: Dataset) -> None:
    keras.mixed_precision.set_global_policy("mixed_float16")
    assert of_network(data, "normed")["precision"].ok
    finding = of_network(data, "large")["precision"]
    assert not finding.ok
    assert finding.causes == ("precision",)


# Settings.


def of_settings(images: int = 300, replicas: int = 1, **changes: Any) -> set[str]:
    return bad(by_name(config_checks.checks(config(**changes), images, replicas)))


def with_optimizer(**options: Any) -> dict[str, Any]:
    return {"optimizer": OptimizerConfig(**options)}


@pytest.mark.parametrize(
    ("check", "sound", "wrong"),
    [
        ("steps", {"epochs": 7}, {"epochs": 6}),
        ("batch_large", {"batch_size": 75}, {"batch_size": 76}),
        ("batch_small", {"batch_size": 5}, {"batch_size": 4}),
        ("replica_batches", {"replicas": 2}, {"replicas": 3}),
        ("replica_batches", with_optimizer(accumulate=4), with_optimizer(accumulate=3)),
        ("learning_rate", with_optimizer(learning_rate=4.9), with_optimizer(learning_rate=5.0)),
        (
            "learning_rate",
            with_optimizer(learning_rate=4.9, momentum=0.9),
            with_optimizer(learning_rate=2, momentum=0.97),
        ),
        (
            "learning_rate",
            with_optimizer(name="adam", learning_rate=0.02),
            with_optimizer(name="adam", learning_rate=0.03),
        ),
        (
            "learning_rate",
            with_optimizer(name="lamb", learning_rate=0.9),
            with_optimizer(name="lamb", learning_rate=1.0),
        ),
        ("momentum", with_optimizer(momentum=0.97, learning_rate=0.01), with_optimizer(momentum=0.98)),
        ("momentum", with_optimizer(name="adam", momentum=0.99), with_optimizer(name="adam", beta_1=0.99)),
        ("epsilon", with_optimizer(name="adam", epsilon=1e-2), with_optimizer(name="adam", epsilon=0.02)),
        ("epsilon", with_optimizer(epsilon=1.0), with_optimizer(name="rmsprop", epsilon=1.0)),
        ("weight_decay", with_optimizer(weight_decay=0.09), with_optimizer(weight_decay=0.1)),
        ("mixing", {"mixing": MixingConfig(mixup=1.0)}, {"mixing": MixingConfig(mixup=5.0)}),
        ("mixing", {"mixing": MixingConfig(cutmix=1.0)}, {"mixing": MixingConfig(cutmix=2.0)}),
    ],
)
def test_settings_have_limits(check: str, sound: dict[str, Any], wrong: dict[str, Any]) -> None:
    assert check not in of_settings(**sound)
    assert check in of_settings(**wrong)


def test_a_remedy_is_itself_sound() -> None:
    (finding,) = [f for f in config_checks.checks(config(batch_size=200), 300, 1) if f.check == "batch_large"]
    assert "--data.batch_size=18." in finding.remedy
    assert "batch_large" not in of_settings(batch_size=18)
    assert "--data.batch_size=21." in config_checks.divides(config(), 3).remedy


# Data.


def opened(**dirt: Any) -> tuple[TrainConfig, Dataset]:
    chosen = config(shapes=ShapesConfig(size=16, count=300, **dirt))
    return chosen, load_dataset(chosen.data)


def of_data(**dirt: Any) -> dict[str, Finding]:
    return by_name(data_checks.checks(*opened(**dirt)))


def test_clean_data_is_sound() -> None:
    assert bad(of_data()) == set()


@pytest.mark.parametrize("dirt", [{"outliers": 0.05}, {"unnormalised": 0.1}])
def test_outliers_are_counted(dirt: dict[str, float]) -> None:
    findings = of_data(**dirt)
    assert bad(findings) == {"outlier_images"}
    assert findings["outlier_images"].evidence["share"] == pytest.approx(sum(dirt.values()), abs=0.01)
    assert of_data(outliers=0.02)["outlier_images"].ok


def test_classes_must_not_be_too_uneven() -> None:
    assert of_data(imbalance=5.0)["class_imbalance"].ok
    chosen, data = opened(imbalance=20.0)
    findings = by_name(data_checks.checks(chosen, data))
    assert bad(findings) == {"class_imbalance"}, "the skew to validation is the same thing"
    balanced = dataclasses.replace(chosen, class_weights="balanced")
    assert data_checks.checks(balanced, data)[1].ok
    drawn = dataclasses.replace(chosen, data=dataclasses.replace(chosen.data, balance="classes"))
    assert data_checks.checks(drawn, data)[1].ok


def test_a_class_without_images_cannot_be_balanced() -> None:
    _, data = opened()
    without = data.train.take(data.train.columns["label"] != 3)
    counts = np.bincount(without.columns["label"], minlength=10)
    less = dataclasses.replace(data, train=without, class_counts=counts)
    finding = data_checks.class_imbalance(less, balanced=True)
    assert not finding.ok
    assert data.classes[3] in finding.seen
    assert data_checks.class_imbalance(data, balanced=True).ok


def test_splits_that_look_different_are_seen() -> None:
    _, data = opened()
    _, dark = opened(unnormalised=0.9)
    finding = data_checks.image_skew(dataclasses.replace(data, train=dark.train), explained=False)
    assert not finding.ok
    assert finding.causes == ("train_validation_skew",)
    assert "--data.standardize" in finding.line
    assert data_checks.image_skew(data, explained=False).ok


def test_splits_with_other_classes_are_seen() -> None:
    _, data = opened()
    one = data.validation.take(data.validation.columns["label"] == 0)
    fewer = dataclasses.replace(data, validation=one)
    assert not data_checks.class_skew(fewer, known=False).ok
    assert data_checks.class_skew(data, known=False).ok


def test_the_distance_of_two_samples_is_that_of_their_distributions() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=20_000)
    assert skew.ks(a, a) == 0
    # Two normal distributions a deviation apart: 2 Phi(1/2) - 1.
    assert skew.ks(a, rng.normal(1, size=20_000)) == pytest.approx(0.3829, abs=0.02)
    assert skew.ks(a, a + 100) == 1
    assert skew.ks(np.append(a, np.nan), a) == 0


@pytest.mark.parametrize(
    ("augment", "ok"),
    [
        (AugmentConfig(flip=0.5, pad_crop=2, cutout=0.4), True),
        (AugmentConfig(random_resized_crop=0.92, randaugment_ops=2), True),
        (AugmentConfig(rotation=180, brightness=0.4, hue=0.5, noise=25), True),
        (AugmentConfig(noise=250), False),
        (AugmentConfig(brightness=1.0, contrast=1.0, noise=100), False),
    ],
)
def test_augmentation_must_leave_something(augment: AugmentConfig, ok: bool, data: Dataset) -> None:
    made = config(augment=augment)
    finding = data_checks.augmentation(made, data, data_checks.first_batch(made, data)[0])
    assert finding.ok == ok, finding.line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("augment", "ok"),
    [
        (AugmentConfig(flip=0.5, pad_crop=2), True),
        (AugmentConfig(flip=0.5, randaugment_ops=1), True),
        (AugmentConfig(flip=0.5, noise=130.0), False),
        (AugmentConfig(randaugment_ops=8, randaugment_magnitude=10.0), False),
    ],
)
def test_a_cheap_model_must_learn_from_augmented_images(augment: AugmentConfig, ok: bool) -> None:
    made = config(augment=augment, shapes=ShapesConfig(size=16, count=2500))
    data = load_dataset(made.data)
    assert (data_checks._left(data, made.data) >= data_checks.LEAST_LEFT) == ok


def test_of_few_images_a_cheap_model_says_nothing(data: Dataset) -> None:
    assert data_checks._left(data, config(augment=AugmentConfig(noise=250.0)).data) == 1.0


def test_flat_images_are_destroyed_and_turned_ones_are_not(data: Dataset) -> None:
    images = data_checks.first_batch(config(), data, AugmentConfig())[0]
    flat = np.full_like(images, 128)
    assert data_checks.destroyed(images, flat).mean() > 0.95, "all that had any contrast"
    assert not data_checks.destroyed(images, images[:, ::-1]).any()
    assert not data_checks.destroyed(flat, flat).any()


def test_pictures_show_what_stands_out() -> None:
    _, data = opened(outliers=0.05)
    found = data_checks.pictures(data)
    assert 10 <= len(found) <= 16
    assert len(data_checks.pictures(data, count=3)) == 3
    for picture in found:
        assert picture.pixels.dtype == np.uint8
        assert picture.pixels.shape == (16, 16, 3)
        assert picture.name.startswith("train_")
        assert "the median is" in picture.reason
    assert any(picture.pixels.std() < 1 for picture in found), "all black or all white"


# Labels.


def labelled(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Stripes of four directions in noise."""
    labels = rng.integers(4, size=count)
    y, x = np.mgrid[:16, :16]
    angle = np.pi * labels / 4
    along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    stripes = 60 * np.sin(along + rng.uniform(0, 6, (count, 1, 1)))
    images = 128 + stripes[..., None] + rng.normal(0, 60, (count, 16, 16, 3))
    return np.clip(images, 0, 255).astype(np.uint8), labels


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_the_share_of_wrong_labels_is_found(share: float) -> None:
    rng = np.random.default_rng(1)
    images, labels = labelled(800, rng)
    others, right = labelled(600, rng)
    wrong = rng.random(800) < share
    told = np.where(wrong, (labels + rng.integers(1, 4, 800)) % 4, labels)
    found = label_noise.estimated(images, told, others, right, classes=4)
    assert found.share == pytest.approx(share, abs=0.07)
    assert (found.z > data_checks.CERTAIN) == (share > 0)


def test_leaving_out_one_by_one_is_what_the_closed_form_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_noise, "PENALTIES", np.array([0.5]))
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=30)
    x = rng.normal(size=(30, 5)) + 2 * np.eye(3, 5)[labels]
    scaled = (x - x.mean(0)) / (x.std(0) + 1e-6)
    targets = np.eye(3)[labels] - np.bincount(labels, minlength=3) / 30
    right = 0
    for at in range(30):
        rest = np.arange(30) != at
        weights = np.linalg.solve(scaled[rest].T @ scaled[rest] + 0.5 * 5 * np.eye(5), scaled[rest].T @ targets[rest])
        right += int((scaled[at] @ weights).argmax() == labels[at])
    found, _ = label_noise.accuracies(x, labels, x, labels, 3)
    assert found == pytest.approx(right / 30)
    assert 0.5 < found < 1


@pytest.mark.slow
def test_few_images_prove_nothing_about_labels() -> None:
    chosen, data = opened(label_noise=0.4)
    assert data_checks.wrong_labels(chosen, data).ok


@pytest.mark.slow
def test_wrong_labels_of_shapes_are_seen() -> None:
    for share, ok in ((0.0, True), (0.4, False)):
        chosen = DataConfig(shapes=ShapesConfig(label_noise=share))
        finding = data_checks.wrong_labels(TrainConfig(data=chosen), load_dataset(chosen))
        assert finding.ok == ok, finding.line


# The whole.


def test_every_finding_names_causes_that_exist_and_the_options_that_do(data: Dataset) -> None:
    findings = preflight(config(), data, tf.distribute.get_strategy())
    for finding in findings:
        assert set(finding.causes) <= set(CAUSES), finding.check
        assert type(finding.ok) is bool
        assert finding.seen
        assert finding.rule
        assert finding.remedy
    json.dumps([dataclasses.asdict(finding) for finding in findings])


def test_what_is_looked_at_is_standardized_as_training_does(data: Dataset) -> None:
    for normalize in (True, False):
        found = looked_at(config(standardize=True, normalize=normalize), data)
        seen = np.asarray(found.seen, np.float64)
        np.testing.assert_allclose(seen.mean(axis=(1, 2, 3)), 0, atol=1e-3)
        np.testing.assert_allclose(seen.std(axis=(1, 2, 3)), 1, atol=1e-3)
        assert network_checks.input_scale(found).ok


def test_names_and_seeds_are_left_as_they_were() -> None:
    def state() -> tuple[Any, ...]:
        keras.utils.set_random_seed(7)
        before = layers.Dense(1).name
        with thrown_away(7):
            keras.Sequential([layers.Input((3,)), layers.Dense(5), layers.Conv1D(1, 1)][:2])
            np.random.random(3)
        after = layers.Dense(1).name
        return before, after, np.random.random(), layers.Dense(2)(tf.ones([1, 2])).numpy().tolist()

    keras.backend.clear_session()
    before, after, draw, output = state()
    assert (before, after) == ("dense", "dense_1")
    keras.utils.set_random_seed(7)
    assert draw == np.random.random()
    assert output == layers.Dense(2)(tf.ones([1, 2])).numpy().tolist()


def test_only_what_is_not_ok_is_told(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    incidents = Incidents(str(tmp_path / "incidents.jsonl"))
    tell([Finding("sound", True, "a", "b"), Finding("odd", False, "one", "two", "Three.", {"four": 4.0})], incidents)
    (line,) = (tmp_path / "incidents.jsonl").read_text().splitlines()
    told = json.loads(line)
    assert (told["step"], told["kind"], told["evidence"], told["action"]) == (0, "preflight_odd", {"four": 4}, "none")
    assert incidents.counts == {"preflight_odd": 1}


def test_on_several_workers_only_settings_and_index_are_checked(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_checks, "training_batches", None)
    monkeypatch.setattr(network_checks, "Look", None)

    class Workers(tf.distribute.MultiWorkerMirroredStrategy):
        num_replicas_in_sync = 2

        def __init__(self) -> None:
            """Without a cluster to join."""

    findings = by_name(preflight(config(), data, Workers()))
    assert bad(findings) == set()
    assert {"steps", "image_skew", "network"} <= set(findings)
    assert "neither network nor augmentation" in findings["network"].seen


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_run_is_the_same_bit_for_bit_with_and_without(replicas: int, tmp_path: pathlib.Path) -> None:
    devices = StrategyConfig(name="mirrored", logical_cpus=2) if replicas == 2 else StrategyConfig(name="one")
    chosen = config(
        "halved",
        epochs=2,
        strategy=devices,
        augment=AugmentConfig(flip=0.5, pad_crop=2),
        mixing=MixingConfig(mixup=0.2),
        optimizer=OptimizerConfig(name="adam", learning_rate=0.01),
    )
    finals = {}
    for choice in ("on", "off"):
        run = dataclasses.replace(chosen, preflight=choice)
        summary = train.train(run, str(tmp_path / choice))
        finals[choice] = summary["final"]
        kinds = {kind for kind in summary["incidents"] if kind.startswith("preflight_")}
        assert kinds == ({"preflight_steps"} if choice == "on" else set()), "30 updates are few"
    assert finals["on"] == finals["off"]


def test_what_images_show_is_told_once_when_it_is_known() -> None:
    asked, known, incidents = threading.Event(), threading.Event(), Incidents()
    findings = [Finding("odd", False, "four", "three", "take one away"), Finding("even", True, "two", "two")]

    def of_images() -> list[Finding]:
        asked.set()
        assert known.wait(100)
        return findings

    telling = Telling(of_images, incidents)
    assert not asked.is_set(), "nothing is checked before the first steps"
    telling.on_train_batch_end(0)
    assert asked.wait(100)
    assert not incidents.counts
    known.set()
    for _ in range(2):
        telling.finish()
        telling.on_train_batch_end(1)
        assert incidents.counts == {"preflight_odd": 1}
    assert telling.state() == {"told": True}


def test_the_end_waits_for_what_images_show() -> None:
    incidents = Incidents()
    Telling(lambda: [Finding("odd", False, "four", "three")], incidents).finish()
    assert incidents.counts == {"preflight_odd": 1}


def test_a_check_of_images_that_breaks_is_an_error_in_the_log(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> list[Finding]:
        raise MemoryError("no more")

    monkeypatch.setattr(data_checks, "of_images", broken)
    assert train.train(config("he", epochs=1), str(tmp_path / "run"))["status"] == "completed"
    assert "the images could not be checked: MemoryError: no more" in caplog.text


def test_a_signal_waits_for_no_image_and_the_run_that_goes_on_checks_them(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, odd = threading.Event(), [Finding("odd", False, "four", "three")]
    of_images = lambda *_: released.wait(100) and odd  # noqa: E731
    with monkeypatch.context() as patching:
        patching.setattr(data_checks, "of_images", of_images)
        killed = lambda *_: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
        patching.setattr(Telling, "on_train_batch_end", killed)
        summary = train.train(config("he", epochs=2), str(tmp_path / "run"))
    assert (summary["status"], summary["incidents"]) == ("preempted", {"preflight_steps": 1})
    released.set()
    monkeypatch.setattr(data_checks, "of_images", of_images)
    summary = train.train(config("he", epochs=2), str(tmp_path / "run"), resume=True)
    assert summary["status"] == "completed"
    assert summary["incidents"] == {"preflight_steps": 1, "preflight_odd": 1}


def test_a_resumed_run_is_told_nothing_twice(tmp_path: pathlib.Path) -> None:
    noise = AugmentConfig(noise=255.0)
    chosen = config("he", epochs=1, augment=noise, optimizer=OptimizerConfig(name="adam", learning_rate=0.01))
    told = {"preflight_steps": 1, "preflight_augmentation": 1}
    assert train.train(chosen, str(tmp_path / "run"))["incidents"] == told
    lines = (tmp_path / "run/incidents.jsonl").read_text()
    assert train.train(chosen, str(tmp_path / "run"), resume=True)["incidents"] == told
    assert (tmp_path / "run/incidents.jsonl").read_text() == lines


def test_a_network_of_several_replicas_is_looked_at_on_one(data: Dataset) -> None:
    devices = strategy.create(StrategyConfig(name="mirrored", logical_cpus=2))
    findings = by_name(preflight(config(batch_size=8), data, devices))
    assert findings["batch_norm_batch"].evidence["images"] == 4
    assert bad(findings) == {"batch_norm_batch"}


def test_full_adds_the_slow_checks_and_shows_the_range_test(data: Dataset) -> None:
    seen: list[Any] = []
    chosen = config("he", preflight="full", optimizer=OptimizerConfig(learning_rate=0.02))
    findings = by_name(preflight(chosen, data, tf.distribute.get_strategy(), seen.append))
    assert {"one_batch", "label_noise", "learning_rate_range"} <= set(findings)
    assert bad(findings) == set()
    assert len(seen) == 1


# The command line.


def test_help_of_the_doctor_needs_no_tensorflow() -> None:
    code = "import runpy, sys; sys.modules['tensorflow'] = sys.modules['tf_keras'] = None; sys.argv[0] = 'doctor'\n"
    code += "runpy.run_module('tools.doctor', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--preflight" in done.stdout


@pytest.mark.parametrize("flags", [[], ["--preflight=off"]])
def test_the_doctor_says_what_it_lacks(flags: list[str]) -> None:
    done = forked.run("tools.doctor", *flags)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: say what to examine: --model_dir=RUN")


@pytest.mark.slow
def test_the_doctor_prints_every_finding_and_writes_them(tmp_path: pathlib.Path) -> None:
    tiny = ["--data.shapes.size=16", "--data.shapes.count=300", "--data.image_size=16", "--batch_size=20"]
    tiny += [
        "--model.name=cnn",
        "--model.width=4",
        "--epochs=50",
        "--precision=float32",
        "--optimizer.learning_rate=.02",
    ]
    done = forked.run("tools.doctor", "--preflight", *tiny, f"--output={tmp_path / 'health'}")
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((tmp_path / "health" / "preflight.json").read_text())
    assert len(done.stdout.splitlines()) == len(written) == 32
    assert all(line.startswith("ok ") for line in done.stdout.splitlines())
    assert (tmp_path / "health" / "range_test.png").read_bytes().startswith(b"\x89PNG")
    refused = forked.run("tools.doctor", "--preflight_only", *tiny, "--nodata.normalize")
    assert refused.returncode == 4, refused.stderr
    assert any(line.startswith("NO  input_scale: ") for line in refused.stdout.splitlines())
