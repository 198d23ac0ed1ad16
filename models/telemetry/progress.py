"""Progress of a run on standard error: a bar per epoch on a terminal, and a line per epoch."""

from __future__ import annotations

import sys
import time
from typing import Any

import tf_keras as keras
from tqdm import tqdm

from evenkeel.models.telemetry import step_row


class Progress(keras.callbacks.Callback):
    """Prints the data set, then loss, accuracy, images per second and the share of time spent waiting for input."""

    def __init__(self, global_batch_size: int, data_description: str) -> None:
        super().__init__()
        self._batch, self._data_description = global_batch_size, data_description
        self._bar: tqdm | None = None
        self._epoch_start, self._steps, self._wait_seconds = 0.0, 0, 0.0
        self._penalty = 0.0  # of the last step

    def on_train_begin(self, logs: Any = None) -> None:
        print(f"training on {self._data_description}", file=sys.stderr)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch_start, self._steps, self._wait_seconds = time.perf_counter(), 0, 0.0
        name = f"epoch {epoch + 1}/{self.params['epochs']}"
        if sys.stderr.isatty():
            done = self.model.trained_steps % self.params["steps"]
            self._bar = tqdm(total=self.params["steps"], initial=done, desc=name, unit=" steps", leave=False)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        rows = self.model.rows
        self._steps += len(rows)
        self._wait_seconds += float(step_row.column(rows, "input_wait").sum())
        self._penalty = float(step_row.column(rows, "penalty")[-1])
        if self._bar is not None:
            self._bar.update(len(rows))
            self._bar.set_postfix_str(self._format(logs or {}))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        line = f"epoch {epoch + 1}/{self.params['epochs']}  {self._format(logs)}"
        if "val_loss" in logs:
            line += f"  validation loss {logs['val_loss']:.4f} accuracy {logs['val_accuracy']:.4f}"
        tqdm.write(line, file=sys.stderr)

    def _format(self, logs: dict[str, float]) -> str:
        seconds = max(time.perf_counter() - self._epoch_start, 1e-9)
        images_per_second = self._steps * self._batch / seconds
        penalty = f" + penalty {self._penalty:.4f}" if self._penalty else ""
        return (
            f"loss {logs.get('loss', 0):.4f}{penalty} accuracy {logs.get('accuracy', 0):.4f}"
            f"  {images_per_second:.0f} images/s  input wait {self._wait_seconds / seconds:.1%}"
        )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
