"""Writes regressions into the source of a version, for `compare` to detect.

    with check_out("HEAD") as tree:
        slow_down_step(tree.path, cpu_seconds=0.012)

Each function raises `ValueError` if the source no longer contains the line to change.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path

# Spends CPU time on random numbers, which TensorFlow cannot compute once and reuse; their number sets the time. Their
# sum is added to the labels (as 0, because no sum is negative), because Grappler removes ops that are only a control
# dependency.
BURN_CPU_SOURCE = """

def _burn_cpu(images, labels):
    total = tf.reduce_sum(tf.random.stateless_uniform([{count}], tf.cast(labels[:2], tf.int64)))
    return images, labels + tf.cast(total < 0, labels.dtype)
"""


def slow_down_input(tree: Path, cpu_seconds: float) -> None:
    """Adds `cpu_seconds` of CPU time to each batch of the input pipeline."""
    _insert_line(
        tree / "pipeline" / "build.py",
        "        ds = stage(ds)\n",
        "    ds = ds.map(_burn_cpu, num_parallel_calls=tf.data.AUTOTUNE)\n",
        cpu_seconds,
    )


def slow_down_step(tree: Path, cpu_seconds: float) -> None:
    """Adds `cpu_seconds` of CPU time to each training step."""
    _insert_line(
        tree / "models" / "training" / "training_step.py",
        "        images, labels = self.mix(images, labels)\n",
        "        images, labels = _burn_cpu(images, labels)\n",
        cpu_seconds,
    )


def triple_learning_rate(tree: Path) -> None:
    """Makes the version train with three times the configured learning rate."""
    path = tree / "models" / "optim" / "schedules.py"
    line = "self.peak = peak_learning_rate(config, global_batch_size)\n"
    path.write_text(_replace_once(path.read_text(), line, line.replace("= peak", "= 3 * peak")))


def _insert_line(path: Path, after: str, line: str, cpu_seconds: float) -> None:
    source = _replace_once(path.read_text(), after, after + line)
    path.write_text(source + BURN_CPU_SOURCE.format(count=max(1, round(cpu_seconds * random_numbers_per_second()))))


def _replace_once(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise ValueError(f"{old.strip()!r} must be in the source once, but is in it {text.count(old)} times.")
    return text.replace(old, new)


@functools.lru_cache(maxsize=1)
def random_numbers_per_second() -> float:
    """The number of random numbers that `BURN_CPU_SOURCE` computes in one second of CPU time on this machine."""
    import tensorflow as tf

    count = 1_000_000
    draw = tf.function(lambda seed: tf.reduce_sum(tf.random.stateless_uniform([count], seed)))
    seeds = [tf.constant([number, 1], tf.int64) for number in range(51)]
    draw(seeds[0])
    start = time.process_time()
    for seed in seeds[1:]:
        draw(seed).numpy()
    return 50 * count / (time.process_time() - start)
