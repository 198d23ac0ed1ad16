"""Validates on all evaluation batches, repeats an interrupted validation, and stops early by validation loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tf_keras as keras

from evenkeel.models.training.stable_model import StableModel


def evaluate(model: StableModel, batches: Any, steps: int) -> dict[str, float]:
    """Returns loss and accuracy over `steps` of `batches`; `model.confusion_matrix` holds the confusion matrix."""
    results = model.evaluate(batches, steps=steps, verbose=0, return_dict=True)
    return {"loss": results["loss"], "accuracy": results["accuracy"]}


class PendingValidation(keras.callbacks.Callback):
    """Repeats a validation that a signal interrupted, before the resumed run continues to train.

    The callback then calls `on_epoch_end` of `callbacks`, which the interrupted process did not do for that epoch.
    """

    def __init__(self, batches: Any, steps: int, epoch: int, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        """`epoch` counts from 0; `batches` and `steps` are those of a validation."""
        super().__init__()
        self._batches, self._steps, self._epoch, self._callbacks = batches, steps, epoch, callbacks

    def on_train_begin(self, logs: Any = None) -> None:
        training_means = self.model.epoch_means()
        validation = self.model.evaluate(self._batches, steps=self._steps, verbose=0, return_dict=True)
        results = {**training_means, **{f"val_{name}": value for name, value in validation.items()}}
        for callback in self._callbacks:
            callback.on_epoch_end(self._epoch, results)
        if self.model.stop_training:  # `fit` would check this after its next call: start behind the last epoch instead
            self.model.resume_at = self.params["epochs"], 0


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Keras's early stopping on validation loss, continued from the state in a checkpoint."""

    def __init__(self, patience: int, state: dict[str, Any] | None = None) -> None:
        """`patience` is in epochs; `state` is what `state()` returned before the run was interrupted."""
        super().__init__(patience=patience)
        self._restored_state = state

    @property
    def stopped(self) -> bool:
        """Whether early stopping has ended this run, now or before the run was resumed."""
        restored = self._restored_state or {"stopped_epoch": 0, "wait": 0}
        return bool(self.stopped_epoch or (restored["stopped_epoch"] and restored["wait"] >= self.patience))

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        for name, value in (self._restored_state or {}).items():
            setattr(self, name, value)

    def state(self) -> dict[str, Any]:
        numbers = {name: int(getattr(self, name)) for name in ("wait", "best_epoch", "stopped_epoch")}
        return {**numbers, "best": float(self.best)}
