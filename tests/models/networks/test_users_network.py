"""Networks of users: every form that Keras knows is taken, and what does not fit is refused in one line."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.networks import surgery
from evenkeel.models.networks.users_network import complete_network, create_users_network, read_files_again
from evenkeel.models.optim.losses import Crossentropy
from evenkeel.models.training.stable_model import StableModel
from evenkeel.models.training.step_options import StepOptions
from evenkeel.pipeline.errors import UsageError
from tests.models.preflight.cases import Own

layers = keras.layers
SHAPE = (16, 16, 3)
IMAGES = np.random.default_rng(0).normal(size=(5, *SHAPE)).astype(np.float32)
# Any name: a line is said once for each origin, so that each test needs another.
ORIGIN = "model of {}"


def stacked(*ends: keras.layers.Layer, sized: bool = True) -> keras.Sequential:
    start = [keras.Input(SHAPE)] if sized else []
    return keras.Sequential([*start, layers.Conv2D(4, 3, activation="relu"), layers.Flatten(), *ends])


def around(layer: keras.layers.Layer) -> keras.Model:
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, layer(inputs))


def as_function(function) -> keras.Model:
    model = stacked(layers.Dense(5))
    return keras.Model(model.inputs, function(model.outputs[0]))


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (stacked(layers.Dense(5, activation="softmax", name="end")), "end ends in softmax"),
        (stacked(layers.Dense(5), layers.Activation("softmax", name="end")), "end ends in softmax"),
        (stacked(layers.Dense(5), layers.Softmax(name="end")), "end ends in softmax"),
        (stacked(layers.Dense(5, activation=tf.nn.softmax, name="end")), "end ends in softmax"),
        (as_function(tf.nn.softmax), "ends in softmax: the network is trained on the logits before it"),
        (around(stacked(layers.Dense(5, activation="softmax", name="end"))), "end ends in softmax"),
        (stacked(layers.Dense(5), layers.Lambda(tf.nn.softmax, name="end")), "end gives probabilities"),
        (Own(5, "softmax"), "gives probabilities: the network is trained on their logarithms"),
        (around(Own(5, "softmax")), "gives probabilities: the network is trained on their logarithms"),
    ],
)
def test_the_softmax_of_the_logits_is_what_the_network_gave(network: keras.Model, said: str, capsys) -> None:
    origin = ORIGIN.format(id(network))
    logits = complete_network(network, origin, SHAPE, 5)
    np.testing.assert_allclose(tf.nn.softmax(logits(IMAGES)), network(IMAGES), rtol=1e-4)
    lines = capsys.readouterr().err.splitlines()
    assert said in lines[0]
    assert lines[0].startswith(f"{origin}: ")
    complete_network(network, origin, SHAPE, 5)
    assert capsys.readouterr().err == "", "it is said once"


@pytest.mark.parametrize(
    "network",
    [
        stacked(layers.Dense(1, activation="sigmoid")),
        as_function(lambda x: tf.sigmoid(layers.Dense(1)(x))),
        stacked(layers.Dense(1), layers.Lambda(tf.sigmoid)),
        Own(1, "sigmoid"),
    ],
)
def test_one_sigmoid_unit_is_the_second_of_two_classes(network: keras.Model) -> None:
    logits = complete_network(network, ORIGIN.format(id(network)), SHAPE, 2)(IMAGES)
    assert logits.shape == (5, 2)
    expected = np.asarray(network(IMAGES), np.float64)
    np.testing.assert_allclose(tf.nn.softmax(logits), np.concatenate([1 - expected, expected], 1), rtol=1e-4, atol=1e-6)
    labels = np.array([0, 1, 1, 0, 1])
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    binary = -np.log(np.where(labels, expected[:, 0], 1 - expected[:, 0]))
    np.testing.assert_allclose(loss, binary, rtol=1e-4)


@pytest.mark.parametrize("network", [stacked(layers.Dense(1)), Own(1)])
def test_one_linear_unit_is_a_logit(network: keras.Model, capsys) -> None:
    logits = complete_network(network, ORIGIN.format(id(network)), SHAPE, 2)(IMAGES)
    np.testing.assert_array_equal(logits, np.concatenate([np.zeros((5, 1)), network(IMAGES)], 1, dtype=np.float32))
    assert "is one unit for two classes: it is taken as the logit of the second class" in capsys.readouterr().err


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", None])
def test_other_ends_stay_for_preflight_to_judge(activation: str | None) -> None:
    network = stacked(layers.Dense(5, activation=activation))
    assert complete_network(network, "it", SHAPE, 5) is network


def test_a_softmax_of_one_unit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"it: .* ends in end, a softmax of one unit, which is always 1: use 2 units"):
        complete_network(stacked(layers.Dense(1, activation="softmax", name="end")), "it", SHAPE, 2)


def test_of_two_softmaxes_one_stays() -> None:
    network = complete_network(stacked(layers.Dense(5, activation="softmax"), layers.Softmax()), "two", SHAPE, 5)
    np.testing.assert_allclose(np.sum(network(IMAGES), axis=1), 1, rtol=1e-5)
    assert surgery.has_effect(network, "logits")


@pytest.mark.parametrize(
    "network",
    [
        Own(5),
        around(Own(5)),
        stacked(layers.Dense(5), sized=False),
        keras.Sequential([Own(7), layers.Dense(5)]),
        keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(5, 3), layers.GlobalMaxPooling2D()]),
    ],
)
def test_a_model_of_any_form_becomes_a_functional_one_with_its_weights(network: keras.Model) -> None:
    model = complete_network(network, ORIGIN.format(id(network)), SHAPE, 5)
    assert model._is_graph_network
    assert model.input_shape == (None, *SHAPE)
    np.testing.assert_allclose(model(IMAGES), network(IMAGES), rtol=1e-5, atol=1e-6)


def test_what_cannot_be_changed_is_said_and_left_as_it_is(capsys) -> None:
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, activation="relu", name="outside")(inputs)
    network = complete_network(keras.Model(inputs, Own(5)(x)), "mine", SHAPE, 5)
    assert capsys.readouterr().err == (
        "mine: --model.patch cannot change the layers inside of Own; they are trained and watched\n"
    )
    patched = surgery.apply_patches(network, ("batch_norm", "leaky_relu", "logits", "norm_momentum"))
    # Own has BatchNorm inside, so none is added.
    names = [type(layer).__name__ for layer in patched.layers]
    assert names == ["InputLayer", "Conv2D", "LeakyReLU", "Own"]
    assert patched.layers[-1] is network.layers[-1]
    assert all("Conv2D 'outside'" in line for line in surgery.describe_edits(network, ("batch_norm", "leaky_relu")))


def test_layers_inside_of_a_subclassed_model_are_trained_and_watched() -> None:
    model = StableModel.wrap(complete_network(Own(5), "watched", SHAPE, 5))
    model.compile(keras.optimizers.SGD(0.1), Crossentropy(), StepOptions(layer_stats_every=1), steps_per_execution=3)
    before = [variable.numpy() for variable in model.trainable_variables]
    batches = tf.data.Dataset.from_tensors((tf.cast(127 + 60 * IMAGES, tf.uint8), tf.range(5, dtype=tf.int64))).repeat()
    model.fit(batches, steps_per_epoch=3, verbose=0)
    changed = [not np.array_equal(old, new.numpy()) for old, new in zip(before, model.trainable_variables, strict=True)]
    assert changed == [True] * 8
    stats = model.layer_stats.unpack(model.layer_rows)
    assert model.layer_stats.groups == ["conv0", "conv1", "logits"]
    assert (stats["gradient_norm"] > 0).all()
    assert (stats["update_norm"] > 0).all()
    assert stats["shift"].shape == (3, 1), "its BatchNorm"


def test_a_file_is_read_once(tmp_path: pathlib.Path) -> None:
    """AutoGraph reads the source of a layer as well: its `if` over a tensor must be that of the file as it was."""
    file = tmp_path / "mine.py"
    source = """
