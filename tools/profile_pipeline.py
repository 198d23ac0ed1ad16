"""python -m tools.profile_pipeline --data.source=/data/pets --step"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import textwrap
import time
import typing

from absl import flags as absl_flags

from evenkeel.models.config import TrainConfig, config_json
from evenkeel.pipeline.errors import UsageError, require
from evenkeel.tools import flags, quiet

if typing.TYPE_CHECKING:
    from evenkeel.pipeline.dataset import Dataset
    from evenkeel.pipeline.profile.profile import Report

FLAGS = absl_flags.FLAGS
USAGE = """
Says where the input pipeline's time goes, what bounds training, and what would help most. Takes about a minute.

  python -m tools.profile_pipeline --preset=cifar --data.source=/data/pets --step
  python -m tools.profile_pipeline --config=runs/pets/config.json --step_ms=35 --json=profile.json --picture=profile.png
"""
OWN = ("step", "step_ms", "json", "picture")
CALLS = 5  # compiled calls of the training step; the first is not timed

flags.define(TrainConfig)
absl_flags.DEFINE_bool("step", False, "time the model's training step too, on one batch again and again")
absl_flags.DEFINE_float("step_ms", 0.0, "what the training step takes for a global batch, in ms, where that is known")
absl_flags.DEFINE_string("json", "", "file to write everything to, as JSON")
absl_flags.DEFINE_string("picture", "", "PNG file to draw a waterfall of the stages to")


def main(argv: list[str]) -> int:
    config = flags.config(TrainConfig)
    if FLAGS.print_config:
        print(config_json(config))
        return 0
    require(FLAGS.step_ms >= 0, f"--step_ms ({FLAGS.step_ms}) must not be negative.")
    require(not (FLAGS.step and FLAGS.step_ms), f"--step times what --step_ms ({FLAGS.step_ms}) says: give one.")
    require(not FLAGS.picture or FLAGS.picture.endswith(".png"), f"--picture ({FLAGS.picture}) must end in .png.")
    for name in ("json", "picture"):
        folder = os.path.dirname(str(FLAGS[name].value)) or "."
        require(os.path.isdir(folder), f"--{name} ({FLAGS[name].value}) lies in no directory: make {folder} first.")
    quiet.import_tensorflow()
    from evenkeel.pipeline.dataset import load_dataset
    from evenkeel.pipeline.profile.profile import profile

    step_ms = FLAGS.step_ms
    if FLAGS.step:
        step_ms, data = timed_step(config)
    else:
        data = load_dataset(config.data)
    report = profile(data, config.data, config.seed, step_ms or None)
    print(text(report))
    if FLAGS.json:
        written(FLAGS.json, lambda path: write_json(report, path))
    if FLAGS.picture:
        written(FLAGS.picture, lambda path: draw(report, path))
    return 0


def written(path: str, write: typing.Callable[[str], None]) -> None:
    try:
        write(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; choose another place.") from error


def write_json(report: Report, path: str) -> None:
    with open(path, "w") as file:
        json.dump(dataclasses.asdict(report), file, indent=2)


def timed_step(config: TrainConfig) -> tuple[float, Dataset]:
    """ms that the training step of a global batch takes, its input in memory; and the data set."""
    import tensorflow as tf
    import tf_keras as keras

    from evenkeel.models.distribute import strategy
    from evenkeel.models.training import build_model
    from evenkeel.pipeline.build import training_batches
    from evenkeel.pipeline.dataset import load_dataset

    devices = strategy.create(config.strategy)
    share = strategy.share(devices, config.data.batch_size)
    build_model.set_up(config)
    data = load_dataset(config.data)
    model = build_model.create_model(config, data, devices, build_model.steps_in_epoch(config, data))
    local = dataclasses.replace(config.data, service="")
    batch = next(iter(training_batches(data, local, config.seed, share)))
    same = devices.distribute_datasets_from_function(lambda _: tf.data.Dataset.from_tensors(batch).repeat())
    per_call = int(model._steps_per_execution)
    taken: list[float] = []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.begun = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            taken.append(time.perf_counter() - self.begun)

    model.fit(same, steps_per_epoch=CALLS * per_call, epochs=1, verbose=0, callbacks=[Clock()])
    return statistics.median(taken[1:]) / per_call * 1000, data


def text(report: Report) -> str:
    """A table of the stages, what stands beside it, and the sentence."""
    chosen = lambda value: "" if value is None else str(value)  # noqa: E731
    lines = ["stage       images/s  CPU ms   wait ms  share  parallel  buffer  bytes/image"]
    for s in report.stages:
        lines.append(
            f"{s.name:<10} {s.images_per_second:>9,.0f} {s.cpu_ms:>7.4f} {s.wait_ms:>9.4f} {s.share:>6.1%}"
            f" {chosen(s.parallelism):>9} {chosen(s.buffer):>7} {s.bytes_per_image:>12,.0f}"
        )
    floor = report.decoder_floor_ms
    lines += [
        f"{'all':<10} {report.images_per_second:>9,.0f} at most, on {report.threads} threads of {report.cores} cores",
        f"bare decoder  {floor:.4f} ms of CPU per image" if floor else "bare decoder  none: pixels are stored",
        f"to the device {report.host_to_device_bytes:,} bytes per image",
    ]
    if report.step_images_per_second:
        lines.append(f"training step {report.step_images_per_second:,.0f} images/s")
    for each in report.suggestions:
        lines.append(f"{each.gain:>5.2f} times as fast: {each.change}")
    return "\n".join([*lines, report.sentence])


def draw(report: Report, path: str) -> None:
    """A waterfall: each stage's bar begins where the one before it ends, waiting hatched."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.5 * len(report.stages) + 1.8), layout="constrained")
    axes = figure.subplots()
    colours = {"read": "tab:blue", "decode": "tab:orange", "augment": "tab:green"}
    end = 0.0
    for line, stage in enumerate(report.stages):
        colour = colours[stage.kind]
        axes.barh(line, stage.cpu_ms, left=end, color=colour)
        axes.barh(line, stage.wait_ms, left=end + stage.cpu_ms, color="none", edgecolor=colour, hatch="///")
        end += stage.cpu_ms + stage.wait_ms
        axes.text(end, line, f" {stage.share:.0%}", va="center")
    if report.step_images_per_second:
        step = report.threads * 1000 / report.step_images_per_second
        axes.axvline(step, color="black", linestyle="--", label="what the step leaves time for")
        axes.legend(loc="lower right")
    axes.set_yticks(range(len(report.stages)), [stage.name for stage in report.stages])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1 * end)  # room for the last percentage
    axes.set_xlabel("ms of a thread's time per image (hatched: waiting)")
    axes.set_title("\n".join(textwrap.wrap(report.sentence, 110)), fontsize=9, loc="left")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    flags.run(main, USAGE, TrainConfig, own=OWN)
