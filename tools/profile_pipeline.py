"""evenkeel profile: measures the input pipeline stage by stage."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import textwrap
import time
import typing

from absl import flags

from evenkeel.models.config import TrainConfig, config_json
from evenkeel.pipeline.errors import UsageError, require
from evenkeel.tools import cli
from evenkeel.tools.flags import config_from_flags, define_flags
from evenkeel.tools.tensorflow_import import import_tensorflow

if typing.TYPE_CHECKING:
    from evenkeel.pipeline.dataset import Dataset
    from evenkeel.pipeline.profile.profile import Report

FLAGS = flags.FLAGS
USAGE = """
Measures each stage of the input pipeline, and names what limits training speed and which change would help most. It
takes about a minute.

  evenkeel profile --preset=cifar --data.source=/data/pets --step
  evenkeel profile --config=runs/pets/config.json --step_ms=35 --json=profile.json --picture=profile.png
"""
OWN = ("step", "step_ms", "json", "picture")
TIMED_CALLS = 5  # compiled calls of the training step; the first call is not counted

define_flags(TrainConfig)
flags.DEFINE_bool("step", False, "also time the model's training step, on one repeated batch")
flags.DEFINE_float("step_ms", 0.0, "time of a training step for a global batch in ms, if known")
flags.DEFINE_string("json", "", "JSON file to write all figures to")
flags.DEFINE_string("picture", "", "PNG file for a waterfall chart of the stages")


def main(argv: list[str]) -> int:
    config = config_from_flags(TrainConfig)
    if FLAGS.print_config:
        print(config_json(config))
        return 0
    require(FLAGS.step_ms >= 0, f"--step_ms ({FLAGS.step_ms}) must not be negative.")
    require(
        not (FLAGS.step and FLAGS.step_ms),
        f"--step measures the time that --step_ms ({FLAGS.step_ms}) gives: use only one of them.",
    )
    require(not FLAGS.picture or FLAGS.picture.endswith(".png"), f"--picture ({FLAGS.picture}) must end in .png.")
    for name in ("json", "picture"):
        folder = os.path.dirname(str(FLAGS[name].value)) or "."
        require(
            os.path.isdir(folder),
            f"--{name} ({FLAGS[name].value}) lies in a directory that does not exist: create {folder} first.",
        )
    import_tensorflow()
    from evenkeel.pipeline.dataset import load_dataset
    from evenkeel.pipeline.profile.profile import profile

    step_ms = FLAGS.step_ms
    if FLAGS.step:
        step_ms, data = time_step(config)
    else:
        data = load_dataset(config.data)
    report = profile(data, config.data, config.seed, step_ms or None)
    print(report_text(report))
    if FLAGS.json:
        write_file(FLAGS.json, lambda path: write_json(report, path))
    if FLAGS.picture:
        write_file(FLAGS.picture, lambda path: draw(report, path))
    return 0


def write_file(path: str, write: typing.Callable[[str], None]) -> None:
    try:
        write(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; choose another path.") from error


def write_json(report: Report, path: str) -> None:
    with open(path, "w") as file:
        json.dump(dataclasses.asdict(report), file, indent=2)


def time_step(config: TrainConfig) -> tuple[float, Dataset]:
    """Times a training step on a global batch in memory; returns (ms per step, the data set)."""
    import tensorflow as tf
    import tf_keras as keras

    from evenkeel.models.distribute import strategy
    from evenkeel.models.training import build_model
    from evenkeel.models.training.batches import count_steps_per_epoch
    from evenkeel.pipeline.build import training_batches
    from evenkeel.pipeline.dataset import load_dataset

    devices = strategy.create_strategy(config.strategy)
    replica_shard = strategy.replica_shard(devices, config.data.batch_size)
    build_model.configure_process(config)
    data = load_dataset(config.data)
    model = build_model.create_model(config, data, devices, count_steps_per_epoch(config, data))
    local = dataclasses.replace(config.data, service="")
    batch = next(iter(training_batches(data, local, config.seed, replica_shard)))
    repeated = devices.distribute_datasets_from_function(lambda _: tf.data.Dataset.from_tensors(batch).repeat())
    steps_per_call = int(model._steps_per_execution)
    seconds: list[float] = []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.begun = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            seconds.append(time.perf_counter() - self.begun)

    model.fit(repeated, steps_per_epoch=TIMED_CALLS * steps_per_call, epochs=1, verbose=0, callbacks=[Clock()])
    return statistics.median(seconds[1:]) / steps_per_call * 1000, data


def report_text(report: Report) -> str:
    """A table of the stages, the machine's limits, the suggestions and the conclusion."""
    show = lambda value: "" if value is None else str(value)  # noqa: E731
    lines = ["stage       images/s  CPU ms   wait ms  share  parallel  buffer  bytes/image"]
    for s in report.stages:
        lines.append(
            f"{s.name:<10} {s.images_per_second:>9,.0f} {s.cpu_ms:>7.4f} {s.wait_ms:>9.4f} {s.share:>6.1%}"
            f" {show(s.parallelism):>9} {show(s.buffer):>7} {s.bytes_per_image:>12,.0f}"
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
    """Draws a waterfall chart: each bar begins where the previous bar ends; waiting is hatched."""
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
        axes.axvline(step, color="black", linestyle="--", label="time that the training step allows")
        axes.legend(loc="lower right")
    axes.set_yticks(range(len(report.stages)), [stage.name for stage in report.stages])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1 * end)  # room for the last percentage
    axes.set_xlabel("ms of a thread's time per image (hatched: waiting)")
    axes.set_title("\n".join(textwrap.wrap(report.sentence, 110)), fontsize=9, loc="left")
    figure.savefig(path, dpi=120)


COMMAND = cli.Command(
    main,
    USAGE,
    TrainConfig,
    OWN,
    common=(*OWN, "preset", "config", "data.source", "data.image_size", "batch_size", "data.threads"),
)

if __name__ == "__main__":
    cli.run(COMMAND)
