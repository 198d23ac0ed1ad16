"""A script that holds iterators in globals ends, whatever Python their threads call."""

from __future__ import annotations

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
SCRIPT = """
import tensorflow as tf
from pipeline.exiting import until_exit

def announced(row):
    return tf.numpy_function(until_exit(lambda row: row), [row], tf.int64)

def made(row):
    return tf.reduce_sum(tf.random.uniform([10_000]))

rows = tf.data.Dataset.range(10**9).map(announced).prefetch(64)
images = rows.map(made, num_parallel_calls=2).batch(64).prefetch(10_000)
batches = [iter(images) for _ in range(4)]
print([next(each).shape[0] for each in batches])
"""


def test_threads_that_call_python_let_the_interpreter_end() -> None:
    line = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == f"{[64] * 4}\n"
