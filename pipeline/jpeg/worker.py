"""Processes that find where images can be entered, for `entries`.

    run(["DIRECTORY/0", "DIRECTORY/1"], bar.update)    # one for each; raises where one fails

A process reads `images.npz` in its directory (shards, and of each image its shard, offset and length), writes what it
finds beside it, and how many more images are done to standard output.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.errors import UsageError

TOLD = 64  # images between two lines
COMPLAINTS = "complaints.txt"
# Not by -m, which would look for modules in the current directory.
COMMAND = (
    "import sys; sys.path[:] = filter(None, sys.path);"
    " from evenkeel.pipeline.jpeg import worker; worker.main(sys.argv[1])"
)


def run(directories: list[str], done: Callable[[int], object]) -> None:
    """Each process's TensorFlow runs operations on one thread: with more, the loop takes three times as long.

    Raises:
      UsageError: one failed. The others are ended then, as when this one is interrupted.
    """
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}

    def follow(process: subprocess.Popen, directory: str) -> None:
        for line in process.stdout or ():
            done(int(line))
        code = process.wait()
        if not code:
            return
        with open(os.path.join(directory, COMPLAINTS), errors="replace") as file:
            lines = file.read().strip().splitlines()
        why = signal.Signals(-code).name if code < 0 else lines[-1] if lines else f"exit code {code}"
        raise UsageError(f"entries were not found ({why}): mend that, or do without them by --data.entries=false.")

    # What comes last is left first: a pool waits for its threads, and they for their processes.
    with ThreadPoolExecutor(len(directories)) as pool, contextlib.ExitStack() as stack:
        followed = []
        for directory in directories:
            complaints = stack.enter_context(open(os.path.join(directory, COMPLAINTS), "w"))
            command = [sys.executable, "-c", COMMAND, directory]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True, env=environment)
            stack.callback(process.kill)
            followed.append(pool.submit(follow, process, directory))
        for each in as_completed(followed):
            each.result()


def main(directory: str) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    from evenkeel.pipeline.jpeg import seek_index

    with np.load(os.path.join(directory, seek_index.IMAGES)) as stored:
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

    records = np.tile(np.array(seek_index.NONE, np.int64), (len(images), 1))
    first = begin = untold = 0
    with (
        open(os.path.join(directory, seek_index.POINTS), "wb") as points,
        open(os.path.join(directory, seek_index.MADE_UP), "wb") as made_up,
    ):
        for number, found in seek_index.find(contents()):
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
    np.save(os.path.join(directory, seek_index.RECORDS), records)
    print(untold, flush=True)
