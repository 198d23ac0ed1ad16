"""SIGINT and SIGTERM: finish the current compiled call, then leave `fit`; a second signal ends at once.

with Interruption(devices) as interruption:
    model.fit(..., callbacks=[interruption.callback])
"""

from __future__ import annotations

import signal
from typing import Any

import tensorflow as tf
import tf_keras as keras

from evenkeel.models.distribute.collective import summed

HANDLED = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A signal asked the run to stop; `number` is the signal's, `validating` whether that left a validation undone."""

    def __init__(self, number: int, validating: bool) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.validating = number, validating


class Interruption:
    """Handlers while the `with` block lasts. Enter it after the strategy exists: earlier ones never run.

    A signal that one of several workers gets stops them all, after the same call.
    """

    def __init__(self, devices: tf.distribute.Strategy) -> None:
        self._devices, self._number = devices, 0
        self.callback = _Raise(self)
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        for number in HANDLED:
            self._before[number] = signal.signal(number, self._received)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self) -> int:
        """The signal that a worker got, 0 where none did; every worker asks after each of its calls."""
        counts = summed(self._devices, [int(self._number == number) for number in HANDLED])
        return next((number for number, count in zip(HANDLED, counts, strict=True) if count), 0)

    def _received(self, number: int, frame: Any) -> None:
        self._number = number
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)


class _Raise(keras.callbacks.Callback):
    def __init__(self, interruption: Interruption) -> None:
        super().__init__()
        self._interruption = interruption

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if number := self._interruption.agreed():
            # After an epoch's last step its validation is still to come.
            raise Interrupted(number, validating=batch + 1 >= self.params["steps"])

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        if number := self._interruption.agreed():
            raise Interrupted(number, validating=True)


class LateValidation(keras.callbacks.Callback):
    """Validates, before a resumed run goes on, the epoch in whose validation it was interrupted.

    `others` are told of the end of that epoch, which they have not seen.
    """

    def __init__(self, validation: Any, steps: int, epoch: int, others: list[keras.callbacks.Callback]) -> None:
        super().__init__()
        self._validation, self._steps, self._epoch, self._others = validation, steps, epoch, others

    def on_train_begin(self, logs: Any = None) -> None:
        trained = self.model.epoch_means()
        found = self.model.evaluate(self._validation, steps=self._steps, verbose=0, return_dict=True)
        results = {**trained, **{f"val_{name}": value for name, value in found.items()}}
        for each in self._others:
            each.on_epoch_end(self._epoch, results)
        if self.model.stop_training:  # which `fit` would look at after another call
            self.model.resume_at = self.params["epochs"], 0
