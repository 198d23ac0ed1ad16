"""Checks whether one version of evenkeel is slower or trains less steadily than another: a gate for noisy machines.

    python -m benchmarks.compare --base=origin/main
    python -m benchmarks.compare --base=v1.2 --head=v1.3 --only=step --output=compare.json --markdown=comment.md

Each named version gets its own work tree and the packages of its lock file. Without `--head`, head is the working tree;
do not change it while the command runs. Both versions work in alternating turns, A B B A ..., in one job. Each
version runs its own task files, and only equal work is compared (see `regression/versions.py`).

Exits with 4 if head is worse: the whole 95% interval of the ratio of CPU times (pairs of turns) or of losses (pairs of
runs with the same seed) lies beyond `--least`. Also exits with 4 if head cannot run a case or does different work in
it, and if no case could be compared. A case that base cannot run is skipped.

The case `startup` measures `evenkeel train --preset=quick` up to the end of the first call of steps, in 5 turns of each
version. It runs only with `--only=startup`, because it takes two minutes.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping

from absl import flags, logging

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.peers.environments import UnavailableError
from evenkeel.benchmarks.peers.race import UnequalWorkError
from evenkeel.benchmarks.regression import power_analysis, versions
from evenkeel.benchmarks.regression.versions import CaseComparison
from evenkeel.benchmarks.regression.worktrees import Tree, check_out
from evenkeel.benchmarks.results import Skipped
from evenkeel.pipeline.errors import one_of, require

DEFAULT_CASES = tuple(versions.CASES)
CASES = (*DEFAULT_CASES, versions.STARTUP)
STARTUP_ROUNDS = 5  # one start takes 10 s of CPU time
FLAGS = flags.FLAGS
flags.DEFINE_string("base", "", "the version to compare with: a branch, a tag, a hash")
flags.DEFINE_string("head", "", "the version to judge; default: the working tree")
flags.DEFINE_list("only", list(DEFAULT_CASES), f"cases to run, of: {', '.join(CASES)}")
flags.DEFINE_integer("rounds", power_analysis.ROUNDS, "turns of each version that count, of about two seconds each")
flags.DEFINE_integer("seeds", power_analysis.SEEDS, "training runs of each version")
flags.DEFINE_float(
    "least", power_analysis.MIN_EFFECT, "the least change of CPU time or final loss that matters, as a share"
)
flags.DEFINE_string("data.source", "shapes", "images of input: shapes (rendered) | tfds:NAME | a directory | a folder")
flags.DEFINE_string("output", "", "result file to write")
flags.DEFINE_string("markdown", "", "file for a comment on a pull request")


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)
    require(bool(FLAGS.base), "--base is missing: give the version to compare with, such as origin/main.")
    require(bool(FLAGS.only), f"--only is empty: give some of {', '.join(CASES)}.")
    for name in FLAGS.only:
        one_of("only", name, CASES)
    require(FLAGS.rounds >= 5, f"--rounds ({FLAGS.rounds}) must be at least 5: fewer give no usable interval.")
    require(FLAGS.seeds >= 2, f"--seeds ({FLAGS.seeds}) must be at least 2: one run has no spread.")
    require(0 < FLAGS.least < 1, f"--least ({FLAGS.least}) must be a share between 0 and 1.")
    command.require_writable("output", FLAGS.output)
    command.require_writable("markdown", FLAGS.markdown)
    comparisons: list[CaseComparison] = []
    skipped: list[Skipped] = []
    environment = results.environment()
    with contextlib.ExitStack() as stack:
        trees = {name: stack.enter_context(check_out(str(FLAGS[name].value))) for name in ("base", "head")}
        commits = {name: tree.commit for name, tree in trees.items()}
        for outcome in compare_cases(trees):
            if isinstance(outcome, Skipped):
                skipped.append(outcome)
            else:
                comparisons.append(outcome)
            finished = len(comparisons) + len(skipped)
            missing = [*skipped, *(Skipped(name, "not compared yet") for name in FLAGS.only[finished:])]
            text = versions.markdown_table(commits, environment, FLAGS.least, comparisons, missing)
            if FLAGS.output:
                measured = [result for comparison in comparisons for result in comparison.results]
                verdicts = {
                    "versions_compared": commits,
                    "least": FLAGS.least,
                    "verdicts": versions.verdict_entries(comparisons),
                }
                results.write(FLAGS.output, measured, {**environment, **verdicts}, missing)
            if FLAGS.markdown:
                command.write_output("markdown", FLAGS.markdown, text)
    print(text)
    head_failures = [entry for entry in skipped if not entry.reason.startswith("base: ")]
    return 4 if head_failures or not comparisons or versions.any_failure(comparisons) else 0


def compare_cases(trees: Mapping[str, Tree]) -> Iterator[CaseComparison | Skipped]:
    """Yields the comparison of each case of --only, or `Skipped` if one of the versions cannot run the case."""
    from evenkeel.benchmarks.peers import sources  # imports TensorFlow

    for name in FLAGS.only:
        folder, rounds = "", FLAGS.rounds
        if name == versions.STARTUP:
            rounds = STARTUP_ROUNDS
        elif reads := versions.CASES[name].reads:
            source = "shapes" if reads == "small32" else str(FLAGS["data.source"].value)
            folder = str(sources.write_task_data(reads, source, lambda text: print(text, file=sys.stderr)))
        elif name in versions.STABILITY_CASES:
            rounds = FLAGS.seeds
        try:
            yield versions.compare_case(name, trees, rounds, FLAGS.least, folder)
        except (UnavailableError, UnequalWorkError) as error:
            yield Skipped(name, str(error))


if __name__ == "__main__":
    command.run(main)
