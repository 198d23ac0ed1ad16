"""Images that show the same picture: scaled, re-encoded or mirrored, but not with exactly the same pixels.

near = find_near_duplicates(train, validation)
near.pairs          # int64 [n, 2]: rows first < second, numbered in sequence over all indexes

Two images show the same picture if few bits of their perceptual hashes and their mean colours hardly differ. Of 100
photographs this finds all copies that are mirrored, JPEG of quality 20, scaled to a quarter or cut by 2% of each side;
of 12,000 images of CIFAR-10 all that are mirrored, JPEG of quality 50 or scaled to a half. Among the 72 million pairs
of these originals it finds 14, all of the same pictures. It finds no copies that are turned by 90 degrees or cut by a
tenth, and half of those that are gray or 15% brighter. (`python -m benchmarks.speed.near_duplicates`)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from evenkeel.pipeline.images.perceptual_hash import hamming_distances, mirror_hashes
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.prepare.duplicates import find_first_copies

# Limits of the number of differing bits, of 255, the widest first. Handwritten digits and the like differ as little
# from each other as other images from their copies, so a limit holds only if few more pairs lie just beyond it.
LIMITS = (40, 32, 24, 16, 8)
BEYOND = 16  # bits
# Pairs up to `BEYOND` more bits over pairs within the limit. Of CIFAR-10 it is 1.8 with the widest limit. Of 10,000
# digits of MNIST, which hold no copies, it is 10 with the widest limit and more with the others; with 1,000 mirrored
# copies among them, the limit is 24, and 17 pairs of different digits are found besides.
MAX_GROWTH = 2.5
MAX_COLOR_DIFFERENCE = 16.0  # gray levels of mean red, green or blue; JPEG of quality 50 changes it by at most 2.1
# The first word of a hash, its 63 lowest frequencies, is searched by four bands of 16 bits. If at most 7 bits differ,
# at most one bit of some band does.
BANDS, BAND_BITS = 4, 16
MAX_LOW_DISTANCE = 7
MAX_CANDIDATES = 100_000_000  # pairs that are compared at most; 100,000 images like those of CIFAR-10 have 10 million
CHUNK_CANDIDATES = 1 << 20  # pairs that are compared at a time, in 60 MB
MAX_PAIRS = 1_000_000
MAX_LEADERS = 128  # images with equal bits in a band, with which each other one is compared


class NearDuplicates(NamedTuple):
    """Pairs of images that show the same picture.

    Attributes:
      pairs: int64 [n, 2], sorted; of images with the same pixels, only the first is in a pair.
      distances: int64 [n], number of bits in which the hashes differ.
      limit: the largest distance of a pair; less than `LIMITS[0]` if different images of this data are alike, 0 if they
        cannot be told from copies.
      complete: whether all images were compared with each other; otherwise too many are alike.
    """

    pairs: np.ndarray
    distances: np.ndarray
    limit: int
    complete: bool

    @property
    def note(self) -> str:
        """What users should know about the search, with a space before it; empty if it was an ordinary one."""
        parts = []
        if not self.limit:
            parts.append("different images are too alike to tell copies from them")
        elif self.limit < LIMITS[0]:
            parts.append(f"different images are alike, so only hashes with up to {self.limit} other bits count")
        if not self.complete:
            parts.append("too many are alike to compare all pairs")
        return f" ({'; '.join(parts)})" if parts else ""


def find_near_duplicates(*indexes: Index) -> NearDuplicates:
    """Finds the pairs of images of all `indexes` that show the same picture and are no exact copies."""
    hashes, colors = (
        np.concatenate([part(index) for index in indexes])
        for part in (lambda index: index.columns["perceptual_hash"], _mean_colors)
    )
    first = find_first_copies(*indexes)
    rows = np.flatnonzero(first == np.arange(len(first)))
    near = find_same_pictures(hashes[rows], colors[rows])
    return near._replace(pairs=rows[near.pairs])


def find_same_pictures(hashes: np.ndarray, colors: np.ndarray) -> NearDuplicates:
    """Finds pairs by perceptual hashes, int64 [n, 4], and mean colours, float64 [n, 3]."""
    rows = np.flatnonzero(hashes.any(axis=1))
    pairs, distances, complete = find_similar_hashes(hashes[rows], LIMITS[0] + BEYOND)
    pairs = rows[pairs]
    same_color = np.abs(colors[pairs[:, 0]] - colors[pairs[:, 1]]).max(axis=1, initial=0) <= MAX_COLOR_DIFFERENCE
    pairs, distances = pairs[same_color], distances[same_color]
    limit = choose_limit(distances)
    within = distances <= limit
    return NearDuplicates(pairs[within], distances[within], limit, complete)


def choose_limit(distances: np.ndarray) -> int:
    """The largest of `LIMITS` that has pairs, and few more pairs beyond it; 0 if there is none.

    If there is no pair within any limit, this is the largest limit.
    """
    for limit in LIMITS:
        within, further = ((distances <= bits).sum() for bits in (limit, limit + BEYOND))
        if within and further <= MAX_GROWTH * within:
            return limit
    return 0 if (distances <= LIMITS[0]).any() else LIMITS[0]


def find_similar_hashes(hashes: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Finds pairs of similar hashes, int64 [n, 4], of pictures as they are or mirrored.

    Returns:
      pairs: int64 [m, 2], sorted, all (i, j) with i < j whose distance is at most `limit`, and whose first words differ
        in at most `MAX_LOW_DISTANCE` bits.
      distances: int64 [m].
      complete: whether all such pairs are there, because they and the candidates were not too many.
    """
    count = len(hashes)
    mirrored = mirror_hashes(hashes)
    leaders, flips, complete = _plan_search(hashes, mirrored)
    key, distance = np.zeros(0, np.int64), np.zeros(0, np.int64)  # earlier row * count + later row
    for queries in (hashes, mirrored):
        for later, earlier in _candidates(queries, hashes, flips, leaders):
            near = hamming_distances(queries[later, :1], hashes[earlier, :1]) <= MAX_LOW_DISTANCE
            later, earlier = later[near], earlier[near]
            bits = hamming_distances(queries[later], hashes[earlier])
            near = bits <= limit
            if near.any():
                found = earlier[near] * count + later[near]
                key, distance = _keep_nearest(np.append(key, found), np.append(distance, bits[near]))
            if len(key) > MAX_PAIRS:
                return np.column_stack(np.divmod(key, count)), distance, False
    return np.column_stack(np.divmod(key, max(count, 1))), distance, complete


