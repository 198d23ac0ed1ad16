"""Networks: ours and the user's. `plain`, `normed` and `shallow` stand for a user's file in other tests too."""

from __future__ import annotations

import functools
import math
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import RESNETS, ModelConfig, StrategyConfig
from evenkeel.models.distribute import strategy
from evenkeel.models.networks import factory
from evenkeel.models.networks.blocks import Convolutions
from evenkeel.models.networks.cnn import cnn
from evenkeel.models.networks.resnet import DEPTHS, LARGE
from evenkeel.pipeline.errors import UsageError

layers = keras.layers
FILE = str(pathlib.Path(__file__))
SHAPE = (16, 16, 3)


def plain(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """A user's network without BatchNorm: its replicas see what one device sees."""
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
    """Our cnn with 2 convolutions and not 6, which is made and traced in half the time."""
    return cnn(input_shape, classes, width=8, dropout=dropout, depths=(1, 1), multiples=(1, 2))


dropping = functools.partial(shallow, dropout=0.2)


def create(name: str, shape: tuple[int, int, int] = SHAPE, classes: int = 10, width: int = 4, **options) -> keras.Model:
    return factory.create(ModelConfig(name, width=width, **options), shape, classes)


@pytest.mark.parametrize("shape", [(8, 8, 1), SHAPE, (LARGE, LARGE, 3)], ids=str)
@pytest.mark.parametrize(
    "name", ["cnn", "resnet9", "resnet18", "resnet50", f"{FILE}:normed"], ids=["cnn", "resnet9", "18", "50", "file"]
)
def test_a_network_gives_logits_of_any_images(name: str, shape: tuple[int, int, int]) -> None:
    model = create(name, shape, classes=7)
    logits = model(np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)).numpy()
    assert logits.shape == (2, 7)
    assert (logits < 0).any(), "logits, not probabilities"


@pytest.mark.parametrize("name", ["cnn", "resnet9", "resnet18", "resnet34", "resnet50"])
def test_every_weight_has_a_gradient_and_the_first_loss_is_that_of_a_guess(name: str) -> None:
    model = create(name, width=8, zero_init=False)  # behind a scale of 0 no gradient arrives
    images = np.random.default_rng(0).normal(size=(64, *SHAPE)).astype(np.float32)
    labels = np.arange(64) % 10
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(images, training=True)))
    assert float(loss) == pytest.approx(math.log(10), abs=1.0)
    for variable, gradient in zip(
        model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
    ):
        assert gradient is not None, variable.name
        assert np.abs(gradient.numpy()).max() > 0, variable.name


@pytest.mark.parametrize(("name", "convolutions", "dropouts"), [("cnn", 6, 4), ("resnet9", 8, 1)])
def test_width_dropout_and_regularizers_arrive(name: str, convolutions: int, dropouts: int) -> None:
    model = create(name, width=6, dropout=0.3, l1=1e-3, l2=1e-2)
    convs = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]
    assert len(convs) == convolutions
    assert convs[0].filters == 6
    rates = [layer.rate for layer in model.layers if layer.__class__.__name__ == "Dropout"]
    assert rates == [0.3] * dropouts
    kernels = [v.numpy().astype(np.float64) for v in model.trainable_variables if "kernel" in v.name]
    assert len(kernels) == convolutions + len([x for x in model.layers if isinstance(x, layers.Dense)])
    expected = sum(1e-3 * np.abs(kernel).sum() + 1e-2 * (kernel**2).sum() for kernel in kernels)
    assert float(tf.add_n(model.losses)) == pytest.approx(expected, rel=1e-5)
    for layer in model.layers:  # of every kernel, and of no other weight
        assert (getattr(layer, "kernel_regularizer", None) is not None) == hasattr(layer, "kernel"), layer.name
    assert not create(name).losses
    assert not any(layer.__class__.__name__ == "Dropout" for layer in create(name).layers)


def test_large_images_get_a_stem() -> None:
    first, second = (create("resnet9", (size, size, 3)).layers[1].strides for size in (LARGE, LARGE - 1))
    assert (first, second) == ((2, 2), (1, 1))


