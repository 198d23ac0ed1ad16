"""What an image of a data set costs: CPU time of all threads, waiting, wall time.

    each = cost(lambda n: ds.take(n), elements=1, images=128)    # n batches of 128
    print(each.cpu)                                              # ms per image

CPU time leaves out what other programs took. Starting up (tracing, compiling, filling buffers) is left out too: it is
the same in a short run and in a long one, and the difference of the two is what counts.
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

ROUNDS = 5  # the middle one counts, so that a disturbance in one or two does not
SECONDS = 0.25  # that a long run is to take
ELEMENT_SECONDS = 1e-5  # that counting one takes at least
Chain = Callable[[Any], tf.data.Dataset]  # a data set of so many units (an int64 scalar)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one image, in ms. `wait`: neither running nor queueing for a core, of a chain that has one thread only."""

    cpu: float
    wait: float
    wall: float


def cost(chain: Chain, elements: int, images: int, rounds: int = ROUNDS) -> Cost:
    """Of one image of `chain`, whose unit holds so many `elements`, which hold so many `images`."""
    # Of a number that is not known yet, so that chains of whatever length are traced once. Without AutoGraph, as in
    # training: to translate augmentations takes seconds.
    untranslated = tf.autograph.experimental.do_not_convert(chain)
    traced = tf.function(untranslated, input_signature=[tf.TensorSpec([], tf.int64)])

    def run(units: int) -> np.ndarray:
        return _drained(traced(tf.constant(units, tf.int64)), elements * units)

    run(1)  # traces and compiles
    short = run(1)
    # As what starting takes is in it, this guess is too low; the run of so many units says what one takes beyond that.
    units = _units(short, elements)
    runs = [run(1 + units)]
    enough = _units((runs[0] - short) / units, elements)
    if enough > 2 * units:
        units, runs = enough, []
    while len(runs) < rounds:
        runs.append(run(1 + units))
    middle = sorted(runs, key=lambda taken: taken[0])[rounds // 2]
    cpu, queued, wall = ((middle - short) * 1000 / (units * images)).tolist()
    counted = _counting() * 1000 * elements / images
    return Cost(max(0.0, cpu - counted), max(0.0, wall - cpu - queued), max(0.0, wall))


def _units(each: np.ndarray, elements: int) -> int:
    """How many units take `SECONDS`, where each takes so much."""
    cpu, _, wall = each
    return max(2, int(SECONDS / max(cpu, wall / 2, ELEMENT_SECONDS * elements)))


@functools.cache
def _counting() -> float:
    """Seconds of CPU that draining takes per element, whatever the element."""
    many = 20_000
    return float(min(_drained(tf.data.Dataset.range(many), many)[0] for _ in range(ROUNDS)) / many)


def _drained(ds: tf.data.Dataset, elements: int) -> np.ndarray:
    """Seconds of CPU, of queueing for a core (both over all threads), and of wall time that all elements take."""
    iterator = iter(ds)
    before = np.array([*_scheduled(), time.perf_counter()])
    _drain(iterator, tf.constant(elements, tf.int64))
    return np.array([*_scheduled(), time.perf_counter()]) - before


@tf.function
def _drain(iterator: Any, elements: tf.Tensor) -> tf.Tensor:
    """In compiled code: in Python an element costs more than most stages."""

    def body(done: tf.Tensor) -> tf.Tensor:
        iterator.get_next()
        return done + 1

    return tf.while_loop(lambda done: done < elements, body, [tf.constant(0, tf.int64)], parallel_iterations=1)[0]


def _scheduled() -> tuple[float, float]:
    """Seconds that this process's threads have run and have queued for a core (0 where the kernel does not tell)."""
    queued, threads = 0, "/proc/self/task"
    for thread in os.listdir(threads) if os.path.isdir(threads) else ():
        try:
            with open(f"{threads}/{thread}/schedstat") as file:
                queued += int(file.read().split()[1])
        except FileNotFoundError:  # the thread has ended, or the kernel keeps no such file
            continue
    return time.process_time(), queued / 1e9
