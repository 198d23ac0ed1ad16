"""A process that finds where images can be entered: `python -m pipeline.entering DIRECTORY`, for `entries` alone.

Reads `images.npz` there (shards, and of each image its shard, offset and length); writes what it finds beside it, and
how many more images are done to standard output.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

TOLD = 64  # images between two lines


def main(directory: str) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    from pipeline import entries

    with np.load(os.path.join(directory, entries.IMAGES)) as stored:
        shards = stored["shards"].tolist()
        images = list(zip(*(stored[name].tolist() for name in ("shard", "offset", "length")), strict=True))

    def contents() -> Iterator[tuple[int, bytes]]:
        path, file = "", -1
        for number, (shard, offset, length) in enumerate(images):
            if shards[shard] != path:
                if path:
                    os.close(file)
                path = shards[shard]
                file = os.open(path, os.O_RDONLY)
            yield number, os.pread(file, length, offset)

    records = np.tile(np.array(entries.NONE, np.int64), (len(images), 1))
    first = begin = untold = 0
    with (
        open(os.path.join(directory, entries.POINTS), "wb") as points,
        open(os.path.join(directory, entries.MADE_UP), "wb") as made_up,
    ):
        for number, found in entries.find(contents()):
            untold += 1
            if untold == TOLD:
                print(untold, flush=True)
                untold = 0
            if found is None:
                continue
            records[number] = np.array(found.record._replace(first=first, made_up=begin))
            points.write(found.points.tobytes())
            made_up.write(found.made_up.tobytes())
            first, begin = first + len(found.points), begin + len(found.made_up)
    np.save(os.path.join(directory, entries.RECORDS), records)
    print(untold, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
