"""Settings of model files against the models that were saved, and files that could run code."""

from __future__ import annotations

import json
import pathlib
import zipfile

import numpy as np
import pytest
import tf_keras as keras

from evenkeel.models.config import TrainConfig, from_dict
from evenkeel.models.networks.users_network import create_users_network, load_model_file
from evenkeel.models.saved_model import read_saved_model
from evenkeel.pipeline.errors import UsageError

layers, optimizers = keras.layers, keras.optimizers
SHAPE = (8, 8, 3)
FORMATS = ["keras", "h5"]


def network(last: str | None = "softmax", *first: keras.layers.Layer) -> keras.Model:
    start = [keras.Input(SHAPE), *first, layers.Conv2D(4, 3, activation="relu", name="first"), layers.Flatten()]
    return keras.Sequential([*start, layers.Dense(3, activation=last, name="last")])


def save(model: keras.Model, path: pathlib.Path, optimizer="adam", loss="sparse_categorical_crossentropy") -> str:
    model.compile(optimizer, loss)
    model.save(path)
    return str(path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (optimizers.Adam(0.003, beta_2=0.99, clipvalue=2.0), ("adam", 0.003, {"beta_2": 0.99, "clip_value": 2.0})),
        (optimizers.SGD(0.2, momentum=0.8, nesterov=True), ("sgd", 0.2, {"momentum": 0.8, "nesterov": True})),
        (optimizers.SGD(0.2), ("sgd", 0.2, {"momentum": 0.0, "nesterov": False})),
        ("adam", ("adam", 0.001, {"beta_2": 0.999})),
        ("sgd", ("sgd", 0.01, {"momentum": 0.0, "nesterov": False})),
        (optimizers.RMSprop(), ("rmsprop", 0.001, {"beta_2": 0.9, "momentum": 0.0})),
        (optimizers.AdamW(), ("adamw", 0.001, {"weight_decay": 0.004})),
        (optimizers.Adadelta(1.0), ("adadelta", 1.0, {"beta_2": 0.95})),
        (optimizers.Adam(optimizers.schedules.CosineDecay(0.01, 50)), ("adam", 0.01, {"schedule": "cosine"})),
    ],
    ids=["adam", "nesterov", "sgd", "its name", "sgd's name", "rmsprop", "adamw", "adadelta", "cosine"],
)
def test_the_compiled_optimizer_is_read(suffix: str, optimizer, expected, tmp_path: pathlib.Path) -> None:
    path = save(network(), tmp_path / f"net.{suffix}", optimizer)
    saved = read_saved_model(path)
    config = from_dict(TrainConfig, saved.options).optimizer
    name, rate, others = expected
    assert (config.name, config.learning_rate) == (name, rate)
    assert {key: getattr(config, key) for key in others} == others
    assert len(saved.notes) == 1
    class_name = optimizer if isinstance(optimizer, str) else type(optimizer).__name__
    assert f"was compiled with {class_name} (".lower() in saved.notes[0].lower()


@pytest.mark.parametrize(
    ("last", "loss", "words"),
    [
        (None, keras.losses.SparseCategoricalCrossentropy(from_logits=True), []),
        ("softmax", keras.losses.SparseCategoricalCrossentropy(from_logits=True), ["from_logits=True", "softmax"]),
        (None, "sparse_categorical_crossentropy", ["from_logits=False", "no activation"]),
        ("softmax", "mean_squared_error", ["its loss is mean_squared_error"]),
    ],
)
def test_a_loss_that_does_not_fit_the_outputs_is_said(last, loss, words: list[str], tmp_path: pathlib.Path) -> None:
    notes = read_saved_model(save(network(last), tmp_path / "net.keras", loss=loss)).notes[1:]
    assert len(notes) == bool(words)
    for word in words:
        assert word in notes[0]


