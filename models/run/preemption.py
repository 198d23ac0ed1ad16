"""Handles SIGINT and SIGTERM: the current compiled call finishes, then `fit` ends; a second signal kills the process.

with PreemptionHandler(devices) as preemption:
    model.fit(..., callbacks=[preemption.callback])     # raises Preempted
"""

from __future__ import annotations

import signal
from typing import Any

import tensorflow as tf
import tf_keras as keras

from evenkeel.models.distribute.collective import all_reduce_sum

HANDLED_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Preempted(Exception):
    """A signal asked the run to stop.

    Attributes:
      number: the signal's number.
      validating: whether the validation of the last trained epoch is missing.
    """

    def __init__(self, number: int, validating: bool) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.validating = number, validating


class PreemptionHandler:
    """Handles signals inside its `with` block. Enter it after creating the strategy, which would undo the handlers.

    A signal to one of several workers stops all of them after the same compiled call.

    Attributes:
      callback: the Keras callback that raises `Preempted`.
    """

    def __init__(self, devices: tf.distribute.Strategy) -> None:
        self._devices = devices
        self._received_signal = 0
        self._previous_handlers: dict[int, Any] = {}
        self.callback = _RaisePreempted(self)

    def __enter__(self) -> PreemptionHandler:
        for number in HANDLED_SIGNALS:
            self._previous_handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def agree_on_signal(self) -> int:
        """Returns the number of a signal that any worker received, or 0; all workers must call this after each call."""
        counts = all_reduce_sum(self._devices, [int(self._received_signal == number) for number in HANDLED_SIGNALS])
        return next((number for number, count in zip(HANDLED_SIGNALS, counts, strict=True) if count), 0)

    def _handle(self, number: int, frame: Any) -> None:
        self._received_signal = number
        for handled in self._previous_handlers:
            signal.signal(handled, signal.SIG_DFL)


class _RaisePreempted(keras.callbacks.Callback):
    def __init__(self, handler: PreemptionHandler) -> None:
        super().__init__()
        self._handler = handler

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if number := self._handler.agree_on_signal():
            # After the last step of an epoch its validation is still missing.
            raise Preempted(number, validating=batch + 1 >= self.params["steps"])

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        if number := self._handler.agree_on_signal():
            raise Preempted(number, validating=True)
