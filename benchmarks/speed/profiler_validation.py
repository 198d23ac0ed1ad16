"""Whether the profile names what bounds, and whether its first suggestion gains what it predicts.

    python -m benchmarks.speed.profiler_validation --output=result.json

Four inputs with a known bound: a slow disk (every image's bytes come some ms late), files far larger than what is shown
of them, augmentations dearer than all else, a slow model. Each is profiled, the first suggestion is followed, and the
input measured again: what an image takes of a thread before, over what it takes after. CPU time and waiting, no wall
time. Ends with exit code 4 if a bound is misnamed or a gain is off by more than 30%.
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

    from evenkeel.pipeline.reading.byte_source import Fetch

FLAGS = flags.FLAGS
TOLERANCE = 0.3
CHECK_FAILED = 4
LATE_SECONDS = 0.003  # of a slow disk, per image
SLOW_STEP_MS = 60_000.0

flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")


@dataclasses.dataclass(frozen=True)
class Case:
    """An input whose bound is known."""

    bound: str
    data: DataConfig
    late: bool = False
    step_ms: float | None = None


@dataclasses.dataclass(frozen=True)
class Found:
    """What the profile said; `measured` is None where there was nothing to follow."""

    bound: str
    change: str
    predicted: float
    measured: float | None


def cases(batch_size: int = 64) -> dict[str, Case]:
    small = DataConfig(batch_size=batch_size, shapes=ShapesConfig(size=32, count=400))
    large = dataclasses.replace(small, cache="none", shapes=ShapesConfig(size=256, count=200))
    dear = AugmentConfig(rotation=20, noise=10, randaugment_ops=2)
    return {
        "slow disk": Case("read", dataclasses.replace(small, cache="none"), late=True),
        "heavy decode": Case("decode", large),
        "heavy augmentation": Case("augment", dataclasses.replace(small, augment=dear)),
        "slow model": Case("step", small, step_ms=SLOW_STEP_MS),
    }


def follow(case: Case) -> Found:
    """Profiles the case and does what comes first among its suggestions."""
    from evenkeel.pipeline.dataset import load_dataset
    from evenkeel.pipeline.profile.profile import profile
    from evenkeel.pipeline.profile.stages import taken

    data = load_dataset(case.data)
    with slow_disk() if case.late else contextlib.nullcontext():
        report = profile(data, case.data, step_ms=case.step_ms)
    if not report.suggestions:
        return Found(report.bound, "none", 1.0, None)
    best = report.suggestions[0]
    with tempfile.TemporaryDirectory() as directory:
        changed = with_options(case.data, best.options, directory)
        after = sum(taken(load_dataset(changed), changed))
    return Found(report.bound, best.change, best.gain, report.thread_ms / after)


def with_options(config: DataConfig, options: dict[str, Any], directory: str) -> DataConfig:
    """`config` with a suggestion's `options`; a tier is prepared under `directory`."""
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
def slow_disk() -> Iterator[None]:
    """Every image's bytes come `LATE_SECONDS` late; which the change to a faster disk takes away again."""
    import tensorflow as tf

    from evenkeel.pipeline.reading import byte_source

    mapped = byte_source.mapped

    def late(index: Any) -> Fetch:
        at_once = mapped(index)

        def encoded(row: tf.Tensor, region: tf.Tensor | None = None) -> tf.Tensor:
            with tf.control_dependencies([tf.numpy_function(wait, [], [])]):
                return at_once.encoded(tf.identity(row), region)

        return dataclasses.replace(at_once, encoded=encoded)

    def wait() -> None:
        time.sleep(LATE_SECONDS)

    with unittest.mock.patch.object(byte_source, "mapped", late):
        yield


def main(argv: list[str]) -> int:
    wrong, measured = [], []
    for name, case in cases().items():
        found = follow(case)
        line = f"{name}: {found.bound} bound; {found.change}"
        if found.measured is not None:
            line += f": predicted {found.predicted:.2f}, measured {found.measured:.2f}"
            of = name.replace(" ", "_")
            measured.append(results.Result("bounds", of, "predicted_gain", "1", "higher", (found.predicted,)))
            measured.append(results.Result("bounds", of, "measured_gain", "1", "higher", (found.measured,)))
            if abs(found.predicted / found.measured - 1) > TOLERANCE:
                wrong.append(f"{name}: the predicted gain is off by more than {TOLERANCE:.0%}")
        if found.bound != case.bound:
            wrong.append(f"{name}: {case.bound} bounds it, not {found.bound}")
        print(line)
    for complaint in wrong:
        print(f"error: {complaint}")
    if FLAGS.output:
        results.write(FLAGS.output, measured, results.environment())
    return CHECK_FAILED if wrong else 0


if __name__ == "__main__":
    command.run(main)
