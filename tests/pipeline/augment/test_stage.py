"""Composing stages, changing a part of a batch, and computing in chunks of one size."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from evenkeel.pipeline.augment import stage
from evenkeel.pipeline.augment.stage import (
    Stage,
    apply_where,
    compose,
    map_in_chunks,
)
from tests.stages import (
    alone,
    batch,
    run,
    uniform,
)


def adding_stage(columns: int) -> Stage:
    """A stage that adds 8 times the sum of its draws, and the first word of the key."""
    return Stage(
        columns,
        lambda images, draws, key: (
            images + tf.cast(tf.reduce_sum(draws, 1) * 8 + tf.cast(key[0], tf.float32), tf.uint8)[:, None, None, None]
        ),
    )


def test_composing_no_stage_gives_none() -> None:
    assert compose([]) is None
    assert compose([None, None]) is None


def test_each_composed_stage_gets_its_own_columns_and_the_key() -> None:
    seen = []

    def recording_stage(columns: int) -> Stage:
        def change(images: tf.Tensor, draws: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
            seen.append((draws.numpy().tolist(), key.numpy().tolist()))
            return images + 1

        return Stage(columns, change)

    both = compose([recording_stage(2), None, recording_stage(1)])
    assert both is not None
    assert both.draw_columns == 3
    images = batch(1) // 2
    np.testing.assert_array_equal(both(images, tf.constant([[0.25, 0.5, 0.75]]), tf.constant([3, 5])), images + 2)
    assert seen == [([[0.25, 0.5]], [3, 5]), ([[0.75]], [3, 5])]


def test_composed_stages_run_in_order() -> None:
    double, add = Stage(0, lambda images, *_: images * 2), Stage(0, lambda images, *_: images + 1)
    images = np.full((1, 2, 2, 1), 10, np.uint8)
    assert run(compose([double, add]), images, uniform(1, 0)).max() == 21
    assert run(compose([add, double]), images, uniform(1, 0)).max() == 22


@pytest.mark.parametrize("selected", [[True, False, True, True], [False] * 4, [True] * 4])
def test_only_selected_images_reach_the_function(selected: list[bool]) -> None:
    images, seen = batch(4), []

    def invert(chosen: tf.Tensor) -> tf.Tensor:
        seen.append(chosen.numpy())
        return 255 - chosen

    output = apply_where(tf.constant(images), tf.constant(selected), invert)
    np.testing.assert_array_equal(seen[0], images[selected])
    np.testing.assert_array_equal(output, np.where(np.array(selected)[:, None, None, None], 255 - images, images))


@pytest.mark.parametrize("size", [1, 4, 5])
@pytest.mark.parametrize("count", [0, 1, 4, 7, 8])
def test_chunks_have_one_size_and_their_results_keep_the_order(
    monkeypatch: pytest.MonkeyPatch, size: int, count: int
) -> None:
    monkeypatch.setattr(stage, "CHUNK_VALUES", size * 16 * 16 * 3 + 5)
    sizes = []

    def change(images: tf.Tensor, added: tf.Tensor) -> tf.Tensor:
        sizes.append(images.shape[0])
        return images + added[:, None, None, None]

    images, added = batch(count), np.arange(count, dtype=np.uint8)
    output = map_in_chunks(change, tf.constant(images), tf.constant(added))
    np.testing.assert_array_equal(output, images + added[:, None, None, None])
    assert sizes == [size] * -(-count // size)


def test_an_image_larger_than_a_chunk_is_a_chunk_of_its_own() -> None:
    images = batch(2, 160, 160)
    np.testing.assert_array_equal(map_in_chunks(lambda image: 255 - image, tf.constant(images)), 255 - images)
    assert alone(adding_stage(1), images, uniform(2, 1)).shape == images.shape
