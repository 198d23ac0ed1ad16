"""Measures how often faults of training runs are detected, explained and fixed, and how stable clean runs are.

    python -m benchmarks.stability --suite=quick --output=result.json
    python -m benchmarks.stability --suite=full --data.source=/data/photos --output=result.json
    python -m benchmarks.stability --rerun=10 --output=result.json     # repeats ten finished cases and compares them
    python -m benchmarks.stability --rescore --output=result.json      # recomputes the results from finished cases

Three networks train on two data sets (`shapes`, and the photographs in --data.source), without a fault and with each
fault in `faults.FAULTS`; so do published recipes, see `recipes`. Each finished case is written as a line to
OUTPUT.cases.jsonl. An interrupted suite continues after the last line, and --hours divides it into pieces.
"""

from __future__ import annotations

import functools
import os
import random
import sys
import tempfile
import time

from absl import flags
from tqdm import tqdm

from evenkeel.benchmarks import command, results, workers
from evenkeel.benchmarks.journal import Journal
from evenkeel.pipeline.errors import one_of, require
from evenkeel.pipeline.system.cpu import cores

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "suite",
    "quick",
    "quick (two faults; without baseline repairs and the guard's overhead) | published (published recipes only) | full",
)
flags.DEFINE_string(
    "data.source", "", "real images of 32 pixels, such as CIFAR-10: a TFDS name or directory, or a folder"
)
flags.DEFINE_string("output", "stability.json", "result file; the cases are written to OUTPUT.cases.jsonl")
flags.DEFINE_integer("processes", 0, "number of cases that run at the same time; 0 means one per core")
flags.DEFINE_float("hours", 0.0, "stop after so many hours; the same command goes on. 0 means until the end")
flags.DEFINE_integer("rerun", 0, "number of random cases of OUTPUT to repeat and compare")
flags.DEFINE_bool("rescore", False, "compute the results of OUTPUT again from its cases, without running any")
flags.DEFINE_integer("rerun_seed", 0, "seed of the random choice of cases for --rerun")


def main(argv: list[str]) -> int:
    one_of("suite", FLAGS.suite, ("quick", "published", "full"))
    require(FLAGS.hours >= 0, f"--hours ({FLAGS.hours}) must not be negative.")
    require(FLAGS.rerun >= 0, f"--rerun ({FLAGS.rerun}) must not be negative.")
    photos, uses_existing_cases = str(FLAGS["data.source"].value), bool(FLAGS.rerun or FLAGS.rescore)
    require(
        bool(photos) or FLAGS.suite == "quick" or FLAGS.rescore,
        f"--data.source is missing: --suite={FLAGS.suite} needs real images, for example tfds:cifar10.",
    )
    # These imports start TensorFlow, so they come after the checks of the flags.
    from evenkeel.benchmarks.stability import aggregate
    from evenkeel.benchmarks.stability.cases import CaseRunner
    from evenkeel.benchmarks.stability.suite import Suite

    environment = results.read(FLAGS.output).environment if FLAGS.rescore else results.environment()
    # The settings include the commit, so that another version cannot continue a suite. --rerun may use another version.
    settings = {"suite": FLAGS.suite, "data.source": os.path.basename(photos), "commit": environment["git_commit"]}
    journal = Journal(f"{FLAGS.output}.cases.jsonl", None if uses_existing_cases else settings)
    processes, start = FLAGS.processes or cores(), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        make_runner = functools.partial(CaseRunner, photos, scratch)
        if FLAGS.rerun:
            return rerun_cases(journal, make_runner, processes)
        for phase in () if FLAGS.rescore else Suite(FLAGS.suite, bool(photos)).phases():
            groups = phase(journal.records)
            todo = [[case for case in group if case.name not in journal.records] for group in groups]
            todo = [group for group in todo if group]
            with tqdm(total=sum(map(len, todo)), desc=phase.__name__, unit="case", file=sys.stderr) as bar:
                for case, values in workers.run_groups(todo, make_runner, processes):
                    journal.add(case.name, values)
                    bar.update()
                    if FLAGS.hours and time.monotonic() - start > 3600 * FLAGS.hours:
                        print(f"stopped after {FLAGS.hours:g} hours; the same command goes on.")
                        return 0
    suite_results = aggregate.aggregate_results(journal.records)
    results.write(FLAGS.output, suite_results, environment)
    print(results.table(suite_results))
    return 0


def rerun_cases(journal: Journal, make_runner: functools.partial, processes: int) -> int:
    """Repeats random cases from the journal. Returns 0 if all are reproduced, otherwise 4."""
    from evenkeel.benchmarks.stability import aggregate
    from evenkeel.benchmarks.stability.cases import Case

    names = random.Random(FLAGS.rerun_seed).sample(sorted(journal.records), min(FLAGS.rerun, len(journal.records)))
    different = 0
    for case, values in workers.run_groups([[Case.from_name(name)] for name in names], make_runner, processes):
        before = journal.records[case.name]
        same = aggregate.is_reproduced(case.kind, before, values)
        different += not same
        print(
            f"{'same     ' if same else 'different'} {case.name}:"
            f" before {aggregate.describe_outcome(before)}; now {aggregate.describe_outcome(values)}"
        )
    print(f"{len(names) - different} of {len(names)} cases are reproduced.")
    return 4 if different else 0


if __name__ == "__main__":
    command.run(main)
