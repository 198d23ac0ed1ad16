"""Measures the time until commands answer and until the first training steps have run.

    python -m benchmarks.speed.startup --rounds=9 --output=result.json

The cases alternate:

    help, flag_error, presets   whole commands
    import                      all imports of training
    import/tensorflow           the imports of TensorFlow and Keras alone
    first_step                  `evenkeel train --preset=quick` up to the end of the first call of steps, with the
                                checks of network and settings (the checks of images continue during later steps)
    first_step/unchecked        as `first_step`, but without checks (`--preflight=off`)
    bare                        the same steps of the same model in a script that does nothing else (`bare_step.py`)
    compile                     the duration of the first call of `bare` minus the duration of the second call
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable

from absl import flags
from tqdm import tqdm

from evenkeel.benchmarks import command, results, timing
from evenkeel.benchmarks.regression.first_call import measure_first_call
from evenkeel.benchmarks.results import Result
from evenkeel.benchmarks.timing import Sample
from evenkeel.models.presets import PRESETS
from evenkeel.pipeline.errors import require

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 5, "samples of each case")
flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")

TRAIN_COMMAND = [sys.executable, "-m", "tools.train"]
COMMANDS = {"help": ("--help",), "flag_error": ("--epochs=none",), "presets": ("--list_presets",)}
IMPORTS = {"import": "import evenkeel.models.train", "import/tensorflow": "import tensorflow, tf_keras"}


def main(argv: list[str]) -> int:
    command.require_writable("output", FLAGS.output)
    require(FLAGS.rounds >= 1, f"--rounds ({FLAGS.rounds}) must be at least 1.")
    cases: dict[str, Callable[[], Sample]] = {
        **{name: functools.partial(measure_command, *TRAIN_COMMAND, *options) for name, options in COMMANDS.items()},
        **{name: functools.partial(measure_command, sys.executable, "-c", code) for name, code in IMPORTS.items()},
        "first_step": measure_train,
        "first_step/unchecked": functools.partial(measure_train, "--preflight=off"),
    }
    samples: dict[str, list[Sample]] = {name: [] for name in (*cases, "bare", "compile")}
    measure_train()  # this run does not count: it renders the images and brings files into memory
    for round_ in tqdm(range(FLAGS.rounds), file=sys.stderr):
        for name in timing.turn_order([*cases, "bare"], round_ % 2):
            if name == "bare":
                first_call, compilation = measure_bare_script()
                samples["bare"].append(first_call)
                samples["compile"].append(compilation)
            else:
                samples[name].append(cases[name]())
    startup_results = []
    for name, case_samples in samples.items():
        for kind in ("wall_seconds", "cpu_seconds"):
            seconds = tuple(getattr(sample, kind) for sample in case_samples)
            startup_results.append(Result("startup", name, kind, "s", "lower", seconds))
    for name in ("first_step", "first_step/unchecked"):
        for kind in ("wall_seconds", "cpu_seconds"):
            pairs = zip(samples[name], samples["bare"], strict=True)
            ratios = tuple(getattr(train, kind) / getattr(bare, kind) for train, bare in pairs)
            startup_results.append(Result("startup", name, kind.replace("seconds", "over_bare"), "1", "lower", ratios))
    print(results.table(startup_results))
    if FLAGS.output:
        results.write(FLAGS.output, startup_results, results.environment())
    return 0


def measure_command(*arguments: str) -> Sample:
    """Measures the time of a whole command. The exit code must be 0 or `USAGE_ERROR`."""

    def run() -> None:
        code = subprocess.run(arguments, cwd=results.ROOT, capture_output=True, check=False).returncode
        require(code in (0, command.USAGE_ERROR), f"{' '.join(arguments)} ended with exit code {code}.")

    return timing.measure(run, timing.Clock())


def measure_train(*flags: str) -> Sample:
    """Measures the time from the start of training to the end of the first call of steps."""
    return measure_first_call(sys.executable, results.ROOT, *flags)


def measure_bare_script() -> tuple[Sample, Sample]:
    """Returns (time until the first call of the bare script ends, duration of this call minus that of the second)."""
    line = [sys.executable, "-m", "benchmarks.speed.bare_step", json.dumps(PRESETS["quick"])]
    process = subprocess.run(line, cwd=results.ROOT, capture_output=True, text=True, check=False)
    require(
        process.returncode == 0,
        f"{' '.join(line)} ended with exit code {process.returncode}: {' '.join(process.stderr.split())[-300:]}",
    )
    built, first, second = json.loads(process.stdout.splitlines()[-1])
    compilation = {kind: (first[kind] - built[kind]) - (second[kind] - first[kind]) for kind in first}
    return Sample(**first), Sample(**compilation)


if __name__ == "__main__":
    command.run(main)