# torchvision's and Keras's counts at 1,000 classes; without BatchNorm's moving statistics.
PUBLISHED = {"resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032}


@pytest.mark.parametrize("name", RESNETS)
def test_the_published_networks_have_the_published_number_of_weights(name: str) -> None:
    model = create(name, (224, 224, 3), classes=1000, width=0)
    assert sum(math.prod(variable.shape) for variable in model.trainable_variables) == PUBLISHED[name]
    assert model.layers[1].strides == (2, 2)


def multiply_adds(model: keras.Model) -> int:
    """Of the convolutions and dense layers, for one image, from the shapes the layers were called with."""
    total = 0
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            total += math.prod(layer.kernel.shape) * math.prod(layer.output_shape[1:-1])
    return total


@pytest.mark.parametrize(("name", "expected"), [("resnet18", 1.81e9), ("resnet34", 3.66e9), ("resnet50", 4.09e9)])
def test_the_published_networks_cost_the_published_number_of_multiply_adds(name: str, expected: float) -> None:
    assert multiply_adds(create(name, (224, 224, 3), classes=1000, width=0)) == pytest.approx(expected, rel=0.01)


def test_tensorflow_counts_the_same_multiply_adds() -> None:
    model = create("resnet50", (224, 224, 3), classes=1000, width=0)
    graph = tf.function(model).get_concrete_function(tf.TensorSpec([1, 224, 224, 3])).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    counted = tf.compat.v1.profiler.profile(graph, options={**options, "output": "none"}).total_float_ops
    assert counted / 2 == pytest.approx(4.1e9, rel=0.02)


@pytest.mark.parametrize("name", RESNETS)
def test_a_block_starts_as_the_identity(name: str) -> None:
    """With zero_init the network is its stem, its projections and its pooling."""
    last = [layer for layer in create(name).layers if "batch_norm" in layer.name and not layer.gamma.numpy().any()]
    assert len(last) == sum(DEPTHS[name])
    assert not any(
        not layer.gamma.numpy().any() for layer in create(name, zero_init=False).layers if "batch_norm" in layer.name
    )


def test_small_images_keep_their_size_through_the_small_stem() -> None:
    small, large = create("resnet18", (32, 32, 3)), create("resnet18", (32, 32, 3), stem="imagenet")
    assert small.get_layer(index=-2).input_shape[1:3] == (4, 4)
    assert large.get_layer(index=-2).input_shape[1:3] == (1, 1)
    assert create("resnet18", (LARGE, LARGE, 3)).layers[1].kernel_size == (7, 7)
    assert create("resnet18", (LARGE - 1, LARGE - 1, 3)).layers[1].kernel_size == (3, 3)


def test_stochastic_depth_leaves_out_later_blocks_more_often() -> None:
    model = create("resnet34", stochastic_depth=0.4)
    dropped = [layer for layer in model.layers if layer.__class__.__name__ == "Dropout"]
    np.testing.assert_allclose([layer.rate for layer in dropped], 0.4 * np.arange(1, 17) / 16)
    assert {layer.noise_shape for layer in dropped} == {(None, 1, 1, 1)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "resnet9", "resnet18", "resnet50"])
def test_group_norm_looks_at_one_image_alone(name: str) -> None:
    """In training, what other images there are changes nothing; with BatchNorm it does."""
    images = np.random.default_rng(0).normal(size=(6, *SHAPE)).astype(np.float32)
    for norm, alone in (("group", True), ("batch", False)):
        model = create(name, norm=norm, width=16)
        whole, part = model(images, training=True), model(images[:2], training=True)
        assert np.allclose(whole[:2], part, atol=1e-4) == alone
    groups = [layer for layer in create(name, norm="group", width=24).layers if "group_norm" in layer.name]
    assert all(layer.gamma.shape[0] % layer.groups == 0 for layer in groups)
    assert {layer.gamma.shape[0] // layer.groups for layer in groups} <= {8, 16}


def test_group_norm_is_its_formula() -> None:
    layer = Convolutions(norm="group").normalization(32)
    x = np.random.default_rng(0).normal(2, 3, (2, 5, 5, 32))
    grouped = x.reshape(2, 25, 2, 16)
    mean, deviation = grouped.mean((1, 3), keepdims=True), np.sqrt(grouped.var((1, 3), keepdims=True) + 1e-5)
    expected = ((grouped - mean) / deviation).reshape(x.shape)
    np.testing.assert_allclose(layer(x.astype(np.float32)), expected, atol=1e-4)


def largest_singular_values(model: keras.Model) -> list[float]:
    kernels = [layer.kernel.numpy() for layer in model.layers if hasattr(layer, "vector_u")]
    return [float(np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]))[1][0]) for kernel in kernels]


