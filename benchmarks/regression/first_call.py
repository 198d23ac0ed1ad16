"""Measures the time from the start of `evenkeel train` to the end of its first compiled call of steps.

sample = measure_first_call(sys.executable, ROOT)
sample.wall_seconds, sample.cpu_seconds
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from evenkeel.benchmarks.timing import Sample
from evenkeel.pipeline.errors import require

# One epoch is enough, because nothing after the first call is measured. All images are used, because they are cached
# before the first call.
FLAGS = ("--preset=quick", "--epochs=1", "--optimizer.warmup_epochs=0.5", "--strategy.name=one")


def measure_first_call(python: str, root: Path, *flags: str, environ: Mapping[str, str] | None = None) -> Sample:
    """Trains with the version in `root` and returns the time that its summary.json gives for the first call.

    Raises:
      UsageError: the training command failed.
    """
    with tempfile.TemporaryDirectory() as directory:
        command = [python, "-m", "tools.train", *FLAGS, *flags, f"--model_dir={directory}/run"]
        process = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, check=False)
        require(
            process.returncode == 0,
            f"{' '.join(command)} ended with exit code {process.returncode}: {' '.join(process.stderr.split())[-300:]}",
        )
        with open(os.path.join(directory, "run", "summary.json")) as file:
            return Sample(**json.load(file)["first_call"])
