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
Chain = Callable[[Any], tf.data.Dataset]  # a data set of so many units (an int64 scalar)
_Taken = tuple[float, float, float]  # seconds of CPU, of queueing for a core (both over all threads), and of wall time


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

    def run(units: int) -> _Taken:
        return _drained(traced(tf.constant(units, tf.int64)), elements * units)

    run(1)  # traces and compiles
    short = run(1)
    # A guess that is too high by what starting takes; what a run of so many units takes beyond that makes the next.
    units = _units(short, 1, elements)
    runs = [run(1 + units)]
    enough = _units(_less(runs[0], short), units, elements)
    if enough > 2 * units:
        units, runs = enough, []
    while len(runs) < rounds:
        runs.append(run(1 + units))
    cpu, queued, wall = (of * 1000 / (units * images) for of in _less(sorted(runs)[rounds // 2], short))
    counted = _counting() * 1000 * elements / images
    return Cost(max(0.0, cpu - counted), max(0.0, wall - cpu - queued), max(0.0, wall))


def _units(taken: _Taken, units: int, elements: int) -> int:
    """How many units take `SECONDS`, where so many took `taken`."""
    each = max(taken[0] / units, taken[2] / units / 2, ELEMENT_SECONDS * elements)
    return max(2, int(SECONDS / each))


def _less(after: _Taken, before: _Taken) -> _Taken:
    return after[0] - before[0], after[1] - before[1], after[2] - before[2]


@functools.cache
def _counting() -> float:
    """Seconds of CPU that draining takes per element, whatever the element."""
    many = 20_000
    return min(_drained(tf.data.Dataset.range(many), many)[0] for _ in range(ROUNDS)) / many


def _drained(ds: tf.data.Dataset, elements: int) -> _Taken:
    """What all elements take."""
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
