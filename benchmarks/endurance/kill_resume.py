"""A run that is killed again and again, and one that is left alone.

came = endure(replicas=1, kills=50, terms=20, rng=random.Random(0))
came.bit_equal, came.lost
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

from tqdm import tqdm

from evenkeel.benchmarks.endurance import victim

STEPS_A_LIFE = 25  # of the straight run, for each signal
AFTER = 200  # steps that the last signal comes before the end
LATEST = 0.3  # seconds from the step that a signal waits for to the signal
# The one on its way to the disk, the steps since, and the call in which they end.
MOST_LOST = 2 * victim.EVERY + victim.PER_CALL
PATIENCE = 300  # seconds for a life to come to its step


class Endured(NamedTuple):
    """What came of a run that was killed: steps `lost` by each SIGKILL, how many struck in a save."""

    bit_equal: bool
    kills: int
    terms: int
    in_saves: int
    lost: list[int]


class Unendured(Exception):
    """A life did not go as it must; one line."""


def endure(replicas: int, kills: int, terms: int, rng: random.Random) -> Endured:
    """Both runs, and what their last checkpoints hold.

    Raises:
      Unendured: a life ended in another way than it was made to.
    """
    signals = [signal.SIGKILL] * kills + [signal.SIGTERM] * terms
    rng.shuffle(signals)
    struck = range(victim.PER_CALL, STEPS_A_LIFE * (len(signals) + 1))
    moments = sorted(rng.sample(struck, len(signals)))
    epochs = -(-(struck.stop + AFTER) // victim.STEPS_PER_EPOCH)
    steps = epochs * victim.STEPS_PER_EPOCH
    lost, in_saves = [], 0
    with tempfile.TemporaryDirectory() as directory:
        straight, run, told = (os.path.join(directory, name) for name in ("straight", "run", "told"))
        with Life(straight, f"{told}-straight", replicas, epochs) as life:
            life.ends(0)
        for number, step in zip(tqdm(signals, unit="signal", desc=f"{replicas} replicas"), moments, strict=True):
            with Life(run, told, replicas, epochs) as life:
                life.comes_to(step)
                time.sleep(rng.random() * LATEST)
                life.process.send_signal(number)
                life.ends(-signal.SIGKILL if number == signal.SIGKILL else 75)
            lost_now = told_step(told) - newest_step(run)
            if number == signal.SIGKILL:
                if lost_now > MOST_LOST:
                    raise Unendured(f"a SIGKILL cost {lost_now} steps, and {MOST_LOST} may be lost")
                lost.append(lost_now)
                in_saves += any(name.startswith("writing-") for name in os.listdir(os.path.join(run, "checkpoints")))
            elif lost_now:
                raise Unendured(f"a SIGTERM cost {lost_now} steps")
        with Life(run, told, replicas, epochs) as life:
            life.ends(0)
        same = contents(straight, steps) == contents(run, steps)
    return Endured(same, kills, terms, in_saves, lost)


class Life:
    """A process that trains until it is killed or done."""

    def __init__(self, run: str, told: str, replicas: int, epochs: int) -> None:
        self._told = told
        line = [sys.executable, "-m", "benchmarks.endurance.victim", run, told, str(replicas), str(epochs)]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with this)
        self.process = subprocess.Popen(line, stdout=self._log, stderr=subprocess.STDOUT)

    def __enter__(self) -> Life:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()

    def comes_to(self, step: int) -> None:
        """Waits until this life, not an earlier one, has told a step from `step` on."""
        before = os.stat(self._told).st_mtime_ns if os.path.exists(self._told) else 0
        for _ in _until(PATIENCE):
            if self.process.poll() is not None:
                raise Unendured(f"it ended with {self.process.returncode} before step {step}: {self._last_lines()}")
            if (
                os.path.exists(self._told)
                and os.stat(self._told).st_mtime_ns > before
                and told_step(self._told) >= step
            ):
                return
        raise Unendured(f"it did not come to step {step} within {PATIENCE} s: {self._last_lines()}")

    def ends(self, code: int) -> None:
        try:
            found = self.process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise Unendured(f"it did not end within {PATIENCE} s: {self._last_lines()}") from None
        if found != code:
            raise Unendured(f"it ended with {found} and not with {code}: {self._last_lines()}")

    def _last_lines(self) -> str:
        self._log.seek(0)
        return " | ".join(self._log.read().decode(errors="replace").splitlines()[-5:])


def _until(seconds: float) -> Iterator[None]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.002)


def told_step(path: str) -> int:
    if not os.path.exists(path):
        return 0
    with open(path, "rb") as file:
        return int.from_bytes(file.read(), "little")


def newest_step(run: str) -> int:
    """Of the checkpoints with a name, which are the whole ones."""
    names = os.listdir(os.path.join(run, "checkpoints")) if os.path.isdir(os.path.join(run, "checkpoints")) else []
    return max((int(match[1]) for name in names if (match := re.fullmatch(r"step-(\d+)", name))), default=0)


def contents(run: str, step: int) -> dict[str, bytes]:
    """All that the checkpoint of `step` holds, by name, to the bit."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(os.path.join(run, "checkpoints", f"step-{step:08d}", "variables"))
    names = [name for name in reader.get_variable_to_shape_map() if "CHECKPOINTABLE" not in name]
    return {name: reader.get_tensor(name).tobytes() for name in names}
