"""What a run was: measured while it goes on, written as summary.json, printed for a person."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import resource
import subprocess
import time
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import TrainConfig, config_hash
from evenkeel.models.errors import TrainingFailed
from evenkeel.models.telemetry import step_row
from evenkeel.models.telemetry.incidents import Incidents
from evenkeel.models.training.stable_model import StableModel

PREEMPTED = 75  # the exit code that asks to be resumed
MAX_SKIPPED = 100  # updates skipped in a row before a run is given up: 15 halvings bring float16's scale to 1


class Meter(keras.callbacks.Callback):
    """Throughput, input stalls and skipped updates, from the rows each compiled call leaves.

    Every skipped update is an incident.

    Raises (from `fit`):
      TrainingFailed: MAX_SKIPPED updates in a row had a non-finite gradient.
    """

    def __init__(self, global_batch_size: int, incidents: Incidents, state: dict[str, Any] | None = None) -> None:
        """`state` as `state()` gave it, where a run goes on."""
        super().__init__()
        self._batch, self.incidents = global_batch_size, incidents
        self._begun, self._in_a_row = 0.0, (state or {"skipped": 0})["skipped"]
        self.rates: list[float] = []  # images/s of each compiled call
        self.waited = self.spent = 0.0  # seconds
        self.first_call: dict[str, float] | None = None  # when it had ended, as `since_start` has it

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._begun = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        spent, rows = time.perf_counter() - self._begun, self.model.rows
        self.first_call = self.first_call or since_start()
        self.rates.append(len(rows) * self._batch / spent)
        if len(self.rates) > 1:  # the first compiles
            self.spent += spent
            self.waited += float(step_row.column(rows, "input_wait").sum())
        skipped = step_row.column(rows, "nonfinite") > 0
        for number in np.flatnonzero(skipped):
            self._record(self.model.step - len(rows) + int(number), rows[number])
        ran = np.flatnonzero(~skipped)
        self._in_a_row = len(rows) - 1 - int(ran[-1]) if len(ran) else self._in_a_row + len(rows)
        if self._in_a_row >= MAX_SKIPPED:
            raise TrainingFailed(
                f"the last {self._in_a_row} updates were all skipped for a non-finite gradient:"
                " lower --optimizer.learning_rate, set --optimizer.clip_norm=1, or use --precision=float32."
            )

    def state(self) -> dict[str, Any]:
        """How many updates in a row have been skipped, up to now."""
        return {"skipped": self._in_a_row}

    def _record(self, step: int, row: np.ndarray) -> None:
        evidence = {name: float(value) for name, value in zip(step_row.ROW, row, strict=True)}
        kind = "loss_scale_overflow" if evidence["loss_scale"] > 1 else "nonfinite_gradient"
        self.incidents.tell(step, kind, evidence, "skipped the update")


def since_start() -> dict[str, float]:
    """Seconds since this process began, to 10 ms, and CPU seconds that it and its ended children have taken."""
    with open("/proc/self/stat") as file:
        fields = file.read().rpartition(")")[2].split()  # the name before it may hold spaces
    ticks = int(fields[19])  # proc(5): starttime is field 22; the first here is field 3
    running = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return {"wall_seconds": running, "cpu_seconds": cpu_seconds()}


def cpu_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


def summarize(
    config: TrainConfig,
    status: str,
    model: StableModel,
    steps_per_epoch: int,
    meter: Meter,
    final: dict[str, float] | None,
    best: dict[str, float] | None,
    wall_seconds: float,
    skipped_images: int,
) -> dict[str, Any]:
    """The contents of summary.json; durations in seconds, memory in bytes, `final` and `best` on validation.

    `first_call` says how long after its start the process had made its first compiled call of steps.
    """
    packages = ("tensorflow", "tf_keras", "tensorflow-datasets", "numpy")
    return {
        "status": status,
        "steps": model.step,
        "epochs": model.trained_steps / steps_per_epoch,
        "final": final,
        "best": best,
        "images_per_second": float(np.median(meter.rates[1:])) if len(meter.rates) > 1 else None,
        "input_stall_fraction": meter.waited / meter.spent if meter.spent else None,
        "incidents": meter.incidents.counts,
        "skipped_images": skipped_images,
        "wall_seconds": wall_seconds,
        "cpu_seconds": cpu_seconds(),
        "first_call": meter.first_call,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "config_hash": config_hash(config),
        "git_commit": git_commit(),
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in packages},
        },
        "devices": [device.name for device in tf.config.list_logical_devices()],
    }


def exit_code(summary: dict[str, Any]) -> int:
    """What a process that trained ends with: 75 asks to be resumed, 130 is Ctrl-C's, 3 that training failed."""
    if summary["status"] == "preempted":  # by a signal, or as another worker has gone
        return 130 if summary.get("signal") == "SIGINT" else PREEMPTED
    return 3 if summary["status"] == "failed" else 0


def git_commit() -> str | None:
    """The checkout's commit; None where this is no git checkout."""
    here = pathlib.Path(__file__).resolve().parent
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def text(summary: dict[str, Any], model_dir: str) -> str:
    """The summary as a person reads it."""
    lines = [f"{summary['status']} after {summary['epochs']:.1f} epochs, {summary['steps']} steps"]
    for name in ("final", "best"):
        if result := summary[name]:
            lines.append(f"{name + ' validation':<18} accuracy {result['accuracy']:.4f}  loss {result['loss']:.4f}")
    if summary["images_per_second"]:
        lines.append(
            f"{'throughput':<18} {summary['images_per_second']:.0f} images/s,"
            f" {summary['input_stall_fraction']:.1%} of the time waiting for input"
        )
    lines.append(f"{'time':<18} {summary['wall_seconds']:.0f} s, {summary['peak_rss_bytes'] / 2**30:.1f} GiB at most")
    if summary["incidents"]:
        counts = ", ".join(f"{count} {kind}" for kind, count in summary["incidents"].items())
        lines.append(f"{'incidents':<18} {counts} (incidents.jsonl)")
    if summary["skipped_images"]:
        lines.append(f"{'skipped images':<18} {summary['skipped_images']} (skipped.txt)")
    lines.append(f"{'run':<18} {model_dir}")
    lines.append(f"{'look at it with':<18} tensorboard --logdir {model_dir}")
    return "\n".join(lines)
