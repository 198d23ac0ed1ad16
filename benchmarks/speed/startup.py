"""How long commands take to answer, and training to begin.

    python -m benchmarks.speed.startup --rounds=9 --output=result.json

`help`, `flag_error` and `presets` are whole commands. `first_step` is `tools.train --preset=quick` up to the end of its
first call of steps, with the checks of network and settings that come before (those of images go on beside later
ones); `first_step/unchecked` is without any (`--preflight=off`); `bare` is the same steps of the same model in a script
that does nothing else (`bare_step.py`), and `compile` what its first call takes longer than its second. `import` is all
that training imports, `import/tensorflow` TensorFlow and Keras alone. All take turns.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable

from absl import flags
from tqdm import tqdm

from evenkeel.benchmarks import command, results, timing
from evenkeel.benchmarks.results import Result
from evenkeel.benchmarks.timing import Sample
from evenkeel.models.presets import PRESETS
from evenkeel.pipeline.errors import require

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 5, "turns of each")
flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")

TRAIN = [sys.executable, "-m", "tools.train"]
COMMANDS = {"help": ("--help",), "flag_error": ("--epochs=none",), "presets": ("--list_presets",)}
IMPORTS = {"import": "import evenkeel.models.train", "import/tensorflow": "import tensorflow, tf_keras"}
# One epoch, as what comes behind the first call is not measured; of all images, as holding them comes before it.
FIRST = ("--preset=quick", "--epochs=1", "--optimizer.warmup_epochs=0.5", "--strategy.name=one")


def main(argv: list[str]) -> int:
    command.check_arguments(argv)
    command.check_output("output", FLAGS.output)
    require(FLAGS.rounds >= 1, f"--rounds ({FLAGS.rounds}) must be at least 1.")
    measures: dict[str, Callable[[], Sample]] = {
        **{name: functools.partial(whole, *TRAIN, *options) for name, options in COMMANDS.items()},
        **{name: functools.partial(whole, sys.executable, "-c", code) for name, code in IMPORTS.items()},
        "first_step": trained,
        "first_step/unchecked": functools.partial(trained, "--preflight=off"),
    }
    taken: dict[str, list[Sample]] = {name: [] for name in (*measures, "bare", "compile")}
    trained()  # does not count: it renders the images, and brings files into memory
    for round_ in tqdm(range(FLAGS.rounds), file=sys.stderr):
        for name in timing.turns([*measures, "bare"], round_ % 2):
            if name == "bare":
                first_call, compiling = bare()
                taken["bare"].append(first_call)
                taken["compile"].append(compiling)
            else:
                taken[name].append(measures[name]())
    found = []
    for name, of in taken.items():
        for kind in ("wall_seconds", "cpu_seconds"):
            found.append(Result("startup", name, kind, "s", "lower", tuple(getattr(each, kind) for each in of)))
    for name in ("first_step", "first_step/unchecked"):
        for kind in ("wall_seconds", "cpu_seconds"):
            pairs = zip(taken[name], taken["bare"], strict=True)
            ratios = tuple(getattr(own, kind) / getattr(bare, kind) for own, bare in pairs)
            found.append(Result("startup", name, kind.replace("seconds", "over_bare"), "1", "lower", ratios))
    print(results.table(found))
    if FLAGS.output:
        results.write(FLAGS.output, found, results.environment())
    return 0


def whole(*line: str) -> Sample:
    """A whole command, which answers: with what was asked for (0), or with what is wrong with that (2)."""

    def run() -> None:
        code = subprocess.run(line, cwd=results.ROOT, capture_output=True, check=False).returncode
        require(code in (0, command.USAGE_ERROR), f"{' '.join(line)} ended with {code}.")

    return timing.measure(run, timing.Clock())


def trained(*options: str) -> Sample:
    """A run up to the end of its first call, as its summary says."""
    with tempfile.TemporaryDirectory() as directory:
        line = [*TRAIN, *FIRST, *options, f"--model_dir={directory}/run"]
        done = subprocess.run(line, cwd=results.ROOT, capture_output=True, text=True, check=False)
        require(
            done.returncode == 0,
            f"{' '.join(line)} ended with {done.returncode}: {' '.join(done.stderr.split())[-300:]}",
        )
        with open(os.path.join(directory, "run", "summary.json")) as file:
            return Sample(**json.load(file)["first_call"])


def bare() -> tuple[Sample, Sample]:
    """(up to the end of the first call, what that took longer than the second)."""
    line = [sys.executable, "-m", "benchmarks.speed.bare_step", json.dumps(PRESETS["quick"])]
    done = subprocess.run(line, cwd=results.ROOT, capture_output=True, text=True, check=False)
    require(
        done.returncode == 0, f"{' '.join(line)} ended with {done.returncode}: {' '.join(done.stderr.split())[-300:]}"
    )
    made, first, second = json.loads(done.stdout.splitlines()[-1])
    compiling = {kind: (first[kind] - made[kind]) - (second[kind] - first[kind]) for kind in first}
    return Sample(**first), Sample(**compiling)


if __name__ == "__main__":
    command.run(main)
