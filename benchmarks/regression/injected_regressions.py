"""Changes for the worse, written into a version's source, that `compare` has to find.

    with checked_out("HEAD") as tree:
        step_slower(tree.path, cpu_seconds=0.012)

Each raises `ValueError` where the place it changes is not there any more.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path

# Random numbers, as they cannot be computed once and kept: how many come a second of CPU time is measured. Their sum
# goes into the labels (as 0: no sum is negative), as Grappler takes out what is only waited for.
SPENDING = """

def _spent(images, labels):
    drawn = tf.reduce_sum(tf.random.stateless_uniform([{count}], tf.cast(labels[:2], tf.int64)))
    return images, labels + tf.cast(drawn < 0, labels.dtype)
"""


def input_slower(tree: Path, cpu_seconds: float) -> None:
    """Each batch takes so much more CPU time to make."""
    _insert(
        tree / "pipeline" / "build.py",
        "        ds = stage(ds)\n",
        "    ds = ds.map(_spent, num_parallel_calls=tf.data.AUTOTUNE)\n",
        cpu_seconds,
    )


def step_slower(tree: Path, cpu_seconds: float) -> None:
    """Each training step takes so much more CPU time."""
    _insert(
        tree / "models" / "stable_model.py",
        "        images, labels = self._mixed(images, labels)\n",
        "        images, labels = _spent(images, labels)\n",
        cpu_seconds,
    )


def rate_times_3(tree: Path) -> None:
    """The learning rate is three times what was asked for."""
    path = tree / "models" / "schedules.py"
    peak = "self.peak = peak(config, global_batch_size)\n"
    path.write_text(_replaced(path.read_text(), peak, peak.replace("= peak", "= 3 * peak")))


def _insert(path: Path, behind: str, line: str, cpu_seconds: float) -> None:
    text = _replaced(path.read_text(), behind, behind + line)
    path.write_text(text + SPENDING.format(count=max(1, round(cpu_seconds * drawn_in_a_second()))))


def _replaced(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise ValueError(f"{old.strip()} stands there {text.count(old)} times, and not once.")
    return text.replace(old, new)


@functools.lru_cache(maxsize=1)
def drawn_in_a_second() -> float:
    """How many of the numbers of `SPENDING` a second of CPU time makes."""
    import tensorflow as tf

    count = 1_000_000
    draw = tf.function(lambda seed: tf.reduce_sum(tf.random.stateless_uniform([count], seed)))
    seeds = [tf.constant([number, 1], tf.int64) for number in range(51)]
    draw(seeds[0])
    begun = time.process_time()
    for seed in seeds[1:]:
        draw(seed).numpy()
    return 50 * count / (time.process_time() - begun)
