"""Runs all benchmark suites on this version and collects their results in one file.

    python -m benchmarks.run --suite=quick --output=result.json
    python -m benchmarks.run --suite=full --data.source=/data/photos --data.small_source=tfds:cifar10
    python -m benchmarks.run --only=pipeline,step --output=result.json

Each suite is a command that runs in its own process (`SUITES`). Its results are merged into OUTPUT and also kept in
OUTPUT.SUITE.json, which replaces the file of an earlier run. If a suite fails, OUTPUT lists it as skipped, with the
last line of its output, and the exit code is 4.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from absl import flags

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.results import ResultFile, Skipped
from evenkeel.pipeline.errors import one_of, require

STOP_TIMEOUT_SECONDS = 30.0  # after SIGTERM, before SIGKILL
SOURCE_FLAGS = ("--data.source={source}", "--data.small_source={small}")
# {suite: {size: (module, flags)}}; {source} and {small} stand for the values of --data.source and --data.small_source.
SUITES: dict[str, dict[str, Sequence[str]]] = {
    "pipeline": {
        "quick": ("peers", "--loaders=evenkeel", "--only=jpeg224,small32", *SOURCE_FLAGS),
        "full": ("peers", "--only=jpeg224,bounded224,prepared224,raw224,small32", *SOURCE_FLAGS),
    },
    "stages": {
        "quick": ("speed.stages", "--rounds=1", "--only=jpeg224", SOURCE_FLAGS[0]),
        "full": ("speed.stages", SOURCE_FLAGS[0]),
    },
    "step": {
        "quick": ("peers", "--loaders=evenkeel", "--only=step32"),
        "full": ("peers", "--only=step32", "--rounds=9"),
    },
    "gpu": {
        size: ("speed.gpu", f"--rounds={rounds}", SOURCE_FLAGS[0]) for size, rounds in (("quick", 3), ("full", 15))
    },
    "train": {
        "quick": ("speed.end_to_end", "--pairs=3", "--only=small32", *SOURCE_FLAGS),
        "full": ("speed.end_to_end", "--pairs=15", *SOURCE_FLAGS),
    },
    # The quick suite writes histograms every 20 steps instead of 100. They cost more, but need a fifth of the time to
    # measure.
    "observe": {
        "quick": ("speed.observe", "--pairs=2", "--keras_pairs=0", "--steps=20"),
        "full": ("speed.observe", "--pairs=15"),
    },
    "stability": {
        "quick": ("stability", "--suite=quick"),
        "full": ("stability", "--suite=full", "--data.source={small}"),
    },
    "startup": {"quick": ("speed.startup", "--rounds=1"), "full": ("speed.startup", "--rounds=9")},
    "memory": {"quick": ("endurance.long_run", "--steps=3000"), "full": ("endurance.long_run", "--steps=20000")},
}

FLAGS = flags.FLAGS
flags.DEFINE_string("suite", "quick", "quick (about ten minutes on two cores) | full (hours)")
flags.DEFINE_list("only", list(SUITES), f"suites to run, of: {', '.join(SUITES)}")
flags.DEFINE_string(
    "data.source", "shapes", "images of 224 pixels: shapes (rendered) | tfds:NAME | a directory | a folder"
)
flags.DEFINE_string("data.small_source", "shapes", "images of 32 pixels; full needs real ones, such as tfds:cifar10")
flags.DEFINE_string("output", "result.json", "result file")


def main(argv: list[str]) -> int:
    command.require_writable("output", FLAGS.output)
    one_of("suite", FLAGS.suite, ("quick", "full"))
    require(bool(FLAGS.only), f"--only is empty: give some of {', '.join(SUITES)}.")
    for name in FLAGS.only:
        one_of("only", name, tuple(SUITES))
    source, small = (resolve_path(str(FLAGS[name].value)) for name in ("data.source", "data.small_source"))
    has_images = FLAGS.suite == "quick" or "stability" not in FLAGS.only or small != "shapes"
    require(
        has_images, "--data.small_source is missing: the full stability suite needs real images, such as tfds:cifar10."
    )
    measured, skipped, failed = [], [], False
    environment = results.environment()
    for name in FLAGS.only:
        report, code = run_suite(name, SUITES[name][FLAGS.suite], source, small)
        measured += report.results
        skipped += report.skipped
        failed |= code != 0
        environment.setdefault("suites", {})[name] = {
            key: value for key, value in report.environment.items() if environment.get(key) != value
        }
        results.write(FLAGS.output, measured, environment, skipped)
    print(results.table(measured))
    for entry in skipped:
        print(f"skipped: {entry.case}: {entry.reason}")
    return 4 if failed else 0


def resolve_path(source: str) -> str:
    """Makes an existing path absolute, because suites run at the root of the checkout; other sources stay unchanged."""
    return os.path.abspath(source) if os.path.exists(source) else source


def run_suite(name: str, arguments: Sequence[str], source: str, small: str) -> tuple[ResultFile, int]:
    """Runs a suite and returns (its result file, its exit code); adds its duration, `seconds`, to the environment."""
    module, *options = (argument.format(source=source, small=small) for argument in arguments)
    print(f"{name}: python -m benchmarks.{module} {' '.join(options)}", file=sys.stderr, flush=True)
    start = time.perf_counter()
    path = os.path.abspath(f"{FLAGS.output}.{name}.json")
    for old in (path, f"{path}.cases.jsonl"):  # the second is the journal of `stability`
        if os.path.exists(old):
            os.remove(old)
    command_line = [sys.executable, "-m", f"benchmarks.{module}", *options, f"--output={path}"]
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        # The suite leads a process group of its own, so that everything it has started can be killed with it.
        suite = subprocess.Popen(
            command_line, cwd=results.ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        code = wait_or_stop(suite)
        log.seek(0)
        last = ([text.strip() for text in log.read().splitlines() if text.strip()] or ["no output"])[-1]
    report = results.read(path) if os.path.exists(path) else ResultFile({}, [], [])
    if code:
        report.skipped.append(Skipped(name, f"ended with exit code {code}: {last[:300]}"))
    seconds = round(time.perf_counter() - start, 1)
    print(f"{name}: {len(report.results)} results in {seconds:.0f} s", file=sys.stderr, flush=True)
    return ResultFile({**report.environment, "seconds": seconds}, report.results, report.skipped), code


def wait_or_stop(suite: subprocess.Popen) -> int:
    """Waits for a suite and returns its exit code. If this process is interrupted, ends the suite first.

    A suite that is interrupted while it starts a process does not know that process yet and leaves it behind, so the
    rest of the process group is killed at the end.
    """
    try:
        return suite.wait()
    except BaseException:
        suite.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            suite.wait(STOP_TIMEOUT_SECONDS)
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(suite.pid, signal.SIGKILL)


if __name__ == "__main__":
    command.run(main)
