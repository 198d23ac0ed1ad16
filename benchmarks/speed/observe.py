"""Measures the CPU time that the observation of a training run adds: telemetry of every step, histograms, and a guard.

    python -m benchmarks.speed.observe --pairs=30 --output=result.json

In each case, the same resnet9 trains on batches of 128 images in memory, so that only the step and its observation are
measured:

    plain               a plain Keras model
    observed            a StableModel with one telemetry row per step and histograms every 100 steps, to TensorBoard
    guarded             as `observed`, with a guard that may act and layer statistics every 20 steps
    keras_tensorboard   Keras's TensorBoard callback with histograms as often, but of weights only

`guarded` is compared with `observed`, the other cases with `plain`. A sample has 100 steps, in turns of 20 steps that
alternate between the two cases, so that a disturbance of some seconds affects both.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping

from absl import flags

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.speed.observe_cases import BATCH_SIZE, STEPS_PER_CALL, build_turns
from evenkeel.benchmarks.timing import Sample, measure_quiet_pairs, paired_ratio
from evenkeel.pipeline.errors import require

FLAGS = flags.FLAGS

flags.DEFINE_integer("pairs", 30, "samples of `plain` and `observed`, and of `observed` and `guarded`")
flags.DEFINE_integer("keras_pairs", 5, "samples of `plain` and `keras_tensorboard`; 0: none")
flags.DEFINE_integer("steps", 100, "training steps per sample, and between histograms")
flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")


def main(argv: list[str]) -> int:
    minimums = (("pairs", FLAGS.pairs, 1), ("keras_pairs", FLAGS.keras_pairs, 0), ("steps", FLAGS.steps, 1))
    for name, value, minimum in minimums:
        require(value >= minimum, f"--{name} ({value}) must be at least {minimum}.")
    require(FLAGS.steps % STEPS_PER_CALL == 0, f"--steps ({FLAGS.steps}) must be a multiple of {STEPS_PER_CALL}.")
    turns = FLAGS.steps // STEPS_PER_CALL
    with tempfile.TemporaryDirectory() as directory:
        cases = build_turns(FLAGS.steps, directory)
        comparisons = [
            ("observed", "plain", FLAGS.pairs),
            ("guarded", "observed", FLAGS.pairs),
            ("keras_tensorboard", "plain", FLAGS.keras_pairs),
        ]
        measured = {
            name: measure_quiet_pairs({base: cases[base], name: cases[name]}, pairs, turns, on_pair=log_pair)
            for name, base, pairs in comparisons
            if pairs
        }
    observe_results = []
    for name, base, _ in comparisons:
        if name not in measured:
            continue
        samples = measured[name]
        cpu = {case: [sample.cpu_seconds for sample in case_samples] for case, case_samples in samples.items()}
        ratio = paired_ratio(cpu[name], cpu[base])
        low, high = ratio.ci95
        others = max(sample.others_cores for case_samples in samples.values() for sample in case_samples)
        print(
            f"{name} / {base}: CPU time {ratio.median - 1:+.2%} (95% interval {low - 1:+.2%} to {high - 1:+.2%});"
            f" {len(cpu[name])} pairs, other programs used up to {others:.2f} cores"
        )
        overhead = tuple(a / b - 1 for a, b in zip(cpu[name], cpu[base], strict=True))
        observe_results.append(results.Result("observe", name, "added_cpu_fraction", "1", "lower", overhead))
        per_image = tuple(seconds / FLAGS.steps / BATCH_SIZE * 1e3 for seconds in cpu[name])
        observe_results.append(results.Result("observe", name, "cpu_ms_per_image", "ms", "lower", per_image))
    per_image = tuple(sample.cpu_seconds / FLAGS.steps / BATCH_SIZE * 1e3 for sample in measured["observed"]["plain"])
    observe_results.append(results.Result("observe", "plain", "cpu_ms_per_image", "ms", "lower", per_image))
    if FLAGS.output:
        results.write(FLAGS.output, observe_results, results.environment())
    return 0


def log_pair(pair: Mapping[str, Sample]) -> None:
    """Prints the times of a pair, because a run takes more than half an hour."""
    seconds = ", ".join(f"{name} {sample.cpu_seconds:.2f} s of CPU" for name, sample in pair.items())
    print(
        f"{seconds}; other programs used up to {max(sample.others_cores for sample in pair.values()):.2f} cores",
        file=sys.stderr,
    )


if __name__ == "__main__":
    command.run(main)
