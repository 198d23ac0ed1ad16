"""A run's model as a SavedModel that takes encoded images: decoding, scaling and normalization are inside.

    directory = export("runs/pets", "served/pets", min_accuracy=0.9, baseline=True)    # served/pets/1

A version is a directory with a number for a name, as TensorFlow Serving wants it. It is pushed whole, under its name
from the first moment, and only after it has been loaded and found to say what the trained model says.
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

from evenkeel.models.distribute.io_errors import UNWRITTEN, reason
from evenkeel.models.errors import TrainingFailed
from evenkeel.models.evaluation import Restored, restored
from evenkeel.models.export import tfx
from evenkeel.models.export.frozen import frozen
from evenkeel.models.train import train
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.errors import UsageError, one_of, require
from evenkeel.pipeline.reading import serving
from evenkeel.pipeline.system.atomic_write import write_text

QUANTIZE = ("none", "float16")
CHECKED = 512  # validation images whose probabilities are compared, at most
EXACT, ROUNDED = 1e-5, 0.02  # of a probability: what may differ in float32, and where numbers have fewer bits
EVALUATION = "evaluation.json"

Probabilities = Callable[[tf.Tensor], tf.Tensor]


class Refused(Exception):
    """The model is not good enough, or not the one that was trained; one line."""


class Served(tf.Module):
    """What a client calls; `probabilities` is a function of uint8 [b, s, s, c]."""

    def __init__(self, probabilities: Probabilities, of: Restored) -> None:
        super().__init__()
        data = of.config.data
        self._probabilities, self._classes = probabilities, tf.constant(of.data.classes)
        self._read = serving.reader(data.image_size, data.channels, data.eval_crop, data.max_pixels)
        self.tensors = tf.function(self._of_tensors, input_signature=[pixels(data)])
        self.encoded = tf.function(self._of_encoded, input_signature=[tf.TensorSpec([None], tf.string, name="images")])

    def _of_tensors(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """The likeliest class's name and probability, and those of all classes in the order of classes.txt."""
        probabilities = self._probabilities(images)
        return {
            "class": tf.gather(self._classes, tf.argmax(probabilities, axis=1)),
            "probability": tf.reduce_max(probabilities, axis=1),
            "probabilities": probabilities,
        }

    def _of_encoded(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """As of tensors; an image that cannot be read has no class, probabilities of 0 and an `error`."""
        shown, errors = self._read(images)
        well, found = errors == "", self._of_tensors(shown)
        return {
            "class": tf.where(well, found["class"], ""),
            "probability": tf.where(well, found["probability"], 0.0),
            "probabilities": tf.where(well[:, None], found["probabilities"], 0.0),
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
    """The directory of the new version under `output`.

    Args:
      quantize: none | float16: weights in half the bytes.
      min_accuracy: the exported model's on the run's validation split must be at least that.
      baseline: and not below that of the newest version already there.
      checkpoint: best | last

    Raises:
      UsageError: there is no such run or checkpoint, or `output` cannot be written to.
      Refused: it is not accurate enough, or does not say what the trained model says.
    """
    one_of("quantize", quantize, QUANTIZE)
    require(0 <= min_accuracy <= 1, f"min_accuracy ({min_accuracy}) must lie in [0, 1].")
    before = newest(output)
    previous = read_evaluation(output, before) if baseline and before else None
    run = restored(model_dir, checkpoint, one_replica=True)
    trained = run.evaluate()
    final = os.path.join(output, str(before + 1))
    beside = os.path.join(output, f".writing-{before + 1}")
    with run.model.evaluated_weights():
        expected, _ = told(probabilities(run), run, CHECKED)
        served = Served(frozen(probabilities(run), pixels(run.config.data), halved=quantize == "float16"), run)
    try:
        with written(output):
            if tf.io.gfile.exists(beside):  # of an export that was killed
                tf.io.gfile.rmtree(beside)
            signatures = {"serving_default": served.encoded, "tensors": served.tensors}
            tf.saved_model.save(served, beside, signatures=signatures)
        loaded = tf.saved_model.load(beside).signatures["tensors"]
        found, labels = told(lambda images: loaded(images=images)["probabilities"], run)
        accuracy = float(np.mean(found.argmax(axis=1) == labels))
        rounded = quantize != "none" or run.model.compute_dtype != "float32"
        check_same(found[: len(expected)], expected, ROUNDED if rounded else EXACT)
        result = {
            "accuracy": accuracy,
            "trained_accuracy": trained.accuracy,
            "images": len(labels),
            "source": run.config.data.source,
            "split": run.config.data.validation_split,
            "checkpoint": trained.checkpoint,
            "quantize": quantize,
        }
        check_good(result, min_accuracy, previous)
        with written(output):
            write_text(os.path.join(beside, EVALUATION), json.dumps(result, indent=2) + "\n")
            write_text(os.path.join(beside, "classes.txt"), "\n".join(run.data.classes) + "\n")
            tf.io.gfile.rename(beside, final)
    finally:
        if tf.io.gfile.exists(beside):
            tf.io.gfile.rmtree(beside)
    return final


@contextlib.contextmanager
def written(output: str) -> Iterator[None]:
    """Raises `UsageError` for what cannot be written inside of the block."""
    try:
        yield
    except UNWRITTEN as error:
        raise UsageError(f"output ({output}) cannot be written to: {reason(error)}; choose another.") from error


def pixels(data: DataConfig) -> tf.TensorSpec:
    return tf.TensorSpec([None, data.image_size, data.image_size, data.channels], tf.uint8, name="images")


def probabilities(run: Restored) -> Probabilities:
    """Of the classes; each by itself where the loss takes them so."""
    activation = tf.sigmoid if run.config.loss == "focal" else tf.nn.softmax
    return lambda images: activation(run.model.evaluated_logits(images))


def told(function: Probabilities, run: Restored, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(what `function` says [n, classes], labels [n]) of the validation images, or of the first `most` of them."""
    found: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for images, label, weights in itertools.islice(run.batches, run.steps):
        counts = weights.numpy() > 0
        found.append(function(images).numpy()[counts])
        labels.append(label.numpy()[counts])
        if most and sum(map(len, found)) >= most:
            break
    return np.concatenate(found)[:most], np.concatenate(labels)[:most]


def check_same(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Raises `Refused` where a probability is further from what the trained model says."""
    worst = float(np.abs(found - expected).max())
    if not worst <= tolerance:
        raise Refused(
            f"a probability of the exported model is {worst:.2g} from the trained model's, more than {tolerance:g}:"
            " nothing was pushed; if that is --quantize=float16, use none."
        )


def check_good(result: dict[str, Any], min_accuracy: float, before: dict[str, Any] | None) -> None:
    """Raises `Refused` where the accuracy is below the least, or that of the version before."""
    accuracy = result["accuracy"]
    if accuracy < min_accuracy:
        raise Refused(f"accuracy {accuracy:.4f} is below --min_accuracy={min_accuracy:g}: nothing was pushed.")
    if before is None:
        return
    other = [name for name in ("source", "split", "images") if before[name] != result[name]]
    if other:
        raise Refused(
            f"--baseline: the version there was evaluated on other images ({other[0]} {before[other[0]]!r}, here"
            f" {result[other[0]]!r}): nothing was pushed; leave --baseline out."
        )
    if accuracy < before["accuracy"]:
        raise Refused(
            f"accuracy {accuracy:.4f} is below the {before['accuracy']:.4f} of the version there: nothing was pushed."
        )


def newest(output: str) -> int:
    """The number of the newest version under `output`; 0 where there is none."""
    names = tf.io.gfile.listdir(output) if tf.io.gfile.isdir(output) else []
    return max((int(name.rstrip("/")) for name in names if name.rstrip("/").isdigit()), default=0)


def read_evaluation(output: str, version: int) -> dict[str, Any]:
    """What evaluation.json of a version says of its accuracy and of the images that is on.

    Raises:
      UsageError: it has none that can be read.
    """
    path = os.path.join(output, str(version), EVALUATION)
    try:
        with tf.io.gfile.GFile(path) as file:
            found = json.loads(file.read())
            return {name: found[name] for name in ("accuracy", "source", "split", "images")}
    except (ValueError, KeyError, TypeError, tf.errors.OpError) as error:
        raise UsageError(f"--baseline: {path} cannot be read: leave --baseline out.") from error


def run_fn(fn_args: tfx.FnArgs) -> None:
    """What TFX's Trainer calls: trains into `model_run_dir`, puts the SavedModel into `serving_model_dir`.

    Called again for the same `model_run_dir`, it goes on from the newest checkpoint there.

    Raises:
      UsageError: something in `fn_args` cannot be used, see `tfx.configured`.
      TrainingFailed: the run did not come to its end.
      Refused: the exported model does not say what the trained one says.
    """
    config = tfx.configured(fn_args)
    run, versions = os.path.join(fn_args.model_run_dir, "run"), os.path.join(fn_args.model_run_dir, "exported")
    begun = tf.io.gfile.exists(os.path.join(run, "config.json"))
    summary = train(config, run, resume=begun)
    if summary["status"] not in ("completed", "stopped_early"):
        raise TrainingFailed(f"the run ended as {summary['status']}: {summary.get('reason', summary.get('signal'))}")
    pushed = export(run, versions)
    with written(fn_args.serving_model_dir):
        if tf.io.gfile.exists(fn_args.serving_model_dir):
            tf.io.gfile.rmtree(fn_args.serving_model_dir)
        tf.io.gfile.makedirs(os.path.dirname(fn_args.serving_model_dir))
        tf.io.gfile.rename(pushed, fn_args.serving_model_dir)