def test_what_evenkeel_lacks_is_said(tmp_path: pathlib.Path) -> None:
    rate = optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    saved = read_saved_model(save(network(), tmp_path / "net.keras", optimizers.SGD(rate, clipnorm=1.0)))
    assert saved.options["optimizer"]["learning_rate"] == 0.1
    assert saved.notes[1].endswith("evenkeel has no schedule ExponentialDecay, clipnorm: it trains without")
    network().save(tmp_path / "bare.keras")
    saved = read_saved_model(str(tmp_path / "bare.keras"))
    assert saved.options == {}
    assert "was saved without compile()" in saved.notes[0]


def test_a_network_that_scales_its_images_gets_them_as_they_are(tmp_path: pathlib.Path) -> None:
    path = save(network("softmax", layers.Rescaling(1 / 255)), tmp_path / "net.keras")
    assert read_saved_model(path).options["data"] == {"normalize": False}
    assert "data" not in read_saved_model(save(network(), tmp_path / "other.keras")).options


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
@pytest.mark.parametrize("suffix", FORMATS)
def test_weights_are_kept_until_the_model_has_been_trained(suffix: str, tmp_path: pathlib.Path) -> None:
    model = network()
    model.get_layer("first").trainable = False
    path = save(model, tmp_path / f"new.{suffix}")
    loaded = create_users_network(path, SHAPE, 3)
    for old, new in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    model.fit(np.zeros((4, *SHAPE)), np.zeros(4), verbose=0)
    model.save(tmp_path / f"trained.{suffix}")
    loaded = load_model_file(str(tmp_path / f"trained.{suffix}"))
    np.testing.assert_array_equal(loaded.get_layer("first").kernel, model.get_layer("first").kernel)
    assert not np.array_equal(loaded.get_layer("last").kernel, model.get_layer("last").kernel)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_lambda_layer_is_refused(suffix: str, tmp_path: pathlib.Path) -> None:
    path = save(network("softmax", layers.Lambda(lambda x: x * 2)), tmp_path / f"net.{suffix}")
    for read in (read_saved_model, load_model_file):
        with pytest.raises(UsageError, match="has a Lambda layer, whose code is not run: name a function"):
            read(path)


def edit(path: str, change) -> str:
    """Rewrites config.json of a .keras file."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    change(config["config"]["layers"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, json.dumps(config) if name == "config.json" else content)
    return path


@pytest.mark.parametrize(
    ("layer", "error"),
    [
        ({"module": "antigravity", "class_name": "run", "config": {}}, r"antigravity\.run, which is not Keras's"),
        (
            {"class_name": "TFOpLambda", "config": {"function": "io.write_file"}},
            r"calls io\.write_file, which is not run",
        ),
        ({"class_name": "ClassMethod", "config": {}}, "calls ClassMethod, which is not run"),
    ],
)
def test_a_file_that_could_run_code_is_refused(layer: dict, error: str, tmp_path: pathlib.Path) -> None:
    path = edit(save(network(), tmp_path / "net.keras"), lambda saved_layers: saved_layers.append(layer))
    for read in (read_saved_model, load_model_file):
        with pytest.raises(UsageError, match=error):
            read(path)


def test_a_file_of_keras_3_and_files_that_are_no_models_are_one_line(tmp_path: pathlib.Path) -> None:
    def rename(saved_layers: list) -> None:
        saved_layers[0]["config"]["batch_shape"] = saved_layers[0]["config"].pop("batch_input_shape")

    with pytest.raises(UsageError, match="was saved by Keras 3, whose files tf_keras cannot read: name a function"):
        read_saved_model(edit(save(network(), tmp_path / "net.keras"), rename))
    for name in ("text.keras", "text.h5"):
        (tmp_path / name).write_text("no model")
        with pytest.raises(UsageError, match=r"cannot be read: .*; it must be a model that tf_keras has saved"):
            read_saved_model(str(tmp_path / name))
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_saved_model(str(tmp_path / "absent.keras"))
