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

import tensorflow as tf

ROUNDS = 3  # the middle one counts, so that a disturbance in one does not
SECONDS = 0.25  # that a long run is to take
ELEMENT_SECONDS = 1e-5  # that counting one takes at least
Chain = Callable[[int], tf.data.Dataset]  # a data set of so many units


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one image, in ms. `wait`: neither running nor queueing for a core, of a chain that has one thread only."""

    cpu: float
    wait: float
    wall: float


def cost(chain: Chain, elements: int, images: int, rounds: int = ROUNDS) -> Cost:
    """Of one image of `chain`, whose unit holds so many `elements`, which hold so many `images`."""
    _drained(chain(1), elements)  # traces and compiles
    short = _drained(chain(1), elements)
    taken = max(short[0], ELEMENT_SECONDS * elements)  # too much, by what starting takes
    units = max(2, int(SECONDS / taken))
    runs = sorted(_drained(chain(1 + units), elements * (1 + units)) for _ in range(rounds))
    cpu, queued, wall = ((b - a) * 1000 / (units * images) for a, b in zip(short, runs[rounds // 2], strict=True))
    counted = _counting() * 1000 * elements / images
    return Cost(max(0.0, cpu - counted), max(0.0, wall - cpu - queued), max(0.0, wall))


@functools.cache
def _counting() -> float:
    """Seconds of CPU that draining takes per element, whatever the element."""
    many = 20_000
    return min(_drained(tf.data.Dataset.range(many), many)[0] for _ in range(ROUNDS)) / many


def _drained(ds: tf.data.Dataset, elements: int) -> tuple[float, float, float]:
    """Seconds of CPU, of queueing for a core (both over all threads), and of wall time that all elements take."""
    iterator = iter(ds)
    before = (*_scheduled(), time.perf_counter())
    _drain(iterator, tf.constant(elements, tf.int64))
    cpu, queued, wall = (b - a for a, b in zip(before, (*_scheduled(), time.perf_counter()), strict=True))
    return cpu, queued, wall


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
