"""The order of training images: a stateless permutation per epoch."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.pipeline.index import shuffle
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from tests.pipeline.index.orders import correlated_pairs

SIZES = (1, 2, 7, 1000, 50_000)


GOLDEN = 0x9E3779B97F4A7C15


def epochs(size: int, count: int, seed: int = 0, first: int = 0) -> np.ndarray:
    """The rows of `count` epochs, int64 [count, size], from epoch `first` on."""
    positions = tf.range(first * size, (first + count) * size, dtype=tf.int64)
    return shuffle.shuffled_rows(positions, size, seed).numpy().reshape(count, size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("first", [0, 10**9])
def test_each_epoch_holds_every_row_exactly_once(size: int, first: int) -> None:
    for rows in epochs(size, 3, first=first):
        np.testing.assert_array_equal(np.sort(rows), np.arange(size))


@pytest.mark.parametrize("size", [100, 1000, 10_000, 50_000, 65_537])
def test_orders_of_different_epochs_are_uncorrelated(size: int) -> None:
    unshuffled = np.arange(size)[None]
    assert correlated_pairs(np.concatenate([unshuffled, epochs(size, 8)])) == []


@pytest.mark.parametrize("size", [100, 1000, 10_000, 50_000, 65_537])
def test_orders_of_different_seeds_are_uncorrelated(size: int) -> None:
    assert correlated_pairs(np.concatenate([epochs(size, 1, seed) for seed in range(8)])) == []


def test_epochs_of_one_seed_are_not_shifted_epochs_of_the_next_seed() -> None:
    assert correlated_pairs(np.concatenate([epochs(50_000, 4, seed=0), epochs(50_000, 4, seed=1)])) == []


def test_the_default_shuffle_of_four_rounds_fails_the_correlation_check() -> None:
    rows, last = tf.range(50_000, dtype=tf.int64), tf.constant(49_999, tf.int64)
    orders = [tf.random.experimental.index_shuffle(rows, tf.constant([0, epoch]), last).numpy() for epoch in range(8)]
    np.testing.assert_array_equal(np.sort(orders[0]), np.arange(50_000))
    assert correlated_pairs(np.stack(orders))


def test_every_row_comes_first_equally_often() -> None:
    firsts = shuffle.shuffled_rows(tf.range(0, 7 * 1400, 7, dtype=tf.int64), 7, 0).numpy()
    assert np.sum((np.bincount(firsts, minlength=7) - 200) ** 2 / 200) < 33  # chi squared, 6 degrees: p = 1e-5


@settings(max_examples=30)
@given(size=st.integers(1, 2**31), position=st.integers(0, 2**45), seed=st.integers(0, 2**40), count=st.integers(2, 9))
def test_a_row_does_not_depend_on_the_other_positions_of_the_call(
    size: int, position: int, seed: int, count: int
) -> None:
    run = shuffle.shuffled_rows(tf.range(position, position + count, dtype=tf.int64), size, seed).numpy()
    alone = shuffle.shuffled_rows(tf.constant([position + count - 1], tf.int64), size, seed).numpy()
    assert alone.dtype == np.int64
    assert run[-1] == alone[0]
    assert run.min() >= 0
    assert run.max() < size


def test_rows_inside_tf_data_equal_those_outside() -> None:
    replica_shard = ReplicaShard(8, replicas=2, first_replica=0, local_replicas=2)
    ds = tf.data.Dataset.range(10).map(lambda element: shuffle.shuffled_rows(replica_shard.positions(element), 30, 3))
    outside = shuffle.shuffled_rows(tf.range(40, dtype=tf.int64), 30, 3)
    np.testing.assert_array_equal(np.concatenate(list(ds.as_numpy_iterator())), outside)


def test_the_hash_is_splitmix64() -> None:
    """The first outputs of the authors' program for seed 0, https://prng.di.unimi.it/splitmix64.c."""
    states = tf.constant([(GOLDEN * k) % 2**64 for k in (1, 2, 3)], tf.uint64)
    assert shuffle.mix64(states).numpy().tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@pytest.mark.parametrize("neighbour", [(0, 1), (1, 0)])
def test_hashes_of_neighbours_differ_in_half_of_their_bits(neighbour: tuple[int, int]) -> None:
    seed, step = neighbour
    values = tf.range(2000, dtype=tf.int64)
    words, others = shuffle.hash_words(5, values, 3), shuffle.hash_words(5 + seed, values + step, 3)
    assert words.shape == (2000, 3)
    assert words.dtype == tf.int32
    changed = np.unpackbits((words ^ others).numpy().view(np.uint8), axis=1)
    assert np.abs(changed.mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(2000)


def test_hash_words_are_unrelated_to_each_other() -> None:
    words = shuffle.hash_words(0, tf.range(10_000, dtype=tf.int64), 4).numpy().T.astype(float)
    assert correlated_pairs(words) == []
    assert len(np.unique(words)) == words.size


LABELS = np.repeat([5, 2, 9], [40, 7, 1])


def balanced(first: int, count: int, seed: int = 0, labels: np.ndarray = LABELS) -> np.ndarray:
    return shuffle.balanced_rows(labels, seed)(tf.range(first, first + count, dtype=tf.int64)).numpy()


@pytest.mark.parametrize("first", [0, 3 * 10**12])
def test_every_block_of_a_balanced_order_holds_each_class_once(first: int) -> None:
    of_blocks = LABELS[balanced(first, 3 * 50)].reshape(50, 3)
    np.testing.assert_array_equal(np.sort(of_blocks), np.tile([2, 5, 9], (50, 1)))
    assert len({tuple(block) for block in of_blocks}) == 6, "in every order"


def test_a_class_uses_each_of_its_rows_once_before_any_is_repeated() -> None:
    rows = balanced(0, 3 * 80)
    for label, count in ((5, 40), (2, 7)):
        own = rows[LABELS[rows] == label]
        passes = own[: len(own) // count * count].reshape(-1, count)
        assert len(passes) >= 2
        for once in passes:
            np.testing.assert_array_equal(np.sort(once), np.flatnonzero(label == LABELS))
        assert (passes[0] != passes[1]).any()


def test_a_balanced_order_is_a_function_of_the_position_and_the_seed() -> None:
    np.testing.assert_array_equal(balanced(100, 50)[20:], balanced(120, 30))
    assert (balanced(0, 60, seed=1) != balanced(0, 60)).any()


def test_classes_without_images_are_ignored_in_the_balance() -> None:
    labels = np.array([0, 0, 0, 7])
    np.testing.assert_array_equal(np.bincount(labels[balanced(0, 400, labels=labels)]), [200, 0, 0, 0, 0, 0, 0, 200])
