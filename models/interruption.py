"""SIGINT and SIGTERM: finish the current compiled call, then leave `fit`; a second signal ends at once.

with Interruption() as interruption:
    model.fit(..., callbacks=[interruption.callback])
"""

from __future__ import annotations

import signal
from typing import Any

import tf_keras as keras


class Interrupted(Exception):
    """A signal asked the run to stop; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interruption:
    """Handlers while the `with` block lasts. Enter it after the strategy exists: earlier ones never run."""

    def __init__(self) -> None:
        self.number = 0
        self.callback = _Raise(self)
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._received)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _received(self, number: int, frame: Any) -> None:
        self.number = number
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)


class _Raise(keras.callbacks.Callback):
    def __init__(self, interruption: Interruption) -> None:
        super().__init__()
        self._interruption = interruption

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._interruption.number:
            raise Interrupted(self._interruption.number)

    on_test_batch_end = on_train_batch_end
