"""Stopping where validation loss gets no better, in a run that may itself be stopped and go on."""

from __future__ import annotations

from typing import Any

import tf_keras as keras


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Keras's on validation loss; `state` is what a checkpoint held of an earlier one."""

    def __init__(self, patience: int, state: dict[str, Any] | None = None) -> None:
        super().__init__(patience=patience)
        self._resumed = state

    @property
    def stopped(self) -> bool:
        """Whether it has ended this run, before it was resumed included."""
        before = self._resumed or {"stopped_epoch": 0, "wait": 0}
        return bool(self.stopped_epoch or (before["stopped_epoch"] and before["wait"] >= self.patience))

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        for name, value in (self._resumed or {}).items():
            setattr(self, name, value)

    def state(self) -> dict[str, Any]:
        numbers = {name: int(getattr(self, name)) for name in ("wait", "best_epoch", "stopped_epoch")}
        return {**numbers, "best": float(self.best)}
