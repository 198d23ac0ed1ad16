"""Whether a long run grows: memory, threads and open files of 20,000 steps with everything on.

    python -m benchmarks.endurance.long_run --steps=20000 --output=result.json

A tiny network with guard, histograms, checkpoints, validation, averages and TensorBoard. What the process holds is read
from /proc while it trains; growth is the last tenth of the steps against the first tenth behind the warm-up. More than
2% of memory, or a thread or a file more, exits with 4.
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

IMAGES, BATCH = 400, 4  # 100 steps an epoch
EVERY = 0.5  # seconds between looks
MOST = 0.02  # of memory
WARM_UP = 2000  # steps: 2.5% more memory at their end than after 300 of them, and 0.7% in the next 18,000


class Look(NamedTuple):
    """What the process holds when it has done `steps`: bytes of memory, threads, open files."""

    steps: int
    memory: int
    threads: int
    files: int


def main(argv: list[str]) -> int:
    require(FLAGS.steps >= 1000, f"--steps ({FLAGS.steps}) must be 1000 or more: what is shorter is all warm-up.")
    looks = watched(round(FLAGS.steps * BATCH / IMAGES))
    warm = warmed_up(looks[-1].steps)
    early, late = (part(looks, of) for of in ((warm, warm + 0.1), (0.9, 1.0)))
    growth = {
        "memory_growth": (late.memory / early.memory - 1, "share"),
        "threads_growth": (late.threads - early.threads, "1"),
        "files_growth": (late.files - early.files, "1"),
    }
    print(
        f"{looks[-1].steps} steps: memory {early.memory / 2**20:.1f} to {late.memory / 2**20:.1f} MiB"
        f" ({growth['memory_growth'][0]:+.2%}), threads {early.threads} to {late.threads},"
        f" open files {early.files} to {late.files}; medians of {len(looks)} looks' tenths"
    )
    tenths = [part(looks, (at / 10, (at + 1) / 10)).memory / 2**20 for at in range(10)]
    print(f"MiB by tenths of the steps: {', '.join(f'{memory:.0f}' for memory in tenths)}")
    if FLAGS.output:
        found = [Result("memory", "long_run", name, unit, "lower", (value,)) for name, (value, unit) in growth.items()]
        found.append(Result("memory", "long_run", "memory", "bytes", "lower", (late.memory,)))
        results.write(FLAGS.output, found, results.environment())
    grows = growth["memory_growth"][0] > MOST or late.threads > early.threads or late.files > early.files
    return 4 if grows else 0


def warmed_up(steps: int) -> float:
    """The share of the steps that is warm-up: a tenth, or `WARM_UP` of them, but never more than half."""
    return min(0.5, max(0.1, WARM_UP / steps))


def part(looks: list[Look], of: tuple[float, float]) -> Look:
    """The medians of the looks in that share of the steps, or the look nearest to it where it has none: an epoch may be
    over before anyone looks."""
    first, last = (share * looks[-1].steps for share in of)
    nearest = min(looks, key=lambda look: max(first - look.steps, look.steps - last))
    chosen = [look for look in looks if first <= look.steps <= last] or [nearest]
    return Look(*(int(np.median(column)) for column in zip(*chosen, strict=True)))


def watched(epochs: int) -> list[Look]:
    """Trains in a process of its own, and looks at it until it ends."""
    looks = []
    with tempfile.TemporaryDirectory() as directory:
        run = os.path.join(directory, "run")
        options = {
            "model_dir": run,
            "epochs": epochs,
            "guard": "act",
            "histograms_every": 100,
            "averaging.name": "ema",
            "precision": "float32",
            "steps_per_execution": 20,
            "data.shapes.size": 16,
            "data.shapes.count": IMAGES,
            "data.image_size": 16,
            "data.batch_size": BATCH,
            "data.augment.flip": 0.5,
            "model.name": "cnn",
            "model.width": 4,
            "optimizer.name": "adam",
            "optimizer.learning_rate": 0.001,
        }
        line = [sys.executable, "-m", "tools.train", *(f"--{name}={value}" for name, value in options.items())]
        with tempfile.TemporaryFile("w+") as log, tqdm(total=epochs, unit="epoch", file=sys.stderr) as bar:
            process = subprocess.Popen(line, stdout=log, stderr=log)
            try:
                while process.poll() is None:
                    time.sleep(EVERY)
                    done = newest_step(pathlib.Path(run, "checkpoints"))
                    if done and (look := look_at(process.pid, done)):
                        looks.append(look)
                        bar.update(done * BATCH // IMAGES - bar.n)
            finally:
                process.kill()
                process.wait()
            log.seek(0)
            require(process.returncode == 0, f"the run ended with {process.returncode}: {log.read()[-500:]}")
    require(bool(looks), "the run was over before it could be looked at: give it more --steps.")
    return looks


def newest_step(checkpoints: pathlib.Path) -> int:
    """The step of the newest checkpoint, one of which is written every epoch; 0 where there is none."""
    return max((int(path.name.removeprefix("step-")) for path in checkpoints.glob("step-*")), default=0)


def look_at(pid: int, steps: int) -> Look | None:
    """None where the process has ended meanwhile."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        memory = int(fields["VmRSS"].split()[0]) << 10
        return Look(steps, memory, int(fields["Threads"]), len(os.listdir(f"/proc/{pid}/fd")))
    except (OSError, KeyError):
        return None


if __name__ == "__main__":
    command.run(main)