import tensorflow as tf, tf_keras as keras
class Halving(keras.layers.Layer):
    def call(self, x):
        if tf.reduce_mean(x) > 0:
            x = x / 2
        return x
def network(shape, classes):
    return keras.Sequential([keras.Input(shape), Halving(), keras.layers.Flatten(), keras.layers.Dense(classes)])
"""
    file.write_text(source)
    create_users_network(f"{file}:network", SHAPE, 5)
    file.write_text("\n" * 3 + source.replace("Dense", "Dens").replace("x / 2", "x / ("))
    again = create_users_network(f"{file}:network", SHAPE, 5)
    assert again.output_shape == (None, 5)
    read_files_again()
    with pytest.raises(UsageError, match="failed with SyntaxError"):
        create_users_network(f"{file}:network", SHAPE, 5)


BROKEN = """
import tf_keras as keras
layers = keras.layers
class Failing(keras.Model):
    def call(self, images): raise RuntimeError("no way")
def raises(shape, classes): raise RuntimeError("two\\nlines")
def misspelled(shape, classes): return layers.Conv3x()
def nothing(shape, classes): pass
def failing(shape, classes): return Failing()
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
        ("nothing", r"returned builtins\.NoneType: it must return a model of tf_keras"),
        (
            "failing",
            r"fails on keras\.Input\(\(16, 16, 3\)\) with RuntimeError: .*no way.*; its call must take a batch",
        ),
        ("other_input", r"takes \(None, 3, 3, 3\): it must take one image of \(16, 16, 3\)"),
        ("two_inputs", r"it must take one image of \(16, 16, 3\)"),
        ("too_few", r"outputs of shape \(None, 9\); the data has 10 classes: it must end in 10 units"),
        ("a_map", r"outputs of shape \(None, 16, 16, 10\)"),
    ],
)
def test_the_error_of_a_users_function_is_one_line_with_its_name(
    function: str, error: str, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(BROKEN)
    with pytest.raises(UsageError, match=error) as raised:
        create_users_network(f"{file}:{function}", SHAPE, 10)
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
def test_the_error_of_a_users_file_is_one_line(content: str | None, error: str, tmp_path: pathlib.Path) -> None:
    if content:
        (tmp_path / "mine.py").write_text(content)
    with pytest.raises(UsageError, match=error) as raised:
        create_users_network(f"{tmp_path / 'mine.py'}:function", SHAPE, 10)
    assert "\n" not in str(raised.value)
