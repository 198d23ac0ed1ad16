"""Readahead: asks the kernel to read mapped memory before it is used.

    addresses = memory_map.file_addresses(paths, sizes)
    request(addresses[:1], tf.constant([5000]))    # in a graph or outside of one

The data set only puts requests into a queue, and a Python thread of this module passes them to the kernel. If the data
set called Python itself (`tf.numpy_function`), the call would not return once the interpreter is shutting down, and a
script with an iterator in a global variable would hang at its end.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import mmap
import threading

import tensorflow as tf

MADV_WILLNEED = 3  # <sys/mman.h>
EXIT_TIMEOUT_SECONDS = 5.0  # longest wait, at the end of the process, for a disk that does not answer
MAX_PENDING_REQUESTS = 1000  # in the queue, one per batch; further requests are dropped, so a slow disk delays nothing


def request(addresses: tf.Tensor, lengths: tf.Tensor) -> None:
    """Asks the kernel to read `lengths` bytes (int64 [n]) at each of `addresses` (int64 [n]), and does not wait.

    The request is a hint that changes no result: without it, the bytes are read when they are used. With requests, cold
    storage gets many of them at once.
    """
    with tf.init_scope():
        queue = _queue()

    def enqueue() -> bool:
        queue.enqueue([addresses, lengths])
        return True

    tf.cond(queue.size() < MAX_PENDING_REQUESTS, enqueue, lambda: False)


@functools.cache
def _queue() -> tf.queue.QueueBase:
    """The queue of requests; the first call starts the thread that serves the queue."""
    with tf.device("CPU:0"):
        # Twice the limit: several threads may see a queue that is not full and enqueue at once.
        queue = tf.queue.FIFOQueue(2 * MAX_PENDING_REQUESTS, [tf.int64, tf.int64])
    thread = threading.Thread(target=_serve, args=[queue], name="readahead", daemon=True)
    thread.start()

    def stop() -> None:
        """Ends the thread before the interpreter shuts down, because the thread must not return into Python later."""
        queue.close(cancel_pending_enqueues=True)
        thread.join(timeout=EXIT_TIMEOUT_SECONDS)

    atexit.register(stop)
    return queue


def _serve(queue: tf.queue.QueueBase) -> None:
    """Passes requests to the kernel until the queue is closed and empty."""
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    page = mmap.PAGESIZE
    while True:
        try:
            addresses, lengths = (tensor.numpy() for tensor in queue.dequeue())
        except tf.errors.OutOfRangeError:  # closed and empty
            return
        aligned = addresses // page * page
        for address, length in zip(aligned.tolist(), (addresses + lengths - aligned).tolist(), strict=True):
            madvise(address, length, MADV_WILLNEED)
