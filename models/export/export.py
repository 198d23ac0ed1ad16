"""Exports a run's model as a SavedModel that takes encoded images: it decodes, scales and normalizes them itself.

    directory = export("runs/pets", "served/pets", min_accuracy=0.9, baseline=True)  # served/pets/1

The name of a version's directory is a number, as TensorFlow Serving requires. The directory gets this name only when
the version is complete, was loaded again, and gave the probabilities of the trained model.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from evenkeel.models.distribute.io_errors import WRITE_ERRORS, summarize_error
from evenkeel.models.evaluation import RestoredRun, restore_run
from evenkeel.models.export.freeze import freeze
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.errors import UsageError, one_of, require
from evenkeel.pipeline.reading import serving
from evenkeel.pipeline.system.atomic_write import write_text

QUANTIZATIONS = ("none", "float16")
MAX_COMPARED_IMAGES = 512  # validation images whose probabilities are compared with the trained model's
# Largest allowed difference of a probability: in float32, and with weights or computations of fewer bits.
FLOAT32_TOLERANCE, LOW_PRECISION_TOLERANCE = 1e-5, 0.02
EVALUATION_FILE = "evaluation.json"
COMPARED_KEYS = ("source", "split", "images")  # keys of evaluation.json; only versions with equal values are comparable

Probabilities = Callable[[tf.Tensor], tf.Tensor]


class ExportRefused(Exception):
    """The exported model is not accurate enough, or differs from the trained one; the message is one line."""


class ServedModel(tf.Module):
    """The module that is saved; `tensors` and `encoded` are its signatures.

    Attributes:
      tensors: function of uint8 [b, h, w, c], see `_classify_pixels`.
      encoded: function of b strings with the bytes of JPEG, PNG, BMP, GIF or WebP files, see `_classify_encoded`.
    """

    def __init__(self, probabilities: Probabilities, run: RestoredRun) -> None:
        """`probabilities` is a function of uint8 [b, h, w, c] that returns float32 [b, classes]."""
        super().__init__()
        data = run.config.data
        self._probabilities, self._classes = probabilities, tf.constant(run.data.classes)
        self._decode = serving.image_reader(data, run.data.validation.sample_bits)
        self.tensors = tf.function(self._classify_pixels, input_signature=[pixel_spec(data)])
        self.encoded = tf.function(
            self._classify_encoded, input_signature=[tf.TensorSpec([None], tf.string, name="images")]
        )

    def _classify_pixels(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the most probable class, its probability, and all probabilities in the order of classes.txt."""
        probabilities = self._probabilities(images)
        return {
            "class": tf.gather(self._classes, tf.argmax(probabilities, axis=1)),
            "probability": tf.reduce_max(probabilities, axis=1),
            "probabilities": probabilities,
        }

    def _classify_encoded(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Like `_classify_pixels`; an image that cannot be decoded has class "", probabilities of 0 and an `error`."""
        pixels, errors = self._decode(images)
        decoded, result = errors == "", self._classify_pixels(pixels)
        return {
            "class": tf.where(decoded, result["class"], ""),
            "probability": tf.where(decoded, result["probability"], 0.0),
            "probabilities": tf.where(decoded[:, None], result["probabilities"], 0.0),
            "error": errors,
        }


def export(
    model_dir: str,
    output: str,
    quantize: str = "none",
    min_accuracy: float = 0.0,
    baseline: bool = False,
    checkpoint: str = "best",
) -> str:
    """Exports the model of a run as the next version below `output` and returns the version's directory.

    Args:
      model_dir: directory of the run.
      output: directory of the versions.
      quantize: "none", or "float16" to store weights in half the bytes.
      min_accuracy: minimum accuracy of the exported model on the run's validation split.
      baseline: whether the accuracy must also reach that of the newest version below `output`.
      checkpoint: "best" or "last".

    Raises:
      UsageError: there is no such run or checkpoint, or `output` cannot be written.
      ExportRefused: the exported model is not accurate enough, or its probabilities differ from the trained model's.
    """
    one_of("quantize", quantize, QUANTIZATIONS)
    require(0 <= min_accuracy <= 1, f"--min_accuracy ({min_accuracy}) must be from 0 to 1.")
    newest = newest_version(output)
    previous = read_evaluation(output, newest) if baseline and newest else None
    run = restore_run(model_dir, checkpoint, one_replica=True)
    trained = run.evaluate()
    directory = os.path.join(output, str(newest + 1))
    temporary = os.path.join(output, f".writing-{newest + 1}")
    with run.model.evaluation_weights():
        expected, _ = predict(probability_function(run), run, MAX_COMPARED_IMAGES)
        frozen = freeze(probability_function(run), pixel_spec(run.config.data), float16=quantize == "float16")
        served = ServedModel(frozen, run)
    try:
        with report_write_errors(output):
            if tf.io.gfile.exists(temporary):  # left by an export that was killed
                tf.io.gfile.rmtree(temporary)
            signatures = {"serving_default": served.encoded, "tensors": served.tensors}
            tf.saved_model.save(served, temporary, signatures=signatures)
        loaded = tf.saved_model.load(temporary).signatures["tensors"]
        probabilities, labels = predict(lambda images: loaded(images=images)["probabilities"], run)
        accuracy = float(np.mean(probabilities.argmax(axis=1) == labels))
        low_precision = quantize != "none" or run.model.compute_dtype != "float32"
        tolerance = LOW_PRECISION_TOLERANCE if low_precision else FLOAT32_TOLERANCE
        check_probabilities(probabilities[: len(expected)], expected, tolerance)
        evaluation = {
            "accuracy": accuracy,
            "trained_accuracy": trained.accuracy,
            "images": len(labels),
            "source": run.config.data.source,
            "split": run.config.data.validation_split,
            "checkpoint": trained.checkpoint,
            "quantize": quantize,
        }
        check_accuracy(evaluation, min_accuracy, previous)
        with report_write_errors(output):
            write_text(os.path.join(temporary, EVALUATION_FILE), json.dumps(evaluation, indent=2) + "\n")
            write_text(os.path.join(temporary, "classes.txt"), "\n".join(run.data.classes) + "\n")
            tf.io.gfile.rename(temporary, directory)
    finally:
        if tf.io.gfile.exists(temporary):
            tf.io.gfile.rmtree(temporary)
    return directory


@contextlib.contextmanager
def report_write_errors(output: str) -> Iterator[None]:
    """Turns errors of writing inside the block into a `UsageError` that names `output`."""
    try:
        yield
    except WRITE_ERRORS as error:
        raise UsageError(f"output ({output}) cannot be written: {summarize_error(error)}; choose another.") from error


def pixel_spec(data: DataConfig) -> tf.TensorSpec:
    """The input of a model, uint8 [b, h, w, c]."""
    return tf.TensorSpec([None, *data.image_shape, data.channels], tf.uint8, name="images")


def probability_function(run: RestoredRun) -> Probabilities:
    """The function of uint8 images [b, h, w, c] that returns probabilities [b, classes].

    They come from a softmax or, if the loss treats each class separately, from a sigmoid.
    """
    activation = tf.sigmoid if run.config.loss == "focal" else tf.nn.softmax
    return lambda images: activation(run.model.evaluation_logits(images))


def predict(function: Probabilities, run: RestoredRun, max_images: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns (probabilities float32 [n, classes], labels int [n]) of the first `max_images` validation images, or all.

    `function` returns the probabilities of uint8 images [b, h, w, c].
    """
    probabilities: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for images, batch_labels, weights in itertools.islice(run.batches, run.steps):
        valid = weights.numpy() > 0  # padding of the last batch has a weight of 0
        probabilities.append(function(images).numpy()[valid])
        labels.append(batch_labels.numpy()[valid])
        if max_images and sum(map(len, probabilities)) >= max_images:
            break
    return np.concatenate(probabilities)[:max_images], np.concatenate(labels)[:max_images]


def check_probabilities(probabilities: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Raises `ExportRefused` if a probability differs from the trained model's by more than `tolerance`."""
    difference = float(np.abs(probabilities - expected).max())
    if not difference <= tolerance:
        raise ExportRefused(
            f"a probability of the exported model differs from the trained model's by {difference:.2g}, more than"
            f" {tolerance:g}: nothing was exported; with --quantize=float16, try --quantize=none."
        )


def check_accuracy(evaluation: dict[str, Any], min_accuracy: float, previous: dict[str, Any] | None) -> None:
    """Raises `ExportRefused` if the accuracy is below `min_accuracy`, or below that of the `previous` version."""
    accuracy = evaluation["accuracy"]
    if accuracy < min_accuracy:
        raise ExportRefused(
            f"accuracy {accuracy:.4f} is below --min_accuracy={min_accuracy:g}: nothing was exported; train a better"
            " model."
        )
    if previous is None:
        return
    different = [key for key in COMPARED_KEYS if previous[key] != evaluation[key]]
    if different:
        key = different[0]
        raise ExportRefused(
            f"--baseline: the previous version was evaluated on other images ({key} {previous[key]!r}, now"
            f" {evaluation[key]!r}): nothing was exported; leave --baseline out."
        )
    if accuracy < previous["accuracy"]:
        raise ExportRefused(
            f"accuracy {accuracy:.4f} is below the {previous['accuracy']:.4f} of the previous version: nothing was"
            " exported; leave --baseline out to export it all the same."
        )


def newest_version(output: str) -> int:
    """The number of the newest version below `output`; 0 if there is none."""
    names = tf.io.gfile.listdir(output) if tf.io.gfile.isdir(output) else []
    return max((int(name.rstrip("/")) for name in names if name.rstrip("/").isdigit()), default=0)


def read_evaluation(output: str, version: int) -> dict[str, Any]:
    """Reads accuracy, source, split and number of images from a version's evaluation.json.

    Raises:
      UsageError: the file cannot be read.
    """
    path = os.path.join(output, str(version), EVALUATION_FILE)
    try:
        with tf.io.gfile.GFile(path) as file:
            evaluation = json.loads(file.read())
            return {key: evaluation[key] for key in ("accuracy", *COMPARED_KEYS)}
    except (ValueError, KeyError, TypeError, tf.errors.OpError) as error:
        reason = summarize_error(error)
        raise UsageError(
            f"--baseline: {path} cannot be read ({reason}): repair the file, or leave --baseline out."
        ) from error
