"""All that the benchmarks measure of this version, suite by suite, in one result file.

    python -m benchmarks.run --suite=quick --output=result.json
    python -m benchmarks.run --suite=full --data.source=/data/photos --data.small_source=tfds:cifar10
    python -m benchmarks.run --only=pipeline,step --output=result.json

Each suite is a command of its own, in a process of its own (`SUITES`); what it wrote is put together here, and kept
beside OUTPUT as OUTPUT.SUITE.json. Every run begins anew: what an earlier one left there is removed. A suite that fails
is in the file as skipped, with the last line it said, and the exit code is 4.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from absl import flags

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.results import Report, Skipped
from evenkeel.pipeline.errors import one_of, require

PATIENCE = 30.0  # seconds that a suite has to end when it is told to
SOURCES = ("--data.source={source}", "--data.small_source={small}")
# {suite: {size: the command's arguments}}; {source} and {small} stand for what was given.
SUITES: dict[str, dict[str, Sequence[str]]] = {
    "pipeline": {
        "quick": ("peers", "--loaders=evenkeel", "--only=jpeg224,small32", *SOURCES),
        "full": ("peers", "--only=jpeg224,bounded224,prepared224,raw224,small32", *SOURCES),
    },
    "stages": {
        "quick": ("stages", "--rounds=1", "--only=jpeg224", SOURCES[0]),
        "full": ("stages", SOURCES[0]),
    },
    "step": {
        "quick": ("peers", "--loaders=evenkeel", "--only=step32"),
        "full": ("peers", "--only=step32", "--rounds=9"),
    },
    "gpu": {size: ("gpu", f"--rounds={rounds}", SOURCES[0]) for size, rounds in (("quick", 3), ("full", 15))},
    "train": {
        "quick": ("end_to_end", "--pairs=3", "--only=small32", *SOURCES),
        "full": ("end_to_end", "--pairs=15", *SOURCES),
    },
    # Histograms every 20 steps: what they cost is seen in a fifth of the time, and is more.
    "observe": {"quick": ("observe", "--pairs=2", "--keras_pairs=0", "--steps=20"), "full": ("observe", "--pairs=15")},
    "stability": {
        "quick": ("stability", "--suite=quick"),
        "full": ("stability", "--suite=full", "--data.source={small}"),
    },
    "startup": {"quick": ("startup", "--rounds=1"), "full": ("startup", "--rounds=9")},
    "memory": {"quick": ("long_run", "--steps=3000"), "full": ("long_run", "--steps=20000")},
}

FLAGS = flags.FLAGS
flags.DEFINE_string("suite", "quick", "quick (some ten minutes on two cores) | full (hours)")
flags.DEFINE_list("only", list(SUITES), f"suites to run, of: {', '.join(SUITES)}")
flags.DEFINE_string(
    "data.source", "shapes", "images of 224 pixels: shapes (rendered) | tfds:NAME | a directory | a folder"
)
flags.DEFINE_string("data.small_source", "shapes", "images of 32 pixels; full needs real ones, such as tfds:cifar10")
flags.DEFINE_string("output", "result.json", "result file")


def main(argv: list[str]) -> int:
    command.check_arguments(argv)
    command.check_output("output", FLAGS.output)
    one_of("suite", FLAGS.suite, ("quick", "full"))
    require(bool(FLAGS.only), f"--only names no suite: give some of {', '.join(SUITES)}.")
    for name in FLAGS.only:
        one_of("only", name, tuple(SUITES))
    source, small = (as_given(str(FLAGS[name].value)) for name in ("data.source", "data.small_source"))
    real = FLAGS.suite == "quick" or "stability" not in FLAGS.only or small != "shapes"
    require(real, "--data.small_source is missing: the full stability suite needs real images, such as tfds:cifar10.")
    found, skipped, failed = [], [], False
    environment = results.environment()
    for name in FLAGS.only:
        report, code = run(name, SUITES[name][FLAGS.suite], source, small)
        found += report.results
        skipped += report.skipped
        failed |= code != 0
        environment.setdefault("suites", {})[name] = {
            key: value for key, value in report.environment.items() if environment.get(key) != value
        }
        results.write(FLAGS.output, found, environment, skipped)
    print(results.table(found))
    for entry in skipped:
        print(f"skipped: {entry.case}: {entry.reason}")
    return 4 if failed else 0


def as_given(source: str) -> str:
    """Suites run at the root of the checkout: a path is made one that holds there."""
    return os.path.abspath(source) if os.path.exists(source) else source


def run(name: str, arguments: Sequence[str], source: str, small: str) -> tuple[Report, int]:
    """What the suite wrote, with the seconds it took in its environment, and its exit code."""
    module, *options = (argument.format(source=source, small=small) for argument in arguments)
    print(f"{name}: python -m benchmarks.{module} {' '.join(options)}", file=sys.stderr, flush=True)
    begun = time.perf_counter()
    path = os.path.abspath(f"{FLAGS.output}.{name}.json")
    for left in (path, f"{path}.cases.jsonl"):  # the second is the journal of `stability`
        if os.path.exists(left):
            os.remove(left)
    line = [sys.executable, "-m", f"benchmarks.{module}", *options, f"--output={path}"]
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        code = ended(subprocess.Popen(line, cwd=results.ROOT, stdout=said, stderr=subprocess.STDOUT))
        said.seek(0)
        last = ([text.strip() for text in said.read().splitlines() if text.strip()] or ["it said nothing"])[-1]
    report = results.read(path) if os.path.exists(path) else Report({}, [], [])
    if code:
        report.skipped.append(Skipped(name, f"ended with exit code {code}: {last[:300]}"))
    seconds = round(time.perf_counter() - begun, 1)
    print(f"{name}: {len(report.results)} results in {seconds:.0f} s", file=sys.stderr, flush=True)
    return Report({**report.environment, "seconds": seconds}, report.results, report.skipped), code


def ended(suite: subprocess.Popen) -> int:
    """The exit code of a suite; where this process has to stop, the suite ends what it has begun, too."""
    try:
        return suite.wait()
    except BaseException:
        suite.terminate()
        try:
            suite.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            suite.kill()
        raise


if __name__ == "__main__":
    command.run(main)
