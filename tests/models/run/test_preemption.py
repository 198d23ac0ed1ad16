"""Signals: the first one ends the run after its call, a second one kills the process."""

from __future__ import annotations

import signal

import pytest
import tensorflow as tf

from evenkeel.models.run.preemption import Preempted, PreemptionHandler


def test_the_first_signal_ends_the_run_and_a_second_one_the_process() -> None:
    before = signal.getsignal(signal.SIGINT)
    with PreemptionHandler(tf.distribute.get_strategy()) as preemption:
        assert signal.getsignal(signal.SIGINT) != before
        signal.raise_signal(signal.SIGINT)
        assert preemption.agree_on_signal() == signal.SIGINT
        assert signal.getsignal(signal.SIGINT) == signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        preemption.callback.set_params({"steps": 2})
        for batch, last in ((0, False), (1, True)):
            with pytest.raises(Preempted, match="SIGINT") as raised:
                preemption.callback.on_train_batch_end(batch)
            assert raised.value.validating == last
    assert signal.getsignal(signal.SIGINT) == before
