"""Measures what a folder of images costs until its first training batch, beside other libraries.

    python -m benchmarks.speed.first_start --images=100000 --rounds=3 --output=result.json

Each case is a process of its own; its imports are not counted. The cases alternate:

    evenkeel/first       an empty cache: the folder is copied, checked and measured
    evenkeel/next        the same again: only names and states of files are looked at
    evenkeel/added       a hundredth of the files is new
    keras                `image_dataset_from_directory`, which looks at names only
    tfds                 `tfds.folder_dataset.ImageFolder`, likewise
    torchvision          `ImageFolder` and a `DataLoader` without workers, if it is installed

`cpu_seconds` ends with the first batch of 128, without a cache of decoded images in memory (`data.cache=none`): that
cache is filled by decoding every image once, which is the work of the first epoch. `decoding_cpu_seconds` is with it,
at the defaults, in the first process that fills it, and `cached_cpu_seconds` in a later one. Without `--source`, the
images are JPEGs of 32 pixels in 10 classes.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
from absl import flags
from PIL import Image
from tqdm import tqdm

from evenkeel.benchmarks import command, results, timing
from evenkeel.benchmarks.results import Result
from evenkeel.pipeline.config import ShapesConfig
from evenkeel.pipeline.errors import UsageError, require
from evenkeel.tools.tensorflow_import import import_tensorflow

FLAGS = flags.FLAGS
BATCH = 128
CLASSES, DISTINCT = 10, 1000  # the images differ from one of so many rendered ones in a pixel
UNITS = {"peak_mb": "MB", "decoding_peak_mb": "MB", "cached_peak_mb": "MB"}  # of other measurements: seconds

flags.DEFINE_string("source", "", "folder of images of one size, CLASS/IMAGE; default: images are made")
flags.DEFINE_integer("images", 100_000, "images to make")
flags.DEFINE_integer("image_size", 32, "side of the images that are made and of those in the batch, in pixels")
flags.DEFINE_integer("rounds", 3, "samples of each case")
flags.DEFINE_string("case", "", "measure this one here, on --source, which has a folder train; prints a JSON object")
flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")


def main(argv: list[str]) -> int:
    if FLAGS.case:
        print(json.dumps(measure_case(FLAGS.case, FLAGS.source, FLAGS.image_size)), flush=True)
        os._exit(0)  # threads that prefetch would be waited for
    command.require_writable("output", FLAGS.output)
    require(FLAGS.rounds >= 1, f"--rounds ({FLAGS.rounds}) must be at least 1.")
    cases = ["evenkeel", "keras", "tfds"] + ["torchvision"] * bool(importlib.util.find_spec("torchvision"))
    samples: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory, "images")
        if FLAGS.source:
            shutil.copytree(FLAGS.source, root / "train")
        else:
            write_images(root / "train", FLAGS.images, FLAGS.image_size)
        for round_ in tqdm(range(FLAGS.rounds), file=sys.stderr):
            for library in timing.turn_order(cases, round_ % 2):
                for case, measured in measure(library, root, pathlib.Path(directory, "cache")).items():
                    for name, value in measured.items():
                        samples.setdefault((case, name), []).append(value)
    measured_results = [
        Result("first_start", case, name, UNITS.get(name, "s"), "lower", tuple(values))
        for (case, name), values in samples.items()
    ]
    print(results.table(measured_results))
    if FLAGS.output:
        results.write(FLAGS.output, measured_results, results.environment())
    return 0


def write_images(root: pathlib.Path, count: int, size: int) -> None:
    """Writes `count` different JPEGs into folders of classes."""
    from evenkeel.pipeline.sources import shapes

    rng = np.random.default_rng(0)
    rendered = [shapes.render(row % CLASSES, size, rng) for row in range(min(count, DISTINCT))]
    for name in shapes.CLASSES[:CLASSES]:
        (root / name).mkdir(parents=True)
    for row in range(count):
        image = rendered[row % len(rendered)].copy()
        image[rng.integers(size), rng.integers(size)] = rng.integers(0, 256, 3)
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=ShapesConfig.quality)
        (root / shapes.CLASSES[row % CLASSES] / f"{row:07}.jpg").write_bytes(file.getvalue())


def measure(library: str, root: pathlib.Path, cache: pathlib.Path) -> dict[str, dict[str, float]]:
    """{case: {measurement: value}} of one library."""
    if library != "evenkeel":
        return {library: run_case(library, root, cache)}
    shutil.rmtree(cache, ignore_errors=True)
    measured = {"evenkeel/first": run_case("evenkeel", root, cache), "evenkeel/next": run_case("evenkeel", root, cache)}
    for name in ("decoding_cpu_seconds", "cached_cpu_seconds"):
        with_cache = run_case("evenkeel_cached", root, cache)
        measured["evenkeel/next"] |= {
            name: with_cache["cpu_seconds"],
            name.replace("cpu_seconds", "peak_mb"): with_cache["peak_mb"],
        }
    added = [path.with_stem(f"{path.stem}-added") for path in sorted((root / "train").rglob("*.*"))[::100]]
    try:
        for path in added:
            shutil.copy(path.with_stem(path.stem.removesuffix("-added")), path)
        measured["evenkeel/added"] = run_case("evenkeel", root, cache)
    finally:
        for path in added:
            path.unlink(missing_ok=True)
    return measured


def run_case(case: str, root: pathlib.Path, cache: pathlib.Path) -> dict[str, float]:
    """The result of `measure_case` in a process of its own."""
    line = [sys.executable, "-m", "benchmarks.speed.first_start", f"--case={case}", f"--source={root}"]
    line.append(f"--image_size={FLAGS.image_size}")
    environment = {**os.environ, "EVENKEEL_CACHE": str(cache)}
    done = subprocess.run(line, cwd=results.ROOT, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise UsageError(f"{' '.join(line)} ended with exit code {done.returncode}: {done.stderr[-300:].strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def measure_case(case: str, root: str, size: int) -> dict[str, float]:
    """CPU and wall time from after the imports until a batch is read, and the largest memory of this process."""
    if case != "torchvision":  # torch 2.14 crashes in one process with TensorFlow 2.21
        import_tensorflow()  # as commands do: garbage collections do not scan what it has imported
    read = CASES[case](root, size)
    cpu, wall = cpu_seconds(), time.monotonic()
    read()
    measured = {"cpu_seconds": cpu_seconds() - cpu, "wall_seconds": time.monotonic() - wall}
    return measured | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def open_with_evenkeel(root: str, size: int, cache: str = "none") -> Callable[[], object]:
    import tensorflow_datasets  # noqa: F401

    from evenkeel.pipeline.build import training_batches
    from evenkeel.pipeline.config import DataConfig
    from evenkeel.pipeline.dataset import load_dataset
    from evenkeel.pipeline.index.replica_shard import ReplicaShard

    config = DataConfig(source=root, image_size=size, batch_size=BATCH, cache=cache)
    return lambda: next(iter(training_batches(load_dataset(config), config, 0, ReplicaShard(BATCH))))


def open_with_evenkeel_and_cache(root: str, size: int) -> Callable[[], object]:
    return open_with_evenkeel(root, size, "auto")


def open_with_keras(root: str, size: int) -> Callable[[], object]:
    import tf_keras as keras

    read = keras.utils.image_dataset_from_directory
    return lambda: next(iter(read(f"{root}/train", image_size=(size, size), batch_size=BATCH)))


def open_with_tfds(root: str, size: int) -> Callable[[], object]:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def resize(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.image.resize(image, [size, size]), label

    def read() -> object:
        ds = tfds.folder_dataset.ImageFolder(root).as_dataset("train", as_supervised=True, shuffle_files=True)
        return next(iter(ds.map(resize, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH)))

    return read


def open_with_torchvision(root: str, size: int) -> Callable[[], object]:
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    def read() -> object:
        transform = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor()])
        return next(iter(DataLoader(datasets.ImageFolder(f"{root}/train", transform), BATCH, shuffle=True)))

    return read


CASES: dict[str, Callable[[str, int], Callable[[], object]]] = {
    "evenkeel": open_with_evenkeel,
    "evenkeel_cached": open_with_evenkeel_and_cache,
    "keras": open_with_keras,
    "tfds": open_with_tfds,
    "torchvision": open_with_torchvision,
}


def cpu_seconds() -> float:
    """CPU time of this process and of its children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


if __name__ == "__main__":
    command.run(main)
