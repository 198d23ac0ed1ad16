"""What watching a training run costs: telemetry of every step, histograms of all weights and gradients, a guard.

    python -m benchmarks.speed.observe --pairs=30 --output=result.json

The same resnet9 trains batches of 128: as a plain Keras model (`plain`), as a StableModel with a row a step and
histograms every 100 steps, all written to TensorBoard (`observed`), that under a guard that may act, layers looked at
every 20 steps (`guarded`, against `observed`), and with Keras's own TensorBoard callback at the same cadence
(`keras_tensorboard`, fewer pairs: it shows weights only). Images lie in memory, so that nothing but the
training step and its observation is measured. A sample of a pair is 100 steps, taken in turns of 20 with the other's:
what disturbs the machine for some seconds then falls on both.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping

from absl import flags

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.speed.observe_cases import BATCH, PER_CALL, trainings
from evenkeel.benchmarks.timing import Sample, paired_ratio, quiet_pairs
from evenkeel.pipeline.errors import require

FLAGS = flags.FLAGS

flags.DEFINE_integer("pairs", 30, "samples of `plain` and `observed`, and of `observed` and `guarded`")
flags.DEFINE_integer("keras_pairs", 5, "samples of `plain` and `keras_tensorboard`; 0: none")
flags.DEFINE_integer("steps", 100, "training steps a sample, and between histograms")
flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")


def main(argv: list[str]) -> int:
    leasts = (("pairs", FLAGS.pairs, 1), ("keras_pairs", FLAGS.keras_pairs, 0), ("steps", FLAGS.steps, 1))
    for name, value, least in leasts:
        require(value >= least, f"--{name} ({value}) must be at least {least}.")
    require(FLAGS.steps % PER_CALL == 0, f"--steps ({FLAGS.steps}) must divide by {PER_CALL}, the steps of a turn.")
    turns = FLAGS.steps // PER_CALL
    with tempfile.TemporaryDirectory() as directory:
        cases = trainings(FLAGS.steps, directory)
        compared = [
            ("observed", "plain", FLAGS.pairs),
            ("guarded", "observed", FLAGS.pairs),
            ("keras_tensorboard", "plain", FLAGS.keras_pairs),
        ]
        taken = {
            name: quiet_pairs({base: cases[base], name: cases[name]}, pairs, turns, done=told)
            for name, base, pairs in compared
            if pairs
        }
    found = []
    for name, base, _ in compared:
        if name not in taken:
            continue
        samples = taken[name]
        cpu = {case: [sample.cpu_seconds for sample in of] for case, of in samples.items()}
        ratio = paired_ratio(cpu[name], cpu[base])
        low, high = ratio.ci95
        others = max(sample.others_cores for of in samples.values() for sample in of)
        print(
            f"{name} / {base}: CPU time {ratio.median - 1:+.2%} (95% interval {low - 1:+.2%} to {high - 1:+.2%});"
            f" {len(cpu[name])} pairs, others took at most {others:.2f} cores"
        )
        overhead = tuple(a / b - 1 for a, b in zip(cpu[name], cpu[base], strict=True))
        found.append(results.Result("observe", name, "added_cpu_fraction", "1", "lower", overhead))
        per_image = tuple(seconds / FLAGS.steps / BATCH * 1e3 for seconds in cpu[name])
        found.append(results.Result("observe", name, "cpu_ms_per_image", "ms", "lower", per_image))
    per_image = tuple(sample.cpu_seconds / FLAGS.steps / BATCH * 1e3 for sample in taken["observed"]["plain"])
    found.append(results.Result("observe", "plain", "cpu_ms_per_image", "ms", "lower", per_image))
    if FLAGS.output:
        results.write(FLAGS.output, found, results.environment())
    return 0


def told(pair: Mapping[str, Sample]) -> None:
    """A line for each pair: a run takes more than half an hour."""
    seconds = ", ".join(f"{name} {sample.cpu_seconds:.2f} s of CPU" for name, sample in pair.items())
    print(f"{seconds}; others {max(sample.others_cores for sample in pair.values()):.2f} cores", file=sys.stderr)


if __name__ == "__main__":
    command.run(main)
