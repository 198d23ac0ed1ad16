"""Whether one version is slower than another, or trains less steadily: a gate for noisy machines.

    python -m benchmarks.compare --base=origin/main
    python -m benchmarks.compare --base=v1.2 --head=v1.3 --only=step --output=compare.json --markdown=comment.md

Versions that are named get a work tree and the packages of their own lock file; without `--head` it is the working
tree as it stands, which is to be left alone meanwhile. Both work in turns, A B B A ..., in one job. Exits with 4 where
the 95% interval of what pairs of turns, or of runs with one seed, say of CPU time or losses lies wholly beyond
`--least`; where head cannot do a case, or does other work in it; and where nothing could be compared. What base cannot
do is skipped.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from absl import flags, logging

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.regression import power_analysis
from evenkeel.benchmarks.regression.worktrees import Tree, checked_out
from evenkeel.benchmarks.results import Skipped
from evenkeel.pipeline.errors import one_of, require

if TYPE_CHECKING:
    from evenkeel.benchmarks.regression.versions import Compared

CASES = ("input", "small_input", "step", "training")  # those of `versions`, which help does not wait for
FLAGS = flags.FLAGS
flags.DEFINE_string("base", "", "the version to compare with: a branch, a tag, a hash")
flags.DEFINE_string("head", "", "the version in question; the working tree as it is unless given")
flags.DEFINE_list("only", list(CASES), f"cases to run, of: {', '.join(CASES)}")
flags.DEFINE_integer("rounds", power_analysis.ROUNDS, "turns of each version that count, of about two seconds")
flags.DEFINE_integer("seeds", power_analysis.SEEDS, "training runs of each version")
flags.DEFINE_float("least", power_analysis.LEAST, "the least change that matters, of CPU time and of the last loss")
flags.DEFINE_string("data.source", "shapes", "images of input: shapes (rendered) | tfds:NAME | a directory | a folder")
flags.DEFINE_string("output", "", "result file to write")
flags.DEFINE_string("markdown", "", "comment on a pull request to write")


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)
    command.check_arguments(argv)
    require(bool(FLAGS.base), "--base is missing: give the version to compare with, such as origin/main.")
    require(bool(FLAGS.only), f"--only names no case: give some of {', '.join(CASES)}.")
    for name in FLAGS.only:
        one_of("only", name, CASES)
    require(FLAGS.rounds >= 5, f"--rounds ({FLAGS.rounds}) must be at least 5: fewer give no interval.")
    require(FLAGS.seeds >= 2, f"--seeds ({FLAGS.seeds}) must be at least 2: one has no spread.")
    require(0 < FLAGS.least < 1, f"--least ({FLAGS.least}) is a share: it must lie in (0, 1).")
    command.check_output("output", FLAGS.output)
    command.check_output("markdown", FLAGS.markdown)
    from evenkeel.benchmarks.regression.versions import failed, markdown, words

    compared: list[Compared] = []
    skipped: list[Skipped] = []
    where = results.environment()
    with contextlib.ExitStack() as stack:
        trees = {name: stack.enter_context(checked_out(str(FLAGS[name].value))) for name in ("base", "head")}
        commits = {name: tree.commit for name, tree in trees.items()}
        for outcome in outcomes(trees):
            if isinstance(outcome, Skipped):
                skipped.append(outcome)
            else:
                compared.append(outcome)
            known = len(compared) + len(skipped)
            absent = [*skipped, *(Skipped(name, "not compared yet") for name in FLAGS.only[known:])]
            text = markdown(commits, where, FLAGS.least, compared, absent)
            told = {"versions_compared": commits, "least": FLAGS.least, "verdicts": words(compared)}
            if FLAGS.output:
                found = [result for one in compared for result in one.results]
                results.write(FLAGS.output, found, {**where, **told}, absent)
            if FLAGS.markdown:
                command.write("markdown", FLAGS.markdown, text)
    print(text)
    unable = [entry for entry in skipped if not entry.reason.startswith("base: ")]
    return 4 if unable or not compared or failed(compared) else 0


def outcomes(trees: Mapping[str, Tree]) -> Iterator[Compared | Skipped]:
    """What each case comes to, as soon as it is known; skipped is what one of the versions cannot do."""
    from evenkeel.benchmarks.peers import sources
    from evenkeel.benchmarks.peers.environments import Unavailable
    from evenkeel.benchmarks.peers.race import Refused
    from evenkeel.benchmarks.regression import versions

    for name in FLAGS.only:
        reads = versions.CASES[name].reads
        source = "shapes" if reads == "small32" else str(FLAGS["data.source"].value)
        folder = str(sources.written(reads, source, lambda text: print(text, file=sys.stderr))) if reads else ""
        rounds = FLAGS.seeds if name in versions.STEADINESS else FLAGS.rounds
        try:
            yield versions.compare(name, trees, rounds, FLAGS.least, folder)
        except (Unavailable, Refused) as error:
            yield Skipped(name, str(error))


if __name__ == "__main__":
    command.run(main)