def test_spectral_normalization_brings_the_largest_singular_value_to_one() -> None:
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = create("cnn", spectral_norm=True, width=8)
    images = np.random.default_rng(0).normal(size=(4, *SHAPE)).astype(np.float32)
    before = largest_singular_values(model)
    assert len(before) == 6
    for _ in range(120):  # a power iteration each
        model(images, training=True)
    np.testing.assert_allclose(largest_singular_values(model), 1, rtol=1e-2)
    assert max(abs(value - 1) for value in before) > 0.1


def test_spectral_normalization_is_refused_on_two_replicas() -> None:
    devices = strategy.create(StrategyConfig(name="mirrored", logical_cpus=2))
    with devices.scope(), pytest.raises(UsageError, match=r"model\.spectral_norm .* --strategy\.name=one"):
        create("cnn", spectral_norm=True)


BROKEN = """
import tf_keras as keras
layers = keras.layers
class Subclassed(keras.Model):
    def call(self, images): return images
def raises(shape, classes): raise RuntimeError("two\\nlines")
def misspelled(shape, classes): return layers.Conv3x()
def nothing(shape, classes): pass
def subclassed(shape, classes): return Subclassed()
def one_argument(shape): pass
def other_input(shape, classes):
    x = keras.Input((3, 3, 3)); return keras.Model(x, layers.Dense(classes)(layers.Flatten()(x)))
def two_inputs(shape, classes):
    x, y = keras.Input(shape), keras.Input(shape)
    return keras.Model([x, y], layers.Dense(classes)(layers.Flatten()(x + y)))
def too_few(shape, classes):
    x = keras.Input(shape); return keras.Model(x, layers.Dense(classes - 1)(layers.Flatten()(x)))
def a_map(shape, classes):
    x = keras.Input(shape); return keras.Model(x, layers.Dense(classes)(x))
"""


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("absent", "has no function 'absent'; it must be path/to/file.py:function"),
        ("raises", "failed with RuntimeError: two lines; it must be"),
        ("misspelled", "failed with AttributeError: module .* has no attribute 'Conv3x'"),
        ("one_argument", "failed with TypeError: .* called with"),
        ("nothing", r"returned builtins\.NoneType: it must return a functional model of tf_keras"),
        ("subclassed", r"returned users_model\.Subclassed: it must return a functional model"),
        ("other_input", r"takes \(None, 3, 3, 3\): it must take one image of \(16, 16, 3\)"),
        ("two_inputs", r"it must take one image of \(16, 16, 3\)"),
        ("too_few", r"outputs of shape \(None, 9\); the data has 10 classes: it must end in 10 logits"),
        ("a_map", r"outputs of shape \(None, 16, 16, 10\)"),
    ],
)
def test_a_users_function_that_is_no_use_is_named_in_one_line(
    function: str, error: str, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(BROKEN)
    with pytest.raises(UsageError, match=error) as raised:
        create(f"{file}:{function}")
    assert f"{file}:{function}" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, r"there is no file .*mine\.py; it must be path/to/file\.py:function"),
        ("def broken(:", "failed with SyntaxError"),
        ("import nowhere_to_be_found", "failed with ModuleNotFoundError"),
        ("import os; os.nothing", "failed with AttributeError"),
    ],
)
def test_a_users_file_that_is_no_use_is_named_in_one_line(
    content: str | None, error: str, tmp_path: pathlib.Path
) -> None:
    if content:
        (tmp_path / "mine.py").write_text(content)
    with pytest.raises(UsageError, match=error) as raised:
        create(f"{tmp_path / 'mine.py'}:function")
    assert "\n" not in str(raised.value)
