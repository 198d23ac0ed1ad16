"""Checks that the profiler names the bottleneck and correctly predicts the gain of its first suggestion.

    python -m benchmarks.speed.profiler_validation --output=result.json

There are four inputs with a known bottleneck: a slow disk (the read of each image takes 3 ms longer), files that are
much larger than the images made from them, augmentations that take most of the time, and a slow model. Each input is
profiled, the first suggestion is applied, and the input is measured again. The measured gain is the thread time per
image (CPU time and waiting, not wall time) before the change, divided by the thread time after it. Exits with 4 if a
bottleneck is wrong or a predicted gain is wrong by more than 30%.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import time
import unittest.mock
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from absl import flags

from evenkeel.benchmarks import command, results
from evenkeel.pipeline.config import (
    AugmentConfig,
    DataConfig,
    PrepareConfig,
    ShapesConfig,
)

if TYPE_CHECKING:
    import tensorflow as tf

    from evenkeel.pipeline.reading.byte_source import ByteSource

FLAGS = flags.FLAGS
MAX_GAIN_ERROR = 0.3
CHECK_FAILED = 4
READ_DELAY_SECONDS = 0.003  # delay per image of the slow disk
SLOW_STEP_MS = 60_000.0

flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")


@dataclasses.dataclass(frozen=True)
class Case:
    """An input with a known bottleneck.

    Attributes:
      bound: the stage that is the bottleneck.
      data: the input.
      slow_disk: whether reads are delayed.
      step_ms: duration of a training step; None if the profiler does not know it.
    """

    bound: str
    data: DataConfig
    slow_disk: bool = False
    step_ms: float | None = None


@dataclasses.dataclass(frozen=True)
class ValidationResult:
    """The predictions of the profiler for a case, and the measured gain.

    Attributes:
      bound: the stage that the profiler named as the bottleneck.
      change: the first suggestion, or "none".
      predicted: the predicted gain, a ratio.
      measured: the measured gain, a ratio; None if there was no suggestion.
    """

    bound: str
    change: str
    predicted: float
    measured: float | None


def cases(batch_size: int = 64) -> dict[str, Case]:
    """Returns {name: case} for the four inputs."""
    small = DataConfig(batch_size=batch_size, shapes=ShapesConfig(size=32, count=400))
    large = dataclasses.replace(small, cache="none", shapes=ShapesConfig(size=256, count=200))
    expensive = AugmentConfig(rotation=20, noise=10, randaugment_ops=2)
    return {
        "slow disk": Case("read", dataclasses.replace(small, cache="none"), slow_disk=True),
        "heavy decode": Case("decode", large),
        "heavy augmentation": Case("augment", dataclasses.replace(small, augment=expensive)),
        "slow model": Case("step", small, step_ms=SLOW_STEP_MS),
    }


def follow_first_suggestion(case: Case) -> ValidationResult:
    """Profiles the case, applies the first suggestion and measures the case again."""
    from evenkeel.pipeline.dataset import load_dataset
    from evenkeel.pipeline.profile.chain_timing import time_chain
    from evenkeel.pipeline.profile.profile import profile

    data = load_dataset(case.data)
    with delayed_reads() if case.slow_disk else contextlib.nullcontext():
        report = profile(data, case.data, step_ms=case.step_ms)
    if not report.suggestions:
        return ValidationResult(report.bound, "none", 1.0, None)
    best = report.suggestions[0]
    with tempfile.TemporaryDirectory() as directory:
        improved = apply_suggestion(case.data, best.options, directory)
        after = sum(time_chain(load_dataset(improved), improved))
    return ValidationResult(report.bound, best.change, best.gain, report.thread_ms / after)


def apply_suggestion(config: DataConfig, options: dict[str, Any], directory: str) -> DataConfig:
    """Returns `config` with the `options` of a suggestion; prepares data with a new tier below `directory`."""
    for name, value in options.items():
        if name == "tier":
            from evenkeel.pipeline.prepare.prepare import prepare

            source, output = config.source, os.path.join(directory, "prepared")
            prepare(PrepareConfig(source=source, shapes=config.shapes, tier=value, severity="error"), output)
            config = dataclasses.replace(config, source=output)
        elif name.startswith("augment."):
            changes = dataclasses.replace(config.augment, **{name.removeprefix("augment."): value})
            config = dataclasses.replace(config, augment=changes)
        else:
            config = dataclasses.replace(config, **{name: value})
    return config


@contextlib.contextmanager
def delayed_reads() -> Iterator[None]:
    """Delays the read of every image by `READ_DELAY_SECONDS`, until the block ends."""
    import tensorflow as tf

    from evenkeel.pipeline.reading import byte_source

    mapped = byte_source.mapped_source

    def late(index: Any) -> ByteSource:
        at_once = mapped(index)

        def encoded(row: tf.Tensor, region: tf.Tensor | None = None) -> tf.Tensor:
            with tf.control_dependencies([tf.numpy_function(wait, [], [])]):
                return at_once.read_bytes(tf.identity(row), region)

        return dataclasses.replace(at_once, read_bytes=encoded)

    def wait() -> None:
        time.sleep(READ_DELAY_SECONDS)

    with unittest.mock.patch.object(byte_source, "mapped_source", late):
        yield


def main(argv: list[str]) -> int:
    errors, measured = [], []
    for name, case in cases().items():
        outcome = follow_first_suggestion(case)
        line = f"{name}: {outcome.bound} bound; {outcome.change}"
        if outcome.measured is not None:
            line += f": predicted {outcome.predicted:.2f}, measured {outcome.measured:.2f}"
            case_name = name.replace(" ", "_")
            measured.append(results.Result("bounds", case_name, "predicted_gain", "1", "higher", (outcome.predicted,)))
            measured.append(results.Result("bounds", case_name, "measured_gain", "1", "higher", (outcome.measured,)))
            if abs(outcome.predicted / outcome.measured - 1) > MAX_GAIN_ERROR:
                errors.append(f"{name}: the predicted gain is wrong by more than {MAX_GAIN_ERROR:.0%}")
        if outcome.bound != case.bound:
            errors.append(f"{name}: the profiler names {outcome.bound} as the bottleneck, but it is {case.bound}")
        print(line)
    for error in errors:
        print(f"error: {error}")
    if FLAGS.output:
        results.write(FLAGS.output, measured, results.environment())
    return CHECK_FAILED if errors else 0


if __name__ == "__main__":
    command.run(main)
