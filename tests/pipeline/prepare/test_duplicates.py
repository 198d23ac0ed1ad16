"""Exact duplicates: every copy is found, and nothing else."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.index.features import Features
from evenkeel.pipeline.index.index import COLUMNS, Index
from evenkeel.pipeline.index.pixel_sums import pixel_sums
from evenkeel.pipeline.prepare.duplicates import find_first_copies


def index_of(images: list[np.ndarray]) -> Index:
    """An index of these images, as if they were in one shard; labels alternate."""
    sums = [[value.numpy() for value in pixel_sums(tf.constant(image))] for image in images]
    columns = {name: np.zeros((len(images), *shape), kind) for name, (kind, shape) in COLUMNS.items()}
    columns["keep"][:] = True
    columns["record"], columns["label"] = np.arange(len(images)), np.arange(len(images)) % 2
    columns["name"] = np.array([f"image_{number}.png" for number in range(len(images))], np.bytes_)
    for row, (size, *values) in enumerate(sums):
        columns["height"][row], columns["width"][row] = size
        for name, value in zip(("sums", "squares", "laplacian", "fingerprint"), values, strict=True):
            columns[name][row] = value
    return Index(("shard",), (0,), Features("image", "label", "filename", ("a", "b")), columns, {})


def images(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8) for seed in range(count)]


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
