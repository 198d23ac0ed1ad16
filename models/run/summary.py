"""The summary of a run: measured during training, written as summary.json, printed for a person."""

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
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.sources.split_names import TEST, split_role

EXIT_PREEMPTED = 75  # the exit code that asks for a rerun with --resume
EXIT_INTERRUPTED = 130  # the shell's exit code after Ctrl-C
EXIT_FAILED = 3
# Skipped updates in a row after which a run is given up; 15 halvings bring float16's loss scale down to 1.
MAX_SKIPPED_UPDATES = 100


class RunMeter(keras.callbacks.Callback):
    """Measures throughput and input stalls of each compiled call, and records every skipped update as an incident.

    Raises (from `fit`):
      TrainingFailed: MAX_SKIPPED_UPDATES updates in a row had a non-finite gradient.

    Attributes:
      images_per_second: one value for each compiled call.
      input_wait_seconds: time that steps waited for their batches, summed over all calls except the first.
      call_seconds: wall time of those calls.
      first_call: the result of `time_since_start` at the end of the first call; None before.
      penalty: sum of the regularization losses in the last step; 0 before the first.
    """

    def __init__(self, global_batch_size: int, incidents: Incidents, state: dict[str, Any] | None = None) -> None:
        """`state` is what `state()` returned before the run was interrupted."""
        super().__init__()
        self._global_batch_size, self.incidents = global_batch_size, incidents
        self._skipped_in_a_row: int = (state or {"skipped": 0})["skipped"]
        self._call_start = 0.0
        self.images_per_second: list[float] = []
        self.input_wait_seconds = self.call_seconds = 0.0
        self.first_call: dict[str, float] | None = None
        self.penalty = 0.0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._call_start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        seconds, rows = time.perf_counter() - self._call_start, self.model.rows
        self.first_call = self.first_call or time_since_start()
        self.images_per_second.append(len(rows) * self._global_batch_size / seconds)
        self.penalty = float(step_row.column(rows, "penalty")[-1])
        if len(self.images_per_second) > 1:  # the first call includes compilation
            self.call_seconds += seconds
            self.input_wait_seconds += float(step_row.column(rows, "input_wait").sum())
        self._count_skipped(rows)
        if self._skipped_in_a_row >= MAX_SKIPPED_UPDATES:
            raise TrainingFailed(
                f"the last {self._skipped_in_a_row} updates were all skipped for a non-finite gradient:"
                " lower --optimizer.learning_rate, set --optimizer.clip_norm=1, or use --precision=float32."
            )

    def state(self) -> dict[str, Any]:
        """Returns, for a checkpoint, the number of consecutive skipped updates up to now."""
        return {"skipped": self._skipped_in_a_row}

    def _count_skipped(self, rows: np.ndarray) -> None:
        skipped = step_row.column(rows, "nonfinite") > 0
        for index in np.flatnonzero(skipped):
            self._record_skipped(self.model.step - len(rows) + int(index), rows[index])
        applied = np.flatnonzero(~skipped)
        if len(applied):
            self._skipped_in_a_row = len(rows) - 1 - int(applied[-1])
        else:
            self._skipped_in_a_row += len(rows)

    def _record_skipped(self, step: int, row: np.ndarray) -> None:
        evidence = {name: float(value) for name, value in zip(step_row.COLUMNS, row, strict=True)}
        kind = "loss_scale_overflow" if evidence["loss_scale"] > 1 else "nonfinite_gradient"
        self.incidents.record(step, kind, evidence, "skipped the update")


def summarize(
    config: TrainConfig,
    status: str,
    model: StableModel,
    steps_per_epoch: int,
    meter: RunMeter,
    final: dict[str, float] | None,
    best: dict[str, float] | None,
    wall_seconds: float,
    data: Dataset,
) -> dict[str, Any]:
    """The contents of summary.json; durations in seconds, memory in bytes.

    `final` and `best` are results on the validation images of `data`. `first_call` is the time from the start of the
    process to the end of its first compiled call.
    """
    packages = ("tensorflow", "tf_keras", "tensorflow-datasets", "numpy")
    throughput = meter.images_per_second[1:]  # the first call includes compilation
    return {
        "status": status,
        "steps": model.step,
        "epochs": model.trained_steps / steps_per_epoch,
        "final": final,
        "best": best,
        "penalty": meter.penalty,
        "images_per_second": float(np.median(throughput)) if throughput else None,
        "input_stall_fraction": meter.input_wait_seconds / meter.call_seconds if meter.call_seconds else None,
        "incidents": meter.incidents.counts,
        "skipped_images": len(data.skipped),
        "dropped_images": data.dropped,
        "validation_split": data.validation_split,
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


def format_text(summary: dict[str, Any], model_dir: str) -> str:
    """The summary as text for a terminal."""
    lines = [f"{summary['status']} after {summary['epochs']:.1f} epochs, {summary['steps']} steps"]
    for name in ("final", "best"):
        if result := summary[name]:
            lines.append(f"{name + ' validation':<18} accuracy {result['accuracy']:.4f}  loss {result['loss']:.4f}")
    if summary["penalty"]:
        lines.append(f"{'weight penalty':<18} {summary['penalty']:.4g}, added to the loss in training only")
    if split_role(summary["validation_split"]) == TEST:
        lines.append(f"{'validated on':<18} the test split: this accuracy is too good for an estimate of new images")
    if summary["images_per_second"]:
        lines.append(
            f"{'throughput':<18} {summary['images_per_second']:.0f} images/s,"
            f" {summary['input_stall_fraction']:.1%} of the time waiting for input"
        )
    lines.append(
        f"{'time':<18} {summary['wall_seconds']:.0f} s, peak memory {summary['peak_rss_bytes'] / 2**30:.1f} GiB"
    )
    if summary["incidents"]:
        counts = ", ".join(f"{count} {kind}" for kind, count in summary["incidents"].items())
        lines.append(f"{'incidents':<18} {counts} (incidents.jsonl)")
    if summary["skipped_images"]:
        lines.append(f"{'skipped images':<18} {summary['skipped_images']} (skipped.txt)")
    if summary["dropped_images"]:
        counts = ", ".join(f"{count} {kind}" for kind, count in summary["dropped_images"].items())
        lines.append(f"{'of them dropped':<18} {counts} (--data.drop)")
    lines.append(f"{'run':<18} {model_dir}")
    lines.append(f"{'view it with':<18} tensorboard --logdir {model_dir}")
    return "\n".join(lines)


def exit_code(summary: dict[str, Any]) -> int:
    """The exit code for a run with this summary; 0 if it completed or stopped early."""
    if summary["status"] == "preempted":  # by a signal, or because another worker is gone
        return EXIT_INTERRUPTED if summary.get("signal") == "SIGINT" else EXIT_PREEMPTED
    return EXIT_FAILED if summary["status"] == "failed" else 0


def time_since_start() -> dict[str, float]:
    """Wall seconds since this process started, to 10 ms, and CPU seconds of it and its ended children."""
    with open("/proc/self/stat") as file:
        fields = file.read().rpartition(")")[2].split()  # the process name before ")" may contain spaces
    start_ticks = int(fields[19])  # proc(5): starttime is field 22, and `fields` starts with field 3
    wall_seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / os.sysconf("SC_CLK_TCK")
    return {"wall_seconds": wall_seconds, "cpu_seconds": cpu_seconds()}


def cpu_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def git_commit() -> str | None:
    """The commit of the checkout that this code is in; None without a git checkout."""
    directory = pathlib.Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=directory, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
