"""Measures how memory, threads and open files grow in a training run of 20,000 steps with all features on.

    python -m benchmarks.endurance.long_run --steps=20000 --output=result.json

Trains a tiny network with guard, histograms, checkpoints, validation, weight averages and TensorBoard, and reads the
memory, threads and open files of the training process from /proc. The growth is the median in the last tenth of the
steps compared with the median in the first tenth after the warm-up. Exits with 4 if memory grows by more than 2%, or
if the number of threads or open files grows.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np
from absl import flags
from tqdm import tqdm

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.results import Result
from evenkeel.pipeline.errors import require

FLAGS = flags.FLAGS
flags.DEFINE_integer("steps", 20_000, "steps of the run")
flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")

IMAGES, BATCH_SIZE = 400, 4  # 100 steps per epoch
SAMPLE_INTERVAL_SECONDS = 0.5
MAX_MEMORY_GROWTH = 0.02
# Memory grows by 2.5% from step 300 to 2,000, and by 0.7% in the next 18,000 steps.
WARMUP_STEPS = 2000
TRAIN_OPTIONS = {
    "guard": "act",
    "histograms_every": 100,
    "averaging.name": "ema",
    "precision": "float32",
    "steps_per_execution": 20,
    "data.shapes.size": 16,
    "data.shapes.count": IMAGES,
    "data.image_size": 16,
    "data.batch_size": BATCH_SIZE,
    "data.augment.flip": 0.5,
    "model.name": "cnn",
    "model.width": 4,
    "optimizer.name": "adam",
    "optimizer.learning_rate": 0.001,
}


class ProcessUsage(NamedTuple):
    """Resources that the training process uses.

    Attributes:
      steps: number of completed steps.
      memory: resident memory in bytes.
      threads: number of threads.
      files: number of open files.
    """

    steps: int
    memory: int
    threads: int
    files: int


def main(argv: list[str]) -> int:
    require(FLAGS.steps >= 1000, f"--steps ({FLAGS.steps}) must be 1000 or more: a shorter run is only warm-up.")
    epochs = round(FLAGS.steps * BATCH_SIZE / IMAGES)
    samples = train_and_sample(epochs)
    warmup = warmup_share(samples[-1].steps)
    early, late = (median_usage(samples, interval) for interval in ((warmup, warmup + 0.1), (0.9, 1.0)))
    growth = {
        "memory_growth": (late.memory / early.memory - 1, "share"),
        "threads_growth": (late.threads - early.threads, "1"),
        "files_growth": (late.files - early.files, "1"),
    }
    print(
        f"{epochs * IMAGES // BATCH_SIZE} steps: memory {early.memory / 2**20:.1f} to {late.memory / 2**20:.1f} MiB"
        f" ({growth['memory_growth'][0]:+.2%}), threads {early.threads} to {late.threads},"
        f" open files {early.files} to {late.files}; each value is the median of one tenth of the steps"
        f" ({len(samples)} samples in all)"
    )
    tenths = [median_usage(samples, (tenth / 10, (tenth + 1) / 10)).memory / 2**20 for tenth in range(10)]
    print(f"median memory in each tenth of the run, in MiB: {', '.join(f'{memory:.0f}' for memory in tenths)}")
    if FLAGS.output:
        memory_results = [
            Result("memory", "long_run", name, unit, "lower", (value,)) for name, (value, unit) in growth.items()
        ]
        memory_results.append(Result("memory", "long_run", "memory", "bytes", "lower", (late.memory,)))
        results.write(FLAGS.output, memory_results, results.environment())
    has_grown = (
        growth["memory_growth"][0] > MAX_MEMORY_GROWTH or late.threads > early.threads or late.files > early.files
    )
    return 4 if has_grown else 0


def warmup_share(steps: int) -> float:
    """The share of the steps that counts as warm-up: at least a tenth and at least `WARMUP_STEPS`, but at most half."""
    return min(0.5, max(0.1, WARMUP_STEPS / steps))


def median_usage(samples: list[ProcessUsage], interval: tuple[float, float]) -> ProcessUsage:
    """The medians of the samples in `interval`, (start, end) as shares of the steps.

    If the interval contains no sample, because an epoch is shorter than the time between samples, the nearest sample is
    returned.
    """
    first, last = (share * samples[-1].steps for share in interval)
    nearest = min(samples, key=lambda sample: max(first - sample.steps, sample.steps - last))
    chosen = [sample for sample in samples if first <= sample.steps <= last] or [nearest]
    return ProcessUsage(*(int(np.median(column)) for column in zip(*chosen, strict=True)))


def train_and_sample(epochs: int) -> list[ProcessUsage]:
    """Trains in another process and samples the resources of this process until it ends."""
    samples = []
    with tempfile.TemporaryDirectory() as directory:
        run = os.path.join(directory, "run")
        options = {**TRAIN_OPTIONS, "model_dir": run, "epochs": epochs}
        command_line = [sys.executable, "-m", "tools.train", *(f"--{name}={value}" for name, value in options.items())]
        with tempfile.TemporaryFile("w+") as log, tqdm(total=epochs, unit="epoch", file=sys.stderr) as bar:
            process = subprocess.Popen(command_line, stdout=log, stderr=log)
            try:
                while process.poll() is None:
                    time.sleep(SAMPLE_INTERVAL_SECONDS)
                    steps = newest_checkpoint_step(pathlib.Path(run, "checkpoints"))
                    if steps and (usage := read_usage(process.pid, steps)):
                        samples.append(usage)
                        bar.update(steps * BATCH_SIZE // IMAGES - bar.n)
            finally:
                process.kill()
                process.wait()
            log.seek(0)
            require(process.returncode == 0, f"the run ended with exit code {process.returncode}: {log.read()[-500:]}")
    require(bool(samples), "the run ended before the first sample: give more --steps.")
    return samples


def newest_checkpoint_step(checkpoints: pathlib.Path) -> int:
    """The step of the newest checkpoint (one is written every epoch); 0 if there is none."""
    return max((int(path.name.removeprefix("step-")) for path in checkpoints.glob("step-*")), default=0)


def read_usage(pid: int, steps: int) -> ProcessUsage | None:
    """Reads the resources of the process `pid` from /proc; None if the process has ended."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        memory = int(fields["VmRSS"].split()[0]) << 10
        return ProcessUsage(steps, memory, int(fields["Threads"]), len(os.listdir(f"/proc/{pid}/fd")))
    except (OSError, KeyError):
        return None


if __name__ == "__main__":
    command.run(main)