def _keep_nearest(key: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The keys without repetitions, sorted, each with its smallest distance."""
    order = np.lexsort((distance, key))
    key, distance = key[order], distance[order]
    is_new = np.ones(len(key), np.bool_)
    is_new[1:] = key[1:] != key[:-1]
    return key[is_new], distance[is_new]


def _plan_search(hashes: np.ndarray, mirrored: np.ndarray) -> tuple[int, tuple[int, ...], bool]:
    """(images of equal bits to compare with, patterns to invert in a band, whether nothing is left out)."""
    all_flips = (0, *(1 << bit for bit in range(BAND_BITS)))
    largest = max((int(np.bincount(keys).max(initial=0)) for keys in _bands(hashes)), default=0)
    for flips in (all_flips, (0,)):
        leaders = MAX_LEADERS
        while leaders:
            if sum(_count_candidates(queries, hashes, flips, leaders) for queries in (hashes, mirrored)) <= (
                MAX_CANDIDATES
            ):
                return leaders, flips, largest <= leaders and flips == all_flips
            leaders //= 4
    return 1, (0,), False


def _bands(hashes: np.ndarray) -> list[np.ndarray]:
    """The bits of each band, int64 [n]."""
    return [(hashes[:, 0] >> (BAND_BITS * band)) & ((1 << BAND_BITS) - 1) for band in range(BANDS)]


def _count_candidates(queries: np.ndarray, hashes: np.ndarray, flips: tuple[int, ...], leaders: int) -> int:
    total = 0
    for query, keys in zip(_bands(queries), _bands(hashes), strict=True):
        sizes = np.minimum(np.bincount(keys, minlength=1 << BAND_BITS), leaders)
        asked = np.bincount(query, minlength=1 << BAND_BITS)
        total += sum(int(asked @ sizes[np.arange(1 << BAND_BITS) ^ flip]) for flip in flips)
    return total


def _candidates(
    queries: np.ndarray, hashes: np.ndarray, flips: tuple[int, ...], leaders: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (rows of queries, earlier rows of hashes), int64 [c] each, that are equal in a band but for a flip."""
    for query, keys in zip(_bands(queries), _bands(hashes), strict=True):
        order = np.argsort(keys, kind="stable")  # of equal keys, earlier rows come first
        sizes = np.bincount(keys, minlength=1 << BAND_BITS)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        for flip in flips:
            bucket = query ^ flip
            counts = np.minimum(sizes[bucket], leaders)
            ends = np.cumsum(counts)
            total = int(ends[-1]) if len(ends) else 0
            bounds = [*np.searchsorted(ends, np.arange(0, total, CHUNK_CANDIDATES), "right"), len(ends)]
            for low, high in itertools.pairwise(bounds):
                part = counts[low:high]
                later = np.repeat(np.arange(low, high), part)
                within = np.arange(len(later)) - np.repeat(np.cumsum(part) - part, part)
                earlier = order[starts[bucket[later]] + within]
                before = earlier < later
                yield later[before], earlier[before]


def _mean_colors(index: Index) -> np.ndarray:
    """Mean red, green and blue of each image, float64 [rows, 3]."""
    pixels = index.columns["height"].astype(np.int64) * index.columns["width"]
    return index.columns["sums"][:, :3] / np.maximum(pixels, 1)[:, None]
