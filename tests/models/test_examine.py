"""A doctor for a script: the images, the settings and the network are those of the model and its data sets."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.models import examine
from evenkeel.models.networks.factory import create_network
from evenkeel.pipeline import build
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from tests.models.preflight.cases import Own

layers = keras.layers
SHAPE = (8, 8, 3)
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (24, *SHAPE), np.uint8), np.arange(24) % 3


def dataset(scale: float = 1.0, offset: float = 0.0, labels: np.ndarray = LABELS, dtype=np.float32) -> tf.data.Dataset:
    images = IMAGES if dtype == np.uint8 else (IMAGES * scale + offset).astype(dtype)
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(7)


def network() -> keras.Model:
    return keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(3, activation="softmax")])


def compiled(model: keras.Model) -> keras.Model:
    model.compile(keras.optimizers.SGD(0.25, momentum=0.5), "sparse_categorical_crossentropy")
    return model


@pytest.mark.slow
@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None], np.eye(3, dtype=np.float32)[LABELS]])
@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1 / 255, 0.0), (1 / 127.5, -1.0)])
def test_the_network_sees_what_the_model_sees(scale: float, offset: float, labels, tmp_path: pathlib.Path) -> None:
    model, ds = compiled(network()), dataset(scale, offset, labels)
    config = examine.prepare(model, ds, ds.take(2), 4, str(tmp_path))
    assert (config.epochs, config.data.batch_size, config.data.image_shape) == (4, 7, (8, 8))
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.momentum, optimizer.nesterov) == (
        "sgd",
        0.25,
        0.5,
        False,
    )
    assert optimizer.schedule == "constant"
    data = load_dataset(config.data)
    assert (len(data.train), len(data.validation), len(data.classes)) == (24, 14, 3)
    copy = create_network(config.model, SHAPE, 3)
    images, read_labels = next(iter(build.evaluation_batches(data.train, config.data, ReplicaShard(24))))[:2]
    order = [int(np.flatnonzero((image == IMAGES).all(axis=(1, 2, 3)))[0]) for image in images.numpy()]
    assert sorted(order) == list(range(24)), "no pixel has changed"
    np.testing.assert_array_equal(read_labels, LABELS[order])
    expected = model((IMAGES[order] * scale + offset).astype(np.float32))
    given = (images.numpy() - data.mean) / data.std
    np.testing.assert_allclose(tf.nn.softmax(copy(given.astype(np.float32))), expected, rtol=1e-3, atol=1e-6)


def test_a_copy_starts_anew_if_the_model_was_trained(tmp_path: pathlib.Path, capsys) -> None:
    model = compiled(network())
    model.fit(dataset(), verbose=0)
    trained = model.get_weights()
    config = examine.prepare(model, dataset(), dataset(), 1, str(tmp_path))
    assert "it was trained already: new initial weights are drawn" in capsys.readouterr().err
    assert not np.allclose(create_network(config.model, SHAPE, 3).get_weights()[0], trained[0])
    np.testing.assert_array_equal(model.get_weights()[0], trained[0])


def test_a_model_that_cannot_be_copied_starts_from_its_weights(tmp_path: pathlib.Path) -> None:
    model = compiled(Own(3))
    config = examine.prepare(model, dataset(), dataset(), 1, str(tmp_path))
    first = create_network(config.model, SHAPE, 3)
    before = first.get_weights()
    first.set_weights([2 * value for value in before])
    for old, new in zip(before, create_network(config.model, SHAPE, 3).get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda ds: ds.repeat(), r"has no end: give it without repeat\(\)"),
        (lambda ds: ds.take(0), "is empty"),
        (lambda ds: ds.map(lambda x, y: x), "must hold batches of"),
        (lambda ds: ds.map(lambda x, y: (x * 4, y)), "images have values of 0 to 1020"),
        (lambda ds: ds.map(lambda x, y: (x[..., :2], y)), "have 2 channels: they must have 1 or 3"),
        (lambda ds: ds.map(lambda x, y: (x, y[:-1])), "labels for 7 images"),
    ],
)
def test_other_data_sets_are_refused_in_one_line(change, error: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match=error) as raised:
        examine.prepare(compiled(network()), change(dataset()), dataset(), 1, str(tmp_path))
    assert "\n" not in str(raised.value)


def test_a_model_that_is_not_compiled_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match=r"call model\.compile\(optimizer, loss\) first"):
        examine.prepare(network(), dataset(), dataset(), 1, str(tmp_path))


def test_the_range_is_the_narrowest_that_holds_all_values() -> None:
    assert examine.find_range(np.array([0, 1], np.uint8)) == (0, 255)
    assert examine.find_range(np.array([0.0, 0.9])) == (0, 1)
    assert examine.find_range(np.array([-0.4, 0.9])) == (-1, 1)
    assert examine.find_range(np.array([0.0, 200.0])) == (0, 255)


@pytest.mark.slow
def test_a_diagnosis_is_printed_returned_and_written(tmp_path: pathlib.Path, capsys) -> None:
    diagnosis = examine.doctor(compiled(network()), dataset(1 / 255), dataset(1 / 255), 8, str(tmp_path), steps=20)
    assert f"report: {tmp_path / 'report.html'}" in capsys.readouterr().out
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert diagnosis.replays
