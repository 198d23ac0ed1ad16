"""Near duplicates: the search against all pairs, its bounds, and which pairs count."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.pipeline.images.perceptual_hash import hamming_distances, mirror_hashes
from evenkeel.pipeline.prepare import near_duplicates
from evenkeel.pipeline.prepare.near_duplicates import choose_limit, find_near_duplicates, find_similar_hashes
from tests.indexes import enlarge, images, index_of, render_images

LIMIT = 56


def random_hashes(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(-(1 << 63), 1 << 63, (count, 4)) | np.array([1, 0, 0, 0])


def change_bits(rng: np.random.Generator, words: np.ndarray, count: int) -> np.ndarray:
    """`words`, int64 [4], with `count` bits changed, the first excepted."""
    changed = words.copy()
    for bit in rng.choice(np.arange(1, 256), count, replace=False).tolist():
        changed[bit // 64] ^= np.uint64(1 << bit % 64).astype(np.int64)
    return changed


def all_similar_pairs(hashes: np.ndarray) -> dict[tuple[int, int], int]:
    """{(i, j): distance} of what `find_similar_hashes` promises, by comparing all pairs."""
    found: dict[tuple[int, int], int] = {}
    for i, j in itertools.combinations(range(len(hashes)), 2):
        for other in (hashes[j], mirror_hashes(hashes[j : j + 1])[0]):
            bits = int(hamming_distances(hashes[i], other))
            if hamming_distances(hashes[i, :1], other[:1]) <= near_duplicates.MAX_LOW_DISTANCE and bits <= LIMIT:
                found[i, j] = min(bits, found.get((i, j), LIMIT))
    return found


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60), st.booleans()), max_size=40),
)
def test_the_search_finds_all_pairs_that_it_promises(seed: int, copies: list[tuple[int, int, bool]]) -> None:
    rng = np.random.default_rng(seed)
    originals = random_hashes(rng, 4)
    hashes = np.stack([*originals, *(change_bits(rng, originals[source], bits) for source, bits, _ in copies)])
    for row, (_, _, mirrored) in enumerate(copies, 4):
        if mirrored:
            hashes[row] = mirror_hashes(hashes[row : row + 1])[0]
    pairs, distances, complete = find_similar_hashes(hashes, LIMIT)
    assert complete
    assert pairs.tolist() == sorted(pairs.tolist())
    assert dict(zip(map(tuple, pairs.tolist()), distances.tolist(), strict=True)) == all_similar_pairs(hashes)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_the_size_of_a_chunk_changes_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    originals = random_hashes(rng, 3)
    hashes = np.stack([change_bits(rng, originals[row % 3], row % 8) for row in range(40)])
    monkeypatch.setattr(near_duplicates, "CHUNK_CANDIDATES", chunk)
    pairs, distances, _ = find_similar_hashes(hashes, LIMIT)
    assert dict(zip(map(tuple, pairs.tolist()), distances.tolist(), strict=True)) == all_similar_pairs(hashes)


def test_of_very_many_alike_images_each_is_still_in_a_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    original = random_hashes(rng, 1)[0]
    hashes = np.stack([change_bits(rng, original, 2) for _ in range(400)])
    monkeypatch.setattr(near_duplicates, "MAX_CANDIDATES", 20_000)
    pairs, _, complete = find_similar_hashes(hashes, LIMIT)
    assert not complete
    assert len(pairs) < 20_000
    assert set(pairs[:, 1].tolist()) == set(range(1, 400))
    monkeypatch.undo()
    monkeypatch.setattr(near_duplicates, "MAX_PAIRS", 1000)
    pairs, _, complete = find_similar_hashes(hashes, LIMIT)
    assert not complete
    assert len(pairs) > 1000


def test_no_hashes_have_no_pairs() -> None:
    pairs, distances, complete = find_similar_hashes(np.zeros((0, 4), np.int64), LIMIT)
    assert (pairs.shape, len(distances), complete) == ((0, 2), 0, True)


@pytest.mark.parametrize(
    ("distances", "limit"),
    [
        ([], 40),
        ([45, 50, 56], 40),  # nothing is within any limit
        ([3, 30, 39, 50], 40),
        ([3, 5, 5, 20, 38, *[50] * 20], 32),
        ([3, 5, *[30] * 4, *[38] * 20, *[50] * 100], 8),  # a few copies among images that are alike
        ([24, 26, 31, 36, *range(38, 57), *range(40, 57)], 0),
    ],
)
def test_the_limit_falls_if_many_more_pairs_lie_beyond_it(distances: list[int], limit: int) -> None:
    assert choose_limit(np.array(distances, np.int64)) == limit


def test_scaled_and_mirrored_copies_are_found_and_exact_ones_are_not() -> None:
    a, b, c = render_images(3, size=40)
    near = find_near_duplicates(index_of([a, b, enlarge(a), a]), index_of([b[:, ::-1], c]))
    assert near.pairs.tolist() == [[0, 2], [1, 4]]
    assert near.distances.max() <= 8
    assert (near.limit, near.complete, near.note) == (40, True, "")


def test_images_of_other_colours_are_other_images() -> None:
    (a,) = render_images(1, size=40)
    red = a // 2 + np.array([100, 0, 0], np.uint8)
    assert len(find_near_duplicates(index_of([a // 2, enlarge(a // 2)])).pairs) == 1
    assert len(find_near_duplicates(index_of([a // 2, enlarge(red)])).pairs) == 0


def test_blank_images_are_no_near_duplicates() -> None:
    blank = [np.full((20 + number, 20, 3), 10 * number, np.uint8) for number in range(4)]
    assert len(find_near_duplicates(index_of(blank)).pairs) == 0


def test_of_a_data_set_of_alike_images_none_is_accused() -> None:
    """Handwritten digits differ little from each other, but gradually more."""
    rng = np.random.default_rng(0)
    index = index_of(images(1)).take(np.zeros(300, np.int64))
    index.columns["fingerprint"] = np.arange(300)
    original = random_hashes(rng, 1)[0]
    index.columns["perceptual_hash"] = np.stack([change_bits(rng, original, 24) for _ in range(300)])
    near = find_near_duplicates(index)
    assert (len(near.pairs), near.limit) == (0, 0)
    assert near.note == " (different images are too alike to tell copies from them)"
