"""How stages are put together, how a part of a batch is changed, and how compiled code gets its chunks."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from evenkeel.pipeline.augment import stage
from evenkeel.pipeline.augment.stage import (
    Stage,
    chain,
    in_chunks,
    where_drawn,
)
from tests.stages import (
    alone,
    batch,
    run,
    uniform,
)


def adding(columns: int) -> Stage:
    """Adds the sum of its own draws, times 8, and the key's first word."""
    return Stage(
        columns,
        lambda images, draws, key: (
            images + tf.cast(tf.reduce_sum(draws, 1) * 8 + tf.cast(key[0], tf.float32), tf.uint8)[:, None, None, None]
        ),
    )


def test_a_chain_of_nothing_is_nothing() -> None:
    assert chain([]) is None
    assert chain([None, None]) is None


def test_each_stage_of_a_chain_gets_its_own_columns_and_the_key() -> None:
    seen = []

    def noting(columns: int) -> Stage:
        def change(images: tf.Tensor, draws: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
            seen.append((draws.numpy().tolist(), key.numpy().tolist()))
            return images + 1

        return Stage(columns, change)

    both = chain([noting(2), None, noting(1)])
    assert both is not None
    assert both.columns == 3
    images = batch(1) // 2
    np.testing.assert_array_equal(both(images, tf.constant([[0.25, 0.5, 0.75]]), tf.constant([3, 5])), images + 2)
    assert seen == [([[0.25, 0.5]], [3, 5]), ([[0.75]], [3, 5])]


def test_a_chain_runs_in_the_order_given() -> None:
    double, add = Stage(0, lambda images, *_: images * 2), Stage(0, lambda images, *_: images + 1)
    images = np.full((1, 2, 2, 1), 10, np.uint8)
    assert run(chain([double, add]), images, uniform(1, 0)).max() == 21
    assert run(chain([add, double]), images, uniform(1, 0)).max() == 22


@pytest.mark.parametrize("drawn", [[True, False, True, True], [False] * 4, [True] * 4])
def test_only_drawn_images_reach_the_change(drawn: list[bool]) -> None:
    images, seen = batch(4), []

    def change(of: tf.Tensor) -> tf.Tensor:
        seen.append(of.numpy())
        return 255 - of

    found = where_drawn(tf.constant(images), tf.constant(drawn), change)
    np.testing.assert_array_equal(seen[0], images[drawn])
    np.testing.assert_array_equal(found, np.where(np.array(drawn)[:, None, None, None], 255 - images, images))


@pytest.mark.parametrize("size", [1, 4, 5])
@pytest.mark.parametrize("count", [0, 1, 4, 7, 8])
def test_chunks_are_of_one_size_and_come_back_in_order(monkeypatch: pytest.MonkeyPatch, size: int, count: int) -> None:
    monkeypatch.setattr(stage, "VALUES", size * 16 * 16 * 3 + 5)
    sizes = []

    def change(images: tf.Tensor, added: tf.Tensor) -> tf.Tensor:
        sizes.append(images.shape[0])
        return images + added[:, None, None, None]

    images, added = batch(count), np.arange(count, dtype=np.uint8)
    found = in_chunks(change, tf.constant(images), tf.constant(added))
    np.testing.assert_array_equal(found, images + added[:, None, None, None])
    assert sizes == [size] * -(-count // size)


def test_an_image_larger_than_a_chunk_is_one() -> None:
    images = batch(2, 160, 160)
    np.testing.assert_array_equal(in_chunks(lambda of: 255 - of, tf.constant(images)), 255 - images)
    assert alone(adding(1), images, uniform(2, 1)).shape == images.shape
