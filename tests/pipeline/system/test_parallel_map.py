"""Calls in threads: order, bounded lead, errors and interruption."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from evenkeel.pipeline.system.parallel_map import parallel_map


def test_results_are_in_the_order_of_the_items() -> None:
    first_may_end = threading.Event()

    def double(number: int) -> int:
        if number == 0:
            assert first_may_end.wait(60)
        else:
            first_may_end.set()
        return 2 * number

    assert list(parallel_map(double, range(50), threads=4)) == [2 * number for number in range(50)]


def test_items_are_not_taken_far_ahead_of_the_results() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = parallel_map(lambda number: number, items(), threads=3)
    for expected in range(10):
        assert next(results) == expected
        assert len(taken) <= expected + 4
    results.close()
    assert len(taken) <= 13


def test_an_error_of_a_call_or_of_the_items_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        list(parallel_map(lambda number: 1 // number, [2, 1, 0, 1, 1], threads=2))

    def items() -> Iterator[int]:
        yield 1
        raise OSError("connection lost")

    results = parallel_map(lambda number: number, items(), threads=2)
    with pytest.raises(OSError, match="connection lost"):
        list(results)
