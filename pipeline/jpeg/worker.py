"""Processes that find the seek points of JPEGs.

    run_workers(["DIRECTORY/0", "DIRECTORY/1"], bar.update)    # one process for each directory

A process reads `images.npz` in its directory (the paths of the shards, and the shard, offset and length of each image),
writes the seek points beside it, and prints how many more images are done.
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
from evenkeel.pipeline.jpeg.seek_points import NO_SEEK_POINTS, find_seek_points

IMAGES_FILE = "images.npz"  # the input of a process
# Its output: SeekPoints.points and SeekPoints.filler of all its images, concatenated, and a SeekRecord per image.
POINTS_FILE, FILLER_FILE, RECORDS_FILE = "points.bin", "made_up.bin", "records.npy"
ERRORS_FILE = "complaints.txt"
PROGRESS_IMAGES = 64  # images between two lines of output
# Not `python -m`, which would look for modules in the current directory.
COMMAND = (
    "import sys; sys.path[:] = filter(None, sys.path);"
    " from evenkeel.pipeline.jpeg import worker; worker.main(sys.argv[1])"
)


def run_workers(directories: list[str], report_progress: Callable[[int], object]) -> None:
    """Runs a process for each directory; `report_progress` gets the number of images that are newly done.

    TensorFlow uses one thread in each process: with more, the decoding loop takes three times as long.

    Raises:
      UsageError: a process failed. The other processes are killed then, and also if this process is interrupted.
    """
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}

    def follow(process: subprocess.Popen, directory: str) -> None:
        for line in process.stdout or ():
            report_progress(int(line))
        code = process.wait()
        if not code:
            return
        with open(os.path.join(directory, ERRORS_FILE), errors="replace") as file:
            lines = file.read().strip().splitlines()
        reason = signal.Signals(-code).name if code < 0 else lines[-1] if lines else f"exit code {code}"
        raise UsageError(
            f"the seek index of JPEGs cannot be built ({reason}): fix this cause, or turn the index off with"
            " --data.entries=false."
        )

    # Contexts end in reverse order, so the processes are killed before the pool waits for its threads, which read the
    # output of the processes.
    with ThreadPoolExecutor(len(directories)) as pool, contextlib.ExitStack() as stack:
        results = []
        for directory in directories:
            errors = stack.enter_context(open(os.path.join(directory, ERRORS_FILE), "w"))
            command = [sys.executable, "-c", COMMAND, directory]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
            stack.callback(process.kill)
            results.append(pool.submit(follow, process, directory))
        for result in as_completed(results):
            result.result()


def main(directory: str) -> None:
    """Finds the seek points of the images that `directory` lists, in a process of its own."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    with np.load(os.path.join(directory, IMAGES_FILE)) as arrays:
        shards = arrays["shards"].tolist()
        images = list(zip(*(arrays[name].tolist() for name in ("shard", "offset", "length")), strict=True))

    def read_images() -> Iterator[tuple[int, bytes]]:
        path, file = "", -1
        for number, (shard, offset, length) in enumerate(images):
            if shards[shard] != path:
                if path:
                    os.close(file)
                path = shards[shard]
                file = os.open(path, os.O_RDONLY)
            yield number, os.pread(file, length, offset)

    records = np.tile(np.array(NO_SEEK_POINTS, np.int64), (len(images), 1))
    first_point = filler_begin = unreported = 0
    with (
        open(os.path.join(directory, POINTS_FILE), "wb") as points,
        open(os.path.join(directory, FILLER_FILE), "wb") as filler,
    ):
        for number, seek_points in find_seek_points(read_images()):
            unreported += 1
            if unreported == PROGRESS_IMAGES:
                print(unreported, flush=True)
                unreported = 0
            if seek_points is None:
                continue
            records[number] = np.array(seek_points.record._replace(first_point=first_point, filler=filler_begin))
            points.write(seek_points.points.tobytes())
            filler.write(seek_points.filler.tobytes())
            first_point += len(seek_points.points)
            filler_begin += len(seek_points.filler)
    np.save(os.path.join(directory, RECORDS_FILE), records)
    print(unreported, flush=True)
