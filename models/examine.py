"""The doctor inside a script: diagnoses a compiled Keras model on data sets of images and labels.

import evenkeel    # before TensorFlow

model.compile("adam", "sparse_categorical_crossentropy")
evenkeel.doctor(model, train_ds, validation_ds)
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import TrainConfig, from_dict
from evenkeel.models.doctor.runner import diagnose_run
from evenkeel.models.networks import users_network
from evenkeel.models.presets import keras_defaults
from evenkeel.models.report.diagnosis_json import to_json
from evenkeel.models.report.page import render_html
from evenkeel.models.report.text import render_text
from evenkeel.models.saved_model import describe_settings
from evenkeel.models.stability.diagnosis import Diagnosis
from evenkeel.pipeline.errors import UsageError, require
from evenkeel.pipeline.system.atomic_write import write_text

# Ranges of values of images, with (scale, offset) that turn values of 0 to 255 into them.
RANGES = {(0, 1): (1 / 255, 0.0), (-1, 1): (1 / 127.5, -1.0), (0, 255): (1.0, 0.0)}


def doctor(
    model: keras.Model,
    train_ds: tf.data.Dataset,
    validation_ds: tf.data.Dataset,
    epochs: int = 10,
    output: str = "",
    steps: int = 300,
) -> Diagnosis:
    """Finds out why a compiled model of tf_keras does not train well; prints the report and returns the diagnosis.

        evenkeel.doctor(model, train_ds, validation_ds, epochs=5)

    The images are written to PNG files once, and replays read these: what the data sets themselves do to images at
    random is frozen. The model itself is not trained.

    Args:
      model: the model, with the optimizer and the loss of its `compile`.
      train_ds, validation_ds: batches of (images, labels), finite. Images [b, h, w, c] are uint8, or floats of 0 to 1,
        -1 to 1 or 0 to 255; labels are integers [b] or [b, 1], or one-hot [b, classes].
      epochs: epochs for which the model is trained: how long a run is decides on some causes.
      output: directory of report.html, diagnosis.json and the images; a temporary one by default.
      steps: maximum number of steps of each replay.

    Raises:
      UsageError: the model is not compiled, or the data sets are not as above.
    """
    output = output or tempfile.mkdtemp(prefix="evenkeel-doctor-")
    config = prepare(model, train_ds, validation_ds, epochs, output)
    diagnosis = diagnose_run(config, model_dir="", output=output, steps=steps)
    text = json.dumps(to_json(diagnosis), indent=2, allow_nan=False)
    write_text(os.path.join(output, "diagnosis.json"), text + "\n")
    write_text(os.path.join(output, "report.html"), render_html(diagnosis) + "\n")
    print(render_text(diagnosis))
    print(f"report: {os.path.join(output, 'report.html')}")
    return diagnosis


def prepare(
    model: keras.Model, train_ds: tf.data.Dataset, validation_ds: tf.data.Dataset, epochs: int, output: str
) -> TrainConfig:
    """Writes the images below `output`, offers copies of `model` as a network, and returns the configuration of both.

    Raises:
      UsageError: see `doctor`.
    """
    require(
        isinstance(model, keras.Model) and getattr(model, "optimizer", None) is not None,
        "evenkeel.doctor takes a compiled model of tf_keras: call model.compile(optimizer, loss) first (import evenkeel"
        " before TensorFlow, and Keras as tf_keras).",
    )
    folder = os.path.join(output, "images")
    batch_size, shape, value_range = write_images(train_ds, os.path.join(folder, "train"))
    write_images(validation_ds, os.path.join(folder, "validation"), value_range)
    print(f"images of {value_range[0]} to {value_range[1]} are written to {folder}", file=sys.stderr)
    name = f"memory:{model.name}"
    users_network.offer(name, model, shape, RANGES[value_range])
    options, notes = describe_settings(name, *_compiled(model))
    print(*notes, sep="\n", file=sys.stderr)
    options.setdefault("optimizer", keras_defaults("sgd")["optimizer"])
    height, width, _ = shape
    data = {"source": folder, "batch_size": batch_size, "normalize": False}
    data["image_size"] = height if height == width else f"{height}x{width}"
    return from_dict(TrainConfig, {**options, "epochs": epochs, "model": {"name": name}, "data": data})


def write_images(
    ds: tf.data.Dataset, folder: str, value_range: tuple[int, int] | None = None
) -> tuple[int, tuple[int, int, int], tuple[int, int]]:
    """Writes the images of `ds` as FOLDER/LABEL/NUMBER.png.

    Returns (images in the first batch, shape of an image, range of values). The range is found in the first batches
    unless it is given.

    Raises:
      UsageError: the data set has no end, no images, or images or labels of another kind.
    """
    require(
        ds.cardinality() != tf.data.INFINITE_CARDINALITY,
        "the data set has no end: give it without repeat(), or only a part of it with take(batches).",
    )
    batches = _batches(ds)
    first = list(itertools.islice(batches, 8))
    require(bool(first), "the data set is empty: it must hold batches of (images, labels).")
    value_range = value_range or find_range(np.concatenate([images for images, _ in first]))
    scale, offset = RANGES[value_range]
    number = 0
    for images, labels in itertools.chain(first, batches):
        pixels = (images.astype(np.float64) - offset) / scale
        require(
            bool((pixels > -1).all() and (pixels < 256).all()),
            f"images have values of {images.min():g} to {images.max():g}, but the first ones {value_range[0]} to"
            f" {value_range[1]}: all must have the same range.",
        )
        for image, label in zip(np.rint(pixels).clip(0, 255).astype(np.uint8), labels, strict=True):
            path = os.path.join(folder, f"{label:05d}", f"{number:08d}.png")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            tf.io.write_file(path, tf.io.encode_png(image, compression=1))
            number += 1
    return len(first[0][0]), first[0][0].shape[1:], value_range


def find_range(images: np.ndarray) -> tuple[int, int]:
    """The range in RANGES that the values of `images` have; integers have 0 to 255.

    Raises:
      UsageError: they have none of these, such as standardized images.
    """
    low, high = float(images.min()), float(images.max())
    if np.issubdtype(images.dtype, np.integer) and low >= 0 and high <= 255:
        return 0, 255
    for least, most in RANGES:
        if least - 1e-3 <= low and high <= most + 1e-3:
            return least, most
    raise UsageError(
        f"images have values of {low:g} to {high:g}: they must be uint8, or floats of 0 to 1, -1 to 1 or 0 to 255; move"
        " a standardization into the model (keras.layers.Normalization)."
    )


def _batches(ds: tf.data.Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of (images [b, h, w, c], labels int [b])."""
    for element in ds.as_numpy_iterator():
        require(
            isinstance(element, tuple) and len(element) >= 2 and np.ndim(element[0]) in (3, 4),
            "a data set must hold batches of (images [b, h, w, c], labels [b]).",
        )
        images, labels = element[0], np.asarray(element[1])
        if images.ndim == 3:
            images, labels = images[None], labels[None]
        require(images.shape[-1] in (1, 3), f"images have {images.shape[-1]} channels: they must have 1 or 3.")
        if labels.ndim == 2 and labels.shape[1] > 1:
            labels = labels.argmax(axis=1)
        labels = labels.reshape(-1)
        require(len(labels) == len(images), f"there are {len(labels)} labels for {len(images)} images.")
        yield images, labels.astype(np.int64)


def _compiled(model: keras.Model) -> tuple[dict[str, Any], str]:
    """Returns (the arguments of `compile` as a model file holds them, the activation of the last layer)."""
    optimizer, loss = model.optimizer, model.loss
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    config = optimizer.get_config()
    if isinstance(config.get("learning_rate"), keras.optimizers.schedules.LearningRateSchedule):
        config["learning_rate"] = keras.optimizers.schedules.serialize(config["learning_rate"])
    described = {"config": loss.get_config()} if isinstance(loss, keras.losses.Loss) else loss
    activation = getattr(getattr(model.layers[-1], "activation", None), "__name__", "")
    return (
        {"optimizer": {"class_name": type(optimizer).__name__, "config": config}, "loss": described},
        "" if activation == "linear" else activation,
    )
