"""How often training trouble is seen, explained and cured, and how stable training is.

    python -m benchmarks.stability --suite=quick --output=result.json
    python -m benchmarks.stability --suite=full --data.source=/data/photos --output=result.json
    python -m benchmarks.stability --rerun=10 --output=result.json     # are ten of its cases as they were?
    python -m benchmarks.stability --rescore --output=result.json      # its figures anew, of the cases as they are

Three networks on two data sets (`shapes`, and the photographs of --data.source), sound and with the faults of
`faults.FAULTS`. Every case is a line of OUTPUT.cases.jsonl as soon as it has ended: an interrupted suite goes on.
"""

from __future__ import annotations

import functools
import os
import random
import sys
import tempfile

from absl import flags
from tqdm import tqdm

from evenkeel.benchmarks import command, results, workers
from evenkeel.benchmarks.journal import Journal
from evenkeel.pipeline.errors import one_of, require
from evenkeel.pipeline.system.cpu import cores

FLAGS = flags.FLAGS
flags.DEFINE_string("suite", "quick", "quick (a few faults; no rivals' repairs, nor what watching costs) | full")
flags.DEFINE_string("data.source", "", "real 32-pixel images, CIFAR-10 for one: a TFDS name or directory, or a folder")
flags.DEFINE_string("output", "stability.json", "result file; the cases are kept beside it")
flags.DEFINE_integer("processes", 0, "cases run side by side; 0 is one per core")
flags.DEFINE_integer("rerun", 0, "repeat so many random cases of OUTPUT and compare")
flags.DEFINE_bool("rescore", False, "count the cases of OUTPUT anew, without running any")
flags.DEFINE_integer("rerun_seed", 0, "which cases --rerun draws")


def main(argv: list[str]) -> int:
    one_of("suite", FLAGS.suite, ("quick", "full"))
    require(FLAGS.rerun >= 0, f"--rerun ({FLAGS.rerun}) must not be negative.")
    photos, again = str(FLAGS["data.source"].value), bool(FLAGS.rerun or FLAGS.rescore)
    require(
        bool(photos) or FLAGS.suite == "quick" or FLAGS.rescore,
        "--data.source is missing: the full suite needs real images, for example tfds:cifar10.",
    )
    # Here, as it starts TensorFlow: errors in flags come at once.
    from evenkeel.benchmarks.stability import aggregate, suite
    from evenkeel.benchmarks.stability.cases import Cases

    where = results.read(FLAGS.output).environment if FLAGS.rescore else results.environment()
    # Of one version: cases of another are not gone on with, only repeated.
    settings = {"suite": FLAGS.suite, "data.source": os.path.basename(photos), "commit": where["git_commit"]}
    journal = Journal(f"{FLAGS.output}.cases.jsonl", None if again else settings)
    processes = FLAGS.processes or cores()
    with tempfile.TemporaryDirectory() as scratch:
        make = functools.partial(Cases, photos, scratch)
        if FLAGS.rerun:
            return rerun(journal, make, processes)
        for phase in () if FLAGS.rescore else suite.phases(FLAGS.suite, bool(photos)):
            groups = phase(journal.records)
            todo = [[case for case in group if case.name not in journal.records] for group in groups]
            todo = [group for group in todo if group]
            with tqdm(total=sum(map(len, todo)), desc=phase.__name__, unit="case", file=sys.stderr) as bar:
                for case, values in workers.run(todo, make, processes):
                    journal.add(case.name, values)
                    bar.update()
    found = aggregate.all_results(journal.records)
    results.write(FLAGS.output, found, where)
    print(results.table(found))
    return 0


def rerun(journal: Journal, make: functools.partial, processes: int) -> int:
    """Repeats random cases; 0 where each is as it was, 4 where one is not."""
    from evenkeel.benchmarks.stability import aggregate
    from evenkeel.benchmarks.stability.cases import Case

    names = random.Random(FLAGS.rerun_seed).sample(sorted(journal.records), min(FLAGS.rerun, len(journal.records)))
    different = 0
    for case, values in workers.run([[Case.named(name)] for name in names], make, processes):
        before = journal.records[case.name]
        same = aggregate.alike(case.kind, before, values)
        different += not same
        print(
            f"{'same     ' if same else 'different'} {case.name}:"
            f" {aggregate.gist(before)}; now {aggregate.gist(values)}"
        )
    print(f"{len(names) - different} of {len(names)} cases are as they were.")
    return 4 if different else 0


if __name__ == "__main__":
    command.run(main)
