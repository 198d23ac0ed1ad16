"""What TensorBoard shows of a run: scalars a step, histograms, pictures, hyperparameters, a profiler trace.

Everything is read once per compiled call and written in the plugins' own formats, many values in one record.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from absl import logging
from tensorboard.compat.proto import event_pb2
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.util.tensor_util import make_tensor_proto

from evenkeel.models.config import TrainConfig, config_json, flat
from evenkeel.models.distribute.io_errors import UNWRITTEN, reason
from evenkeel.models.telemetry import histograms, pictures, step_row

GRID = 36  # images in the picture of augmented ones


def scalars(values: dict[str, float]) -> bytes:
    """A serialized Summary of TF2 scalars by tag."""
    metadata = scalar_metadata.create_summary_metadata(display_name=None, description=None)
    return Summary(
        value=[
            Summary.Value(tag=tag, metadata=metadata, tensor=make_tensor_proto(value, np.float32))
            for tag, value in values.items()
        ]
    ).SerializeToString()


def histogram_summary(of_tags: dict[str, tuple[np.ndarray, np.ndarray]]) -> bytes:
    """A serialized Summary of histograms, with the number of non-finite values as a scalar where there are any."""
    metadata = histogram_metadata.create_summary_metadata(display_name=None, description=None)
    summary = Summary()
    for tag, (edges, counts) in of_tags.items():
        tensor = make_tensor_proto(histograms.buckets(edges, counts), np.float64)
        summary.value.append(Summary.Value(tag=tag, metadata=metadata, tensor=tensor))
    nonfinite = {f"nonfinite/{tag}": float(counts[-1]) for tag, (_, counts) in of_tags.items() if counts[-1]}
    summary.MergeFromString(scalars(nonfinite))
    return summary.SerializeToString()


def write(summary: bytes, step: int) -> None:
    """A serialized Summary at `step`, with the default writer."""
    # Not the int itself: TensorFlow keeps a tensor of every Python number it meets, 1.5 KB that are never given back.
    tf.summary.experimental.write_raw_pb(summary, np.int64(step))


def mark_start(directory: str, step: int) -> None:
    """Tells TensorBoard that a run starts at `step`, or starts again: it drops what it has of that step and later.

    By the record that TensorFlow's sessions began with. It has to lie in a file between the old ones and the new one,
    which TensorBoard reads in the order of their names, and those begin with seconds.
    """
    tf.io.gfile.makedirs(directory)
    log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    before = int(time.time()) - 1
    path = os.path.join(directory, f"events.out.tfevents.{before:010d}.{socket.gethostname()}.{os.getpid()}.start")
    with tf.io.TFRecordWriter(path) as writer:
        for values in ({"file_version": "brain.Event:2"}, {"step": step, "session_log": log}):
            writer.write(event_pb2.Event(wall_time=before, **values).SerializeToString())


class TensorBoard(keras.callbacks.Callback):
    """Writes what a StableModel leaves of each call under `model_dir`/train and `model_dir`/validation.

    What is known after the nth step is at n - 1, that step's index. A run that goes on after `start` steps leaves no
    step twice.
    """

    def __init__(self, model_dir: str, global_batch_size: int, classes: Iterable[str], start: int = 0) -> None:
        super().__init__()
        directories = [os.path.join(model_dir, name) for name in ("train", "validation")]
        self._directories = directories
        self._batch, self._classes = global_batch_size, list(classes)
        self._histogram_step = -1
        self._begun = 0.0
        self._failed = False
        self._writers: tuple[Any, ...] = ()
        with self._writing():
            for directory in directories:
                mark_start(directory, start)
            self._open()

    def _open(self) -> None:
        self._writers = tuple(map(tf.summary.create_file_writer, self._directories))
        self._train, self._validation = self._writers

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """What cannot be written is said, and training goes on; there is another try after each epoch."""
        try:
            yield
        except UNWRITTEN as error:
            if not self._failed:
                logging.error("TensorBoard's event files cannot be written: %s; training goes on", reason(error))
            self._failed = True

    def write_start(self, step: int, images: np.ndarray, config: TrainConfig) -> None:
        """The picture of augmented training `images` (uint8 [n, h, w, c]), the configuration, the hyperparameters."""
        if self._failed:
            return
        with self._writing(), self._train.as_default(step=step):
            tf.summary.image("augmented training images", pictures.grid(images[:GRID])[None])
            tf.summary.text("config", f"```\n{config_json(config)}\n```")
            hparams.hparams(flat(config))

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._begun = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self._failed:
            return
        rows, end = self.model.rows, self.model.step
        images = len(rows) * self._batch
        per_second = images / (time.perf_counter() - self._begun)
        with self._writing(), self._train.as_default():
            for step, row in enumerate(rows, end - len(rows)):
                values = {f"step/{name}": value for name, value in zip(step_row.ROW, row, strict=True)}
                write(scalars(values), step)
            write(scalars({"step/images_per_second": per_second}), end - 1)
            self._write_layers(end)
            if self.model.histogram_step > self._histogram_step:
                self._histogram_step = self.model.histogram_step
                write(histogram_summary(self.model.histograms), self._histogram_step)

    def _write_layers(self, end: int) -> None:
        """What `probe` saw of each layer in the steps of the call that were due; the call ended before step `end`."""
        probe, values = self.model.probe, self.model.layers_rows
        if probe is None:
            return
        for number in np.flatnonzero(np.isfinite(values).any(axis=1)):
            of_tags = {f"layers/{name}": value for name, value in probe.named(values[number]).items()}
            finite = {tag: value for tag, value in of_tags.items() if np.isfinite(value)}
            write(scalars(finite), end - len(values) + int(number))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        with self._writing():
            if self._failed:
                self._open()
                self._failed = False
            self._write_epoch(logs or {}, self.model.step - 1)

    def _write_epoch(self, logs: dict[str, float], step: int) -> None:
        of_train = {f"epoch/{name}": value for name, value in logs.items() if not name.startswith("val_")}
        of_validation = {f"epoch/{n.removeprefix('val_')}": v for n, v in logs.items() if n.startswith("val_")}
        if of_validation:
            of_validation.update({f"epoch/{name}": value for name, value in self.model.scores.items()})
        for writer, values in ((self._train, of_train), (self._validation, of_validation)):
            with writer.as_default():
                write(scalars(values), step)
        if of_validation:
            picture = pictures.confusion_matrix(self.model.confusion_matrix, self._classes)
            with self._validation.as_default(step=step):
                tf.summary.image("confusion matrix", picture[None])
        self.flush()

    def incident(self, step: int, kind: str, evidence: dict[str, float], action: str) -> None:
        """A mark at `step` in the chart of its kind, and the whole of it as text."""
        if self._failed:
            return
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in evidence.items())
        with self._writing(), self._train.as_default(step=step):
            write(scalars({f"incidents/{kind}": 1.0}), step)
            tf.summary.text("incidents", f"**{kind}** at step {step}: {numbers}; action: {action}")

    def flush(self) -> None:
        """What has been written is in the files; without it, up to ten records wait for two minutes."""
        for writer in self._writers:
            with self._writing():
                writer.flush()

    def close(self) -> None:
        for writer in self._writers:
            with self._writing():
                writer.close()


class Profiler(keras.callbacks.Callback):
    """A profiler trace of the compiled calls that hold steps `first` to `last`, under `directory`."""

    def __init__(self, directory: str, first: int, last: int) -> None:
        super().__init__()
        self._directory, self._first, self._last, self._running = directory, first, last, False

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        coming = self.model.step + int(self.model._steps_per_execution)
        if not self._running and coming > self._first and self.model.step < self._last:
            tf.profiler.experimental.start(self._directory)
            self._running = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._running and self.model.step >= self._last:
            self.close()

    def close(self) -> None:
        if self._running:
            tf.profiler.experimental.stop()
            self._running = False
