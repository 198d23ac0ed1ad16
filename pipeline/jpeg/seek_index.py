"""Where the JPEGs of a data set can be entered and left, so that no more is read of them than a crop needs.

    index = with_entries(index, directory, cache_dir)    # found once, and kept on disk
    index.entries.points, index.columns["entry"]

A decoder reads a JPEG's codes from the first on: to crop a window it reads all above and beside it, and that is most of
what it does. Where the codes of some MCUs in each row begin, and what to write before them, is found here once for a
data set, for 7 ms of CPU an image of 103 KB, and stored in a sixth of its bytes. `cut` then makes of an image a
smaller one, of the MCUs under its crop.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from tqdm import tqdm

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.index import JPEG, Entries, Index
from evenkeel.pipeline.jpeg import huffman
from evenkeel.pipeline.jpeg import worker as entering
from evenkeel.pipeline.jpeg.filler import Impossible, MadeUp
from evenkeel.pipeline.jpeg.layout import (
    Coded,
    Layout,
    coded,
    read_layout,
)
from evenkeel.pipeline.system import file_lock
from evenkeel.pipeline.system.cpu import cores

STORED = "evenkeel-entries"
VERSION = 1  # a change of what is stored gets a new number: what is older is then found anew
SMALLEST = 12 << 10  # bytes of an image: of smaller ones too little is left out
MEAN = 32 << 10  # bytes of a data set's JPEGs: 38 KB gain 5% of the pipeline, 30 KB 1%
POINTS, MADE_UP, RECORDS, HEADER = "points.bin", "made_up.bin", "records.npy", "header.json"
FILES = (POINTS, MADE_UP, RECORDS)
IMAGES = "images.npz"  # what a process is to look at
EACH = 500  # images for a process at least: it takes 5 s to start


class Record(NamedTuple):
    """An image, in the column `entry`: where its points and what was made up begin, and its MCUs.

    `first` is -1 where it cannot be entered. `scan`: where its coded bytes begin. `head`: bytes of its header, which
    what was made up begins with; `width_at`: where in it the width stands. `columns`, `lines`: of pixels in an MCU.
    `across`: MCUs in a row. `step`: between two points of a row. `beside`: MCUs made up on either side. `mcus`: all.
    """

    first: int
    made_up: int
    scan: int
    head: int
    width_at: int
    columns: int
    lines: int
    across: int
    step: int
    beside: int
    mcus: int


NONE = Record(-1, *[0] * (len(Record._fields) - 1))


class Found(NamedTuple):
    """Of one image. `points` int32 [n, 3], row by row, and the end: where its codes go on behind what enters here
    (counted from the scan's first byte); how many bytes before that the codes end that what leaves here follows, and
    the lengths of what enters and what leaves, as `packed` says; and where in `made_up` (uint8 [m]) both begin."""

    record: Record
    points: np.ndarray
    made_up: np.ndarray


def packed(back: Any, enter: Any, leave: Any) -> Any:
    return back | enter << BACK_BITS | leave << BACK_BITS + LENGTH_BITS


BACK_BITS, LENGTH_BITS = 2, 14


def find(images: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, Found | None]]:
    """(number, where it can be entered) of each (number, contents of a file), in the order in which they are found.

    None of what is not a baseline JPEG in one scan without restart markers, of 512 KB at most.
    """
    read: dict[int, tuple[Layout, Coded]] = {}
    without: list[int] = []

    def followed() -> Iterator[tuple[int, Layout, Coded]]:
        for number, contents in images:
            layout = read_layout(contents)
            codes = coded(contents, layout) if layout else None
            if layout is None or codes is None:
                without.append(number)
            else:
                read[number] = layout, codes
                yield number, layout, codes

    for number, starts in huffman.mcu_starts(followed()):
        yield number, _found(*read.pop(number), starts)
        while without:
            yield without.pop(), None
    yield from ((number, None) for number in without)


def _found(layout: Layout, codes: Coded, starts: np.ndarray) -> Found | None:
    if not len(starts):
        return None
    bits, predictions = starts[:, 1], starts[:, 2:]
    try:
        made_up = MadeUp(layout, predictions)
    except Impossible:
        return None
    phases, inside = bits % 8, bits // 8
    rest = np.append(codes.data, np.uint8(0))[inside].astype(np.int64)
    ends, go_on = codes.places(inside), codes.places(inside + (phases > 0))
    enter, entering = made_up.enter(predictions, phases, rest)
    leave, leaving = made_up.leave(predictions, phases, rest)
    lengths = np.stack([entering, leaving], axis=1)
    begin = len(layout.header) + np.cumsum(lengths) - lengths.reshape(-1)
    both = np.empty(len(layout.header) + lengths.sum(), np.uint8)
    both[: len(layout.header)] = np.frombuffer(layout.header, np.uint8)
    for of, length, at in (enter, entering, begin[0::2]), (leave, leaving, begin[1::2]):
        both[np.arange(len(of)) + np.repeat(at - (np.cumsum(length) - length), length)] = of
    record = Record(
        first=0,
        made_up=0,
        scan=layout.scan,
        head=len(layout.header),
        width_at=layout.width_at,
        columns=layout.columns,
        lines=layout.lines,
        across=layout.across,
        step=huffman.step_of(layout),
        beside=made_up.count,
        mcus=layout.across * layout.down,
    )
    points = np.stack([go_on, packed(go_on - ends, entering, leaving), begin[0::2]], axis=1)
    return Found(record, points.astype(np.int32), both)


def with_entries(index: Index, directory: str, cache_dir: str) -> Index:
    """`index`, all of a data set, with its entries: read back, or found where there are none that fit."""
    lengths = index.columns["length"][_wanted(index)]
    if not len(lengths) or lengths.mean() < MEAN:
        logging.info("data.entries: JPEGs of less than %d KB would not gain by them: none are sought", MEAN >> 10)
        return index
    state = _state(index)
    name = hashlib.blake2b(directory.encode(), digest_size=8).hexdigest()
    places = [os.path.join(directory, STORED), os.path.join(cache_dir, "entries", name)]
    place = next((place for place in places if os.access(os.path.dirname(place), os.W_OK)), places[-1])
    for stored in places:
        if _state_of(stored) == state:
            return _opened(index, stored)
    with file_lock.exclusive_lock(place):
        if _state_of(place) != state:
            try:
                _store(index, state, place)
            except OSError as error:
                raise UsageError(
                    f"entries cannot be stored as {place} ({error.strerror}): make room for a sixth of the images'"
                    " bytes, or do without them by --data.entries=false."
                ) from error
    return _opened(index, place)


def _wanted(index: Index) -> np.ndarray:
    columns = index.columns
    return (columns["kind"] == JPEG) & columns["keep"] & (columns["length"] >= SMALLEST)


def _state(index: Index) -> dict[str, Any]:
    columns = hashlib.blake2b(digest_size=8)
    for name in ("shard", "offset", "length", "kind", "keep"):
        columns.update(np.ascontiguousarray(index.columns[name]).tobytes())
    times = [os.stat(path).st_mtime_ns for path in index.shards]
    return {"version": VERSION, "sizes": list(index.sizes), "times": times, "rows": columns.hexdigest()}


def _state_of(place: str) -> dict[str, Any] | None:
    """What the entries there are of; None where there are none, or not all of them."""
    try:
        with open(os.path.join(place, HEADER)) as file:
            header = json.load(file)
        sizes = [os.path.getsize(os.path.join(place, name)) for name in FILES]
        return header["state"] if header["bytes"] == sizes else None
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None  # there is none, or it was cut short


def _opened(index: Index, place: str) -> Index:
    points = np.memmap(os.path.join(place, POINTS), np.int32, "c").reshape(-1, 3)
    made_up = np.memmap(os.path.join(place, MADE_UP), np.uint8, "c")
    records = np.load(os.path.join(place, RECORDS))
    entered, wanted = int(np.sum(records[:, 0] >= 0)), int(_wanted(index).sum())
    logging.info("%d of %d JPEGs can be entered where their crops begin", entered, wanted)
    columns = {**index.columns, "entry": records}
    return dataclasses.replace(index, columns=columns, entries=Entries(points, made_up))


def _store(index: Index, state: dict[str, Any], place: str) -> None:
    """Beside and renamed, so that nothing partial ever looks complete."""
    columns = index.columns
    rows = np.flatnonzero(_wanted(index))
    directory, name = os.path.split(place)
    os.makedirs(directory, exist_ok=True)
    for left in glob.glob(os.path.join(glob.escape(directory), f".{name}.*", "")):  # by one that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=f".{name}.") as beside:
        workers = max(1, min(cores(), len(rows) // EACH))
        parts = [os.path.join(beside, str(number)) for number in range(workers)]
        with tqdm(total=len(rows), desc="finding entries", unit=" images", delay=1, disable=None) as bar:
            for part, chosen in zip(parts, np.array_split(rows, workers), strict=True):
                os.mkdir(part)
                shard, offset, length = (columns[name][chosen] for name in ("shard", "offset", "length"))
                of = os.path.join(part, IMAGES)
                np.savez(of, shards=np.array(index.shards), shard=shard, offset=offset, length=length)
            entering.run(parts, bar.update)
        whole = os.path.join(beside, "whole")
        os.mkdir(whole)
        records = np.tile(np.array(NONE, np.int64), (len(index), 1))
        with open(os.path.join(whole, POINTS), "wb") as points, open(os.path.join(whole, MADE_UP), "wb") as made_up:
            for part, chosen in zip(parts, np.array_split(rows, workers), strict=True):
                of = np.load(os.path.join(part, RECORDS))
                of[of[:, 0] >= 0, :2] += points.tell() // 12, made_up.tell()
                records[chosen] = of
                for name, file in (POINTS, points), (MADE_UP, made_up):
                    with open(os.path.join(part, name), "rb") as own:
                        shutil.copyfileobj(own, file)
            # An empty file cannot be mapped.
            points.write(bytes(12))
            made_up.write(bytes(1))
        np.save(os.path.join(whole, RECORDS), records)
        with open(os.path.join(whole, HEADER), "w") as header:
            sizes = [os.path.getsize(os.path.join(whole, name)) for name in FILES]
            json.dump({"state": state, "bytes": sizes}, header)
        shutil.rmtree(place, ignore_errors=True)
        os.rename(whole, place)
