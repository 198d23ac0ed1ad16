"""Exact duplicates: every copy is found, and nothing else."""

from __future__ import annotations

import numpy as np

from evenkeel.pipeline.prepare.duplicates import find_first_copies
from tests.indexes import images, index_of


def test_each_copy_refers_to_the_first() -> None:
    a, b, c, d = images(4)
    assert find_first_copies(index_of([a, b, a, c, b, a, d])).tolist() == [0, 1, 0, 3, 1, 0, 6]


def test_copies_are_found_across_indexes() -> None:
    a, b, c = images(3)
    assert find_first_copies(index_of([a, b]), index_of([c, b])).tolist() == [0, 1, 2, 1]


def test_equal_bytes_in_another_shape_are_another_image() -> None:
    (a,) = images(1)
    assert find_first_copies(index_of([a, a.reshape(7, 6, 3)])).tolist() == [0, 1]


def test_an_image_with_one_different_pixel_is_another_image() -> None:
    (a,) = images(1)
    other = a.copy()
    other[0, 0, 0] ^= 1
    assert find_first_copies(index_of([a, other])).tolist() == [0, 1]


def test_a_hash_collision_is_no_duplicate() -> None:
    index = index_of(images(2))
    index.columns["fingerprint"][:] = 7
    assert find_first_copies(index).tolist() == [0, 1]


def test_no_rows_have_no_copies() -> None:
    assert find_first_copies(index_of(images(1)).take(np.array([], np.int64))).tolist() == []
