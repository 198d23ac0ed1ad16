"""Whether the faults are any: accuracy lost to each persistent one, on its pairs of network and data.

    python -m benchmarks.faulty --photos=/data/cifar10 --seeds=0,1 --output=result.json
    python -m benchmarks.faulty --photos=/data/cifar10 --seeds=0,1,2,3,4 --clean

Each fault is trained beside its sound twin, same seed; no guard, no histograms. A run takes 5 to 15 seconds.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

from absl import flags

from benchmarks import command, dirt, networks, results, split
from benchmarks.faults import FAULTS
from models.config import TrainConfig
from pipeline.config import DataConfig, ShapesConfig, require

FLAGS = flags.FLAGS
SHAPES = DataConfig(shapes=ShapesConfig(count=10_000))

flags.DEFINE_string("photos", "", "real images of 10 classes: a data.source")
flags.DEFINE_list("seeds", ["0", "1"], "seeds of training")
flags.DEFINE_list("only", [], "faults by name; default: all persistent ones")
flags.DEFINE_bool("clean", False, "only the sound runs, of all pairs")
flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")


@functools.cache
def accuracy(config: TrainConfig) -> float:
    """On validation images, after training as `config` says."""
    import tf_keras as keras

    from models import strategy, train
    from pipeline import opening
    from pipeline.reader import evaluation_steps

    devices = strategy.create(config.strategy)
    share = strategy.share(devices, config.data.batch_size)
    train.set_up(config)
    data = opening.open_data(config.data)
    steps = train.steps_in_epoch(config, data)
    model = train.create_model(config, data, devices, steps)
    training, evaluation = train.batches(config, data, devices, share, start_step=0)
    model.fit(training, steps_per_epoch=steps, epochs=config.epochs, verbose=0)
    result = train.evaluate(model, evaluation, evaluation_steps(data.validation, share))["accuracy"]
    keras.backend.clear_session()  # or the graphs of 200 runs stay in memory
    return result


def sound(pair: split.Pair, seed: int) -> TrainConfig:
    """The sound run of a pair, on a clean copy of its data."""
    network, name = pair
    require(name == "shapes" or bool(FLAGS.photos), "--photos is empty: give a data.source of real images.")
    source = SHAPES if name == "shapes" else DataConfig(source=FLAGS.photos)
    return dataclasses.replace(networks.sound(network, dirt.copied(source, "clean"), seed), guard="off")


def cases() -> Iterator[tuple[str, list[float], list[float]]]:
    """(fault/network/data, clean accuracies, faulty ones) by seed."""
    names = FLAGS.only or [name for name, fault in FAULTS.items() if fault.kind == "persistent"]
    for name in names:
        fault = FAULTS[name]
        for pair in split.pairs(name):
            twins = [fault.twin(sound(pair, int(seed))) for seed in FLAGS.seeds]
            clean = [accuracy(twin) for twin in twins]
            yield "/".join((name, *pair)), clean, [accuracy(fault.apply(twin)) for twin in twins]


def main(argv: list[str]) -> int:
    found = []
    if FLAGS.clean:
        for pair in split.PAIRS:
            clean = [accuracy(sound(pair, int(seed))) for seed in FLAGS.seeds]
            print("/".join(pair), " ".join(f"{x:.4f}" for x in clean), flush=True)
            found.append(results.Result("faulty", "/".join(pair), "accuracy", "1", "higher", tuple(clean)))
    for case, clean, faulty in () if FLAGS.clean else cases():
        lost = tuple(a - b for a, b in zip(clean, faulty, strict=True))
        print(
            f"{case:<40} {' '.join(f'{x:.3f}' for x in clean)} -> {' '.join(f'{x:.3f}' for x in faulty)}"
            f"   lost {100 * sum(lost) / len(lost):5.1f} points",
            flush=True,
        )
        found.append(results.Result("faulty", case, "lost_accuracy", "1", "higher", lost))
    if FLAGS.output:
        results.write(FLAGS.output, found, results.environment())
    return 0


if __name__ == "__main__":
    command.run(main)
