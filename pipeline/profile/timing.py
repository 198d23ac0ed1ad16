"""CPU time, waiting time and wall time per image of a tf.data pipeline.

    time = time_per_image(lambda n: ds.take(n), elements=1, images=128)    # n batches of 128
    print(time.cpu)                                                        # ms per image

CPU time excludes other programs. The time to start (tracing, compiling, filling buffers) is excluded too: a short and a
long run take the same time to start, and only the difference between the two runs counts.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

ROUNDS = 5  # the median counts, so a disturbance in one or two rounds has no effect
TARGET_SECONDS = 0.25  # duration of a long run
MIN_ELEMENT_SECONDS = 1e-5  # lower limit of the assumed time to drain one element
Chain = Callable[[Any], tf.data.Dataset]  # number of units (an int64 scalar) -> a data set of that many units


@dataclasses.dataclass(frozen=True)
class ImageTime:
    """Time per image, in ms.

    Attributes:
      cpu: CPU time of all threads.
      wait: time during which a thread neither runs nor queues for a core; valid only for chains with a single thread.
      wall: elapsed time.
    """

    cpu: float
    wait: float
    wall: float


def time_per_image(chain: Chain, elements: int, images: int, rounds: int = ROUNDS) -> ImageTime:
    """Measures the time per image of `chain`; one unit has `elements` elements with `images` images in total."""
    # The number of units is a tensor, so that chains of any length are traced once. AutoGraph is off, as in training:
    # converting augmentations takes seconds.
    unconverted = tf.autograph.experimental.do_not_convert(chain)
    traced = tf.function(unconverted, input_signature=[tf.TensorSpec([], tf.int64)])

    def run(units: int) -> np.ndarray:
        return _time_draining(traced(tf.constant(units, tf.int64)), elements * units)

    run(1)  # traces and compiles
    short = run(1)
    # The first estimate is too low, because `short` includes the time to start. The long run corrects it.
    units = _units_for_target(short, elements)
    runs = [run(1 + units)]
    corrected_units = _units_for_target((runs[0] - short) / units, elements)
    if corrected_units > 2 * units:
        units, runs = corrected_units, []
    while len(runs) < rounds:
        runs.append(run(1 + units))
    median = sorted(runs, key=lambda times: times[0])[rounds // 2]
    cpu, queued, wall = ((median - short) * 1000 / (units * images)).tolist()
    overhead = _draining_overhead() * 1000 * elements / images
    return ImageTime(max(0.0, cpu - overhead), max(0.0, wall - cpu - queued), max(0.0, wall))


def _units_for_target(unit_seconds: np.ndarray, elements: int) -> int:
    """How many units take `TARGET_SECONDS`; `unit_seconds` is the result of `_time_draining` for one unit."""
    cpu, _, wall = unit_seconds
    return max(2, int(TARGET_SECONDS / max(cpu, wall / 2, MIN_ELEMENT_SECONDS * elements)))


@functools.cache
def _draining_overhead() -> float:
    """Seconds of CPU that draining takes per element, for any data set."""
    elements = 2_000  # at up to 0.1 ms each
    runs = (_time_draining(tf.data.Dataset.range(elements), elements)[0] for _ in range(ROUNDS))
    return float(min(runs) / elements)


def _time_draining(ds: tf.data.Dataset, elements: int) -> np.ndarray:
    """Times `elements` elements, in seconds: CPU and queueing for a core (both over all threads), wall time."""
    iterator = iter(ds)
    before = np.array([*_scheduler_times(), time.perf_counter()])
    _drain(iterator, tf.constant(elements, tf.int64))
    return np.array([*_scheduler_times(), time.perf_counter()]) - before


@tf.function
def _drain(iterator: Any, elements: tf.Tensor) -> tf.Tensor:
    """Takes `elements` elements in compiled code, because in Python an element costs more than most stages."""

    def take_one(taken: tf.Tensor) -> tf.Tensor:
        iterator.get_next()
        return taken + 1

    return tf.while_loop(lambda taken: taken < elements, take_one, [tf.constant(0, tf.int64)], parallel_iterations=1)[0]


def _scheduler_times() -> tuple[float, float]:
    """Seconds that threads of this process have run, and seconds that they have queued for a core.

    The queueing time is 0 if the kernel does not report it.
    """
    queued, threads = 0, "/proc/self/task"
    for thread in os.listdir(threads) if os.path.isdir(threads) else ():
        try:
            with open(f"{threads}/{thread}/schedstat") as file:
                queued += int(file.read().split()[1])
        except FileNotFoundError:  # the thread has ended, or the kernel has no such file
            continue
    return time.process_time(), queued / 1e9
