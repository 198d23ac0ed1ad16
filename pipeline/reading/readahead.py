"""Memory over files that the kernel is told to read before it is used.

    addresses = mapping.addresses(paths, sizes)
    announce(addresses[:1], tf.constant([5000]))    # in a graph or outside of it

A data set only puts into a queue what it is about to read; a thread of this module tells the kernel. Python that a data
set itself calls (`tf.numpy_function`) does not return once the interpreter is on its way out, and a script that holds
an iterator in a global would wait for it for ever.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import mmap
import threading

import tensorflow as tf

MADV_WILLNEED = 3  # <sys/mman.h>
PATIENCE = 5.0  # seconds that the end of the process waits for a disk which does not answer
PENDING = 1000  # announcements in the queue, of a batch each: who is that far behind is not waited for


def announce(addresses: tf.Tensor, lengths: tf.Tensor) -> None:
    """Has the kernel read `lengths` bytes (int64 [n]) at each of `addresses` (int64 [n]); waits for nothing.

    It is advice: without it the bytes come later, and no less rightly. Cold storage sees all requests together.
    """
    with tf.init_scope():
        queue = _queue()

    def told() -> bool:
        queue.enqueue([addresses, lengths])
        return True

    tf.cond(queue.size() < PENDING, told, lambda: False)


@functools.cache
def _queue() -> tf.queue.QueueBase:
    with tf.device("CPU:0"):
        queue = tf.queue.FIFOQueue(2 * PENDING, [tf.int64, tf.int64])  # with room for some who look at its size at once
    thread = threading.Thread(target=_advise, args=[queue], name="readahead", daemon=True)
    thread.start()

    def end() -> None:
        """While the interpreter is whole: the thread must not be on its way back into it later."""
        queue.close(cancel_pending_enqueues=True)
        thread.join(timeout=PATIENCE)

    atexit.register(end)
    return queue


def _advise(queue: tf.queue.QueueBase) -> None:
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    page = mmap.PAGESIZE
    while True:
        try:
            begin, lengths = (each.numpy() for each in queue.dequeue())
        except tf.errors.OutOfRangeError:  # closed, and nothing is left
            return
        aligned = begin // page * page
        for address, length in zip(aligned.tolist(), (begin + lengths - aligned).tolist(), strict=True):
            advise(address, length, MADV_WILLNEED)
