"""What an image costs, of data sets whose cost is known."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tensorflow as tf

from evenkeel.pipeline.profile import cost as cost_module
from evenkeel.pipeline.profile.cost import SECONDS, cost


def spun(x: np.ndarray) -> np.ndarray:
    end = time.thread_time() + 0.002
    while time.thread_time() < end:
        pass
    return x


def slept(x: np.ndarray) -> np.ndarray:
    time.sleep(0.01)
    return x


def each(of) -> tf.data.Dataset:
    return tf.data.Dataset.range(10**6).map(lambda x: tf.numpy_function(of, [x], tf.int64))


def test_running_is_cpu_time_and_sleeping_is_waiting() -> None:
    ran = cost(each(spun).take, elements=1, images=1)
    assert 0.7 * 2 < ran.cpu < 1.5 * 2
    assert ran.wait < ran.cpu
    waited = cost(each(slept).take, elements=1, images=1)
    assert waited.cpu < waited.wait


def test_an_element_of_many_images_is_divided_among_them() -> None:
    ran = cost(each(spun).take, elements=1, images=10)
    assert 0.7 * 0.2 < ran.cpu < 1.5 * 0.2


def test_what_takes_long_to_start_is_measured_for_as_long_as_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a made-up clock: 50 ms to start and 0.1 ms for each element."""
    ran: list[int] = []

    def drained(ds: tf.data.Dataset, elements: int) -> np.ndarray:
        ran.append(elements)
        return np.array([1.0, 0.0, 1.0]) * (0.05 + 1e-4 * elements)

    monkeypatch.setattr(cost_module, "_drained", drained)
    monkeypatch.setattr(cost_module, "_counting", lambda: 0.0)
    found = cost(tf.data.Dataset.range(10**6).take, elements=1, images=1)
    assert found.cpu == pytest.approx(0.1)
    assert 1e-4 * ran[-1] == pytest.approx(SECONDS, rel=0.01)
