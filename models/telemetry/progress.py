"""What a person sees while a run goes on: a bar per epoch on a terminal, a line per epoch elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

import tf_keras as keras
from tqdm import tqdm

from evenkeel.models.telemetry import step_row


class Progress(keras.callbacks.Callback):
    """Loss, accuracy, images/s, share of time spent waiting for input, time left; first of all what is trained on."""

    def __init__(self, global_batch_size: int, trained_on: str) -> None:
        super().__init__()
        self._batch, self._trained_on = global_batch_size, trained_on
        self._bar: tqdm | None = None
        self._begun, self._steps, self._waited = 0.0, 0, 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        print(f"training on {self._trained_on}", file=sys.stderr)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._begun, self._steps, self._waited = time.perf_counter(), 0, 0.0
        name = f"epoch {epoch + 1}/{self.params['epochs']}"
        if sys.stderr.isatty():
            done = self.model.trained_steps % self.params["steps"]
            self._bar = tqdm(total=self.params["steps"], initial=done, desc=name, unit=" steps", leave=False)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        rows = self.model.rows
        self._steps += len(rows)
        self._waited += float(step_row.column(rows, "input_wait").sum())
        if self._bar is not None:
            self._bar.update(len(rows))
            self._bar.set_postfix_str(self._line(logs or {}))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        line = f"epoch {epoch + 1}/{self.params['epochs']}  {self._line(logs)}"
        if "val_loss" in logs:
            line += f"  validation loss {logs['val_loss']:.4f} accuracy {logs['val_accuracy']:.4f}"
        tqdm.write(line, file=sys.stderr)

    def _line(self, logs: dict[str, float]) -> str:
        spent = max(time.perf_counter() - self._begun, 1e-9)
        per_second = self._steps * self._batch / spent
        return (
            f"loss {logs.get('loss', 0):.4f} accuracy {logs.get('accuracy', 0):.4f}"
            f"  {per_second:.0f} images/s  input wait {self._waited / spent:.1%}"
        )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
