"""Writes a run's event files for TensorBoard: scalars, histograms, pictures, hyperparameters, a profiler trace.

The values are read once per compiled call and written in the formats of TensorBoard's plugins, many values per record.
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

from evenkeel.models.config import TrainConfig, config_json, flatten
from evenkeel.models.distribute.io_errors import WRITE_ERRORS, summarize_error
from evenkeel.models.telemetry import histograms, pictures, step_row

GRID_IMAGES = 36  # images in the picture of augmented training images


def scalar_summary(values: dict[str, float]) -> bytes:
    """Returns a serialized Summary of TF2 scalars; `values` is {tag: value}."""
    metadata = scalar_metadata.create_summary_metadata(display_name=None, description=None)
    return Summary(
        value=[
            Summary.Value(tag=tag, metadata=metadata, tensor=make_tensor_proto(value, np.float32))
            for tag, value in values.items()
        ]
    ).SerializeToString()


def histogram_summary(tagged: dict[str, tuple[np.ndarray, np.ndarray]]) -> bytes:
    """Returns a serialized Summary of histograms, with the number of non-finite values as a scalar if there are any.

    `tagged` is {tag: (edges, counts)}, as `histograms.bin_counts` returns them.
    """
    metadata = histogram_metadata.create_summary_metadata(display_name=None, description=None)
    summary = Summary()
    for tag, (edges, counts) in tagged.items():
        tensor = make_tensor_proto(histograms.bin_table(edges, counts), np.float64)
        summary.value.append(Summary.Value(tag=tag, metadata=metadata, tensor=tensor))
    nonfinite = {f"nonfinite/{tag}": float(counts[-1]) for tag, (_, counts) in tagged.items() if counts[-1]}
    summary.MergeFromString(scalar_summary(nonfinite))
    return summary.SerializeToString()


def write_summary(summary: bytes, step: int) -> None:
    """Writes a serialized Summary at `step` with the default writer."""
    # The step is an int64, because TensorFlow caches a tensor of 1.5 KB for every Python number and never frees it.
    tf.summary.experimental.write_raw_pb(summary, np.int64(step))


def mark_start(directory: str, step: int) -> None:
    """Makes TensorBoard drop its data of `step` and later, because the run starts (again) at `step`.

    The function writes a session-start record, as TensorFlow 1 did. TensorBoard reads the files in the order of their
    names, which contain the time in seconds: this file has to come after the old files and before the new one.
    """
    tf.io.gfile.makedirs(directory)
    log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    second_before = int(time.time()) - 1
    path = os.path.join(
        directory, f"events.out.tfevents.{second_before:010d}.{socket.gethostname()}.{os.getpid()}.start"
    )
    with tf.io.TFRecordWriter(path) as writer:
        for values in ({"file_version": "brain.Event:2"}, {"step": step, "session_log": log}):
            writer.write(event_pb2.Event(wall_time=second_before, **values).SerializeToString())


class TensorBoard(keras.callbacks.Callback):
    """Writes the telemetry of a StableModel to `model_dir`/train and `model_dir`/validation after each compiled call.

        model.fit(batches, callbacks=[evenkeel.TensorBoard("runs/mine", batch_size, class_names)])

    A value known after n steps is written at n - 1, the index of the nth step.
    """

    def __init__(self, model_dir: str, global_batch_size: int, classes: Iterable[str], start: int = 0) -> None:
        """Opens the event files.

        Args:
          model_dir: directory of the run.
          global_batch_size: images per step, for images per second.
          classes: names of the classes, for the confusion matrix.
          start: steps done before; TensorBoard drops its data of later steps, so that no step appears twice.
        """
        super().__init__()
        directories = [os.path.join(model_dir, name) for name in ("train", "validation")]
        self._directories = directories
        self._batch, self._classes = global_batch_size, list(classes)
        self._histogram_step = -1
        self._call_start = 0.0
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
        """Logs the first write error. Training continues, and the end of each epoch tries to write again."""
        try:
            yield
        except WRITE_ERRORS as error:
            if not self._failed:
                cause = summarize_error(error)
                logging.error("TensorBoard's event files cannot be written: %s; training goes on", cause)
            self._failed = True

    def write_start(self, step: int, images: np.ndarray, config: TrainConfig) -> None:
        """Writes the configuration as text and as hyperparameters, and a picture of augmented training images.

        `images` are uint8 [n, h, w, c].
        """
        if self._failed:
            return
        with self._writing(), self._train.as_default(step=step):
            tf.summary.image("augmented training images", pictures.draw_grid(images[:GRID_IMAGES])[None])
            tf.summary.text("config", f"```\n{config_json(config)}\n```")
            hparams.hparams(flatten(config))

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._call_start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self._failed:
            return
        rows, end = self.model.rows, self.model.step
        images_per_second = len(rows) * self._batch / (time.perf_counter() - self._call_start)
        with self._writing(), self._train.as_default():
            for step, row in enumerate(rows, end - len(rows)):
                values = {f"step/{name}": value for name, value in zip(step_row.COLUMNS, row, strict=True)}
                write_summary(scalar_summary(values), step)
            write_summary(scalar_summary({"step/images_per_second": images_per_second}), end - 1)
            self._write_layers(end)
            if self.model.histogram_step > self._histogram_step:
                self._histogram_step = self.model.histogram_step
                write_summary(histogram_summary(self.model.histograms), self._histogram_step)

    def _write_layers(self, end: int) -> None:
        """Writes layer statistics for the steps that computed them; `end` is the step after the call."""
        layer_stats, rows = self.model.layer_stats, self.model.layer_rows
        if layer_stats is None:
            return
        for index in np.flatnonzero(np.isfinite(rows).any(axis=1)):
            tagged = {f"layers/{name}": value for name, value in layer_stats.to_scalars(rows[index]).items()}
            finite = {tag: value for tag, value in tagged.items() if np.isfinite(value)}
            write_summary(scalar_summary(finite), end - len(rows) + int(index))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        with self._writing():
            if self._failed:
                self._open()
                self._failed = False
            self._write_epoch(logs or {}, self.model.step - 1)

    def _write_epoch(self, logs: dict[str, float], step: int) -> None:
        training = {f"epoch/{name}": value for name, value in logs.items() if not name.startswith("val_")}
        validation = {f"epoch/{n.removeprefix('val_')}": v for n, v in logs.items() if n.startswith("val_")}
        if validation:
            validation.update({f"epoch/{name}": value for name, value in self.model.scores.items()})
        for writer, values in ((self._train, training), (self._validation, validation)):
            with writer.as_default():
                write_summary(scalar_summary(values), step)
        if validation:
            picture = pictures.draw_confusion_matrix(self.model.confusion_matrix, self._classes)
            with self._validation.as_default(step=step):
                tf.summary.image("confusion matrix", picture[None])
        self.flush()

    def write_incident(self, step: int, kind: str, evidence: dict[str, float], action: str) -> None:
        """Writes an incident as a point at `step` in the chart of its kind, and as text."""
        if self._failed:
            return
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in evidence.items())
        with self._writing(), self._train.as_default(step=step):
            write_summary(scalar_summary({f"incidents/{kind}": 1.0}), step)
            tf.summary.text("incidents", f"**{kind}** at step {step}: {numbers}; action: {action}")

    def flush(self) -> None:
        """Flushes the records to the files; otherwise a writer keeps up to ten records in memory for two minutes."""
        for writer in self._writers:
            with self._writing():
                writer.flush()

    def close(self) -> None:
        for writer in self._writers:
            with self._writing():
                writer.close()


class Profiler(keras.callbacks.Callback):
    """Writes a profiler trace of the compiled calls that contain steps `first` to `last` under `directory`."""

    def __init__(self, directory: str, first: int, last: int) -> None:
        super().__init__()
        self._directory, self._first, self._last, self._running = directory, first, last, False

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        call_end = self.model.step + int(self.model._steps_per_execution)
        if not self._running and call_end > self._first and self.model.step < self._last:
            tf.profiler.experimental.start(self._directory)
            self._running = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._running and self.model.step >= self._last:
            self.close()

    def close(self) -> None:
        if self._running:
            tf.profiler.experimental.stop()
            self._running = False
