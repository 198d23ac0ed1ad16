"""The measured time per image of data sets whose time per image is known."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tensorflow as tf

from evenkeel.pipeline.profile import timing
from evenkeel.pipeline.profile.timing import TARGET_SECONDS, time_per_image


def spin(x: np.ndarray) -> np.ndarray:
    end = time.thread_time() + 0.002
    while time.thread_time() < end:
        pass
    return x


def sleep(x: np.ndarray) -> np.ndarray:
    time.sleep(0.01)
    return x


def repeat(function) -> tf.data.Dataset:
    return tf.data.Dataset.range(10**6).map(lambda x: tf.numpy_function(function, [x], tf.int64))


@pytest.mark.slow
def test_computing_is_cpu_time_and_sleeping_is_waiting() -> None:
    running = time_per_image(repeat(spin).take, elements=1, images=1)
    assert 0.7 * 2 < running.cpu < 1.5 * 2
    assert running.wait < running.cpu
    sleeping = time_per_image(repeat(sleep).take, elements=1, images=1)
    assert sleeping.cpu < sleeping.wait


def test_the_time_of_an_element_is_divided_among_its_images() -> None:
    running = time_per_image(repeat(spin).take, elements=1, images=10)
    assert 0.7 * 0.2 < running.cpu < 1.5 * 0.2


def test_a_chain_that_starts_slowly_is_measured_as_long_as_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a simulated clock: 50 ms to start and 0.1 ms per element."""
    drained: list[int] = []

    def simulate_draining(ds: tf.data.Dataset, elements: int) -> np.ndarray:
        drained.append(elements)
        return np.array([1.0, 0.0, 1.0]) * (0.05 + 1e-4 * elements)

    monkeypatch.setattr(timing, "_time_draining", simulate_draining)
    monkeypatch.setattr(timing, "_draining_overhead", lambda: 0.0)
    time_of_image = time_per_image(tf.data.Dataset.range(10**6).take, elements=1, images=1)
    assert time_of_image.cpu == pytest.approx(0.1)
    assert 1e-4 * drained[-1] == pytest.approx(TARGET_SECONDS, rel=0.01)
