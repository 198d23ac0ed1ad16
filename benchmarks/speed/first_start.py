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
cache is filled by decoding every image once, which is the work of the first epoch. `cached_cpu_seconds` is with it, at
the defaults. Without `--source`, the images are JPEGs of 32 pixels in 10 classes.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
from absl import flags
from PIL import Image
from tqdm import tqdm

from evenkeel.benchmarks import command, results, timing
from evenkeel.benchmarks.results import Result
from evenkeel.pipeline.config import ShapesConfig
from evenkeel.pipeline.errors import UsageError, require

FLAGS = flags.FLAGS
CLASSES, DISTINCT = 10, 1000  # the images differ from one of so many rendered ones in a pixel
UNITS = {"peak_mb": "MB"}  # of other measurements: seconds

flags.DEFINE_string("source", "", "folder of images of one size, CLASS/IMAGE; default: images are made")
flags.DEFINE_integer("images", 100_000, "images to make")
flags.DEFINE_integer("image_size", 32, "side of the images that are made and of those in the batch, in pixels")
flags.DEFINE_integer("rounds", 3, "samples of each case")
flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")


def main(argv: list[str]) -> int:
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
    measured["evenkeel/next"]["cached_cpu_seconds"] = run_case("evenkeel_cached", root, cache)["cpu_seconds"]
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
    """The measurements of `first_start_case`, in a process of its own."""
    line = [sys.executable, "-m", "benchmarks.speed.first_start_case", case, str(root), str(FLAGS.image_size)]
    environment = {**os.environ, "EVENKEEL_CACHE": str(cache)}
    done = subprocess.run(line, cwd=results.ROOT, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise UsageError(f"{' '.join(line)} ended with exit code {done.returncode}: {done.stderr[-300:].strip()}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    command.run(main)
