"""Compares a run that is killed and resumed many times with an uninterrupted run.

result = kill_and_resume(replicas=1, kills=50, terms=20, rng=random.Random(0))
result.bit_equal, result.lost
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

STEPS_PER_SIGNAL = 25  # average number of steps of the run per signal
STEPS_AFTER_LAST_SIGNAL = 200
MAX_SIGNAL_DELAY_SECONDS = 0.3  # a signal is sent at most this long after its step has been reached
# A SIGKILL loses the steps from the last complete checkpoint to the one that is being written, the steps since then,
# and those of the current call.
MAX_STEPS_LOST = 2 * victim.CHECKPOINT_EVERY_STEPS + victim.STEPS_PER_CALL
EXIT_PREEMPTED = 75  # exit code of `evenkeel train` after SIGTERM
TIMEOUT_SECONDS = 300  # maximum time until a process reaches a step or ends


class EnduranceResult(NamedTuple):
    """The result of a run that was killed and resumed.

    Attributes:
      bit_equal: whether the last checkpoint equals the one of the uninterrupted run.
      kills: number of SIGKILLs.
      terms: number of SIGTERMs.
      in_saves: number of SIGKILLs that arrived while a checkpoint was being written.
      lost: number of steps that each SIGKILL lost.
    """

    bit_equal: bool
    kills: int
    terms: int
    in_saves: int
    lost: list[int]


class EnduranceError(Exception):
    """A training process ended in a wrong way or lost too many steps; the message is one line."""


def kill_and_resume(replicas: int, kills: int, terms: int, rng: random.Random) -> EnduranceResult:
    """Trains once without signals and once with signals at random steps, and compares the last checkpoints.

    Raises:
      EnduranceError: a process ended in a wrong way, or lost too many steps.
    """
    signals = [signal.SIGKILL] * kills + [signal.SIGTERM] * terms
    rng.shuffle(signals)
    signal_range = range(victim.STEPS_PER_CALL, STEPS_PER_SIGNAL * (len(signals) + 1))
    signal_steps = sorted(rng.sample(signal_range, len(signals)))
    epochs = -(-(signal_range.stop + STEPS_AFTER_LAST_SIGNAL) // victim.STEPS_PER_EPOCH)
    steps = epochs * victim.STEPS_PER_EPOCH
    lost, in_saves = [], 0
    with tempfile.TemporaryDirectory() as directory:
        undisturbed, run, step_file = (os.path.join(directory, name) for name in ("undisturbed", "run", "step"))
        with TrainingProcess(undisturbed, f"{step_file}-undisturbed", replicas, epochs) as process:
            process.wait_for_exit(0)
        for number, step in zip(tqdm(signals, unit="signal", desc=f"{replicas} replicas"), signal_steps, strict=True):
            with TrainingProcess(run, step_file, replicas, epochs) as process:
                process.wait_for_step(step)
                time.sleep(rng.random() * MAX_SIGNAL_DELAY_SECONDS)
                process.send(number)
                process.wait_for_exit(-signal.SIGKILL if number == signal.SIGKILL else EXIT_PREEMPTED)
            steps_lost = read_step_file(step_file) - newest_checkpoint_step(run)
            if number == signal.SIGKILL:
                if steps_lost > MAX_STEPS_LOST:
                    raise EnduranceError(f"a SIGKILL lost {steps_lost} steps; at most {MAX_STEPS_LOST} may be lost")
                lost.append(steps_lost)
                in_saves += any(name.startswith("writing-") for name in os.listdir(os.path.join(run, "checkpoints")))
            elif steps_lost:
                raise EnduranceError(f"a SIGTERM lost {steps_lost} steps; none may be lost")
        with TrainingProcess(run, step_file, replicas, epochs) as process:
            process.wait_for_exit(0)
        bit_equal = checkpoint_values(undisturbed, steps) == checkpoint_values(run, steps)
    return EnduranceResult(bit_equal, kills, terms, in_saves, lost)


class TrainingProcess:
    """A process that starts or resumes a run (`victim.py`). As a context manager, it kills the process at the end."""

    def __init__(self, run: str, step_file: str, replicas: int, epochs: int) -> None:
        self._step_file = step_file
        command = [sys.executable, "-m", "benchmarks.endurance.victim", run, step_file, str(replicas), str(epochs)]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)

    def __enter__(self) -> TrainingProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the process."""
        self._process.send_signal(number)

    def wait_for_step(self, step: int) -> None:
        """Waits until this process, not an earlier one, has recorded a step of at least `step`.

        Raises:
          EnduranceError: the process ended before this step, or did not reach it within the time limit.
        """
        time_before = os.stat(self._step_file).st_mtime_ns if os.path.exists(self._step_file) else 0
        for _ in _poll(TIMEOUT_SECONDS):
            if self._process.poll() is not None:
                code = self._process.returncode
                raise EnduranceError(
                    f"the process ended with exit code {code} before step {step}: {self._last_lines()}"
                )
            if (
                os.path.exists(self._step_file)
                and os.stat(self._step_file).st_mtime_ns > time_before
                and read_step_file(self._step_file) >= step
            ):
                return
        raise EnduranceError(f"the process did not reach step {step} within {TIMEOUT_SECONDS} s: {self._last_lines()}")

    def wait_for_exit(self, expected_code: int) -> None:
        """Waits until the process ends.

        Raises:
          EnduranceError: the exit code differs from `expected_code`, or the process does not end within the time limit.
        """
        try:
            code = self._process.wait(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            raise EnduranceError(f"the process did not end within {TIMEOUT_SECONDS} s: {self._last_lines()}") from None
        if code != expected_code:
            raise EnduranceError(
                f"the process ended with exit code {code} instead of {expected_code}: {self._last_lines()}"
            )

    def _last_lines(self) -> str:
        self._log.seek(0)
        return " | ".join(self._log.read().decode(errors="replace").splitlines()[-5:])


def _poll(seconds: float) -> Iterator[None]:
    """Yields every 2 ms until `seconds` have passed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.002)


def read_step_file(path: str) -> int:
    """The last step that the training process recorded; 0 if the file does not exist."""
    if not os.path.exists(path):
        return 0
    with open(path, "rb") as file:
        return int.from_bytes(file.read(), "little")


def newest_checkpoint_step(run: str) -> int:
    """The step of the newest checkpoint that has its final name, so is complete; 0 if there is none."""
    directory = os.path.join(run, "checkpoints")
    names = os.listdir(directory) if os.path.isdir(directory) else []
    return max((int(match[1]) for name in names if (match := re.fullmatch(r"step-(\d+)", name))), default=0)


def checkpoint_values(run: str, step: int) -> dict[str, bytes]:
    """{name: bytes} of all tensors in the checkpoint of `step`."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(os.path.join(run, "checkpoints", f"step-{step:08d}", "variables"))
    names = [name for name in reader.get_variable_to_shape_map() if "CHECKPOINTABLE" not in name]
    return {name: reader.get_tensor(name).tobytes() for name in names}
