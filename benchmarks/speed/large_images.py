"""Measures the time that scaled decoding saves for random crops of 12-megapixel JPEGs, and its effect on pixels.

    python -m benchmarks.speed.large_images --source=/data/photographs --output=result.json

Images of the source are enlarged to 4000 x 3000 pixels and encoded again. Each crop is resized to 224 x 224.

    whole     decodes the whole image and resizes the crop bilinearly
    fused     decodes only the crop
    scaled    decodes the crop at 1/2, 1/4 or 1/8 of its size if the result is large enough, as in training

All cases use the windows that training would draw.
`difference` is the mean absolute difference from a crop of the whole image that is scaled down with antialiasing.
"""

from __future__ import annotations

from collections.abc import Callable

from absl import flags

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.timing import measure_interleaved, paired_ratio
from evenkeel.pipeline.config import DataConfig, ShapesConfig
from evenkeel.pipeline.errors import require

FLAGS = flags.FLAGS
HEIGHT, WIDTH, JPEG_QUALITY, OUTPUT_SIZE = 3000, 4000, 90, 224
CROP_STRENGTH = 0.92  # crops of 8% to 100% of the area

flags.DEFINE_integer("rounds", 7, "samples of each case")
flags.DEFINE_integer("images", 8, "images, each with its own crop")
flags.DEFINE_string("source", "shapes", "source of the images, like --data.source of training")
flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")


def main(argv: list[str]) -> int:
    for name, value in (("rounds", FLAGS.rounds), ("images", FLAGS.images)):
        require(value >= 1, f"--{name} ({value}) must be at least 1.")
    cases, errors = build_cases(FLAGS.source, FLAGS.images)
    samples = measure_interleaved(cases, FLAGS.rounds)
    cpu = {
        name: tuple(sample.cpu_seconds / FLAGS.images * 1e3 for sample in case_samples)
        for name, case_samples in samples.items()
    }
    measured = [
        results.Result("large_images", name, "cpu_ms_per_image", "ms", "lower", values) for name, values in cpu.items()
    ]
    measured += [
        results.Result("large_images", name, "difference", "gray levels", "lower", (error,))
        for name, error in errors.items()
    ]
    lines = [("case", "CPU ms per image", "ratio to scaled", "mean difference, gray levels")]
    for name, values in cpu.items():
        ratio, error = paired_ratio(values, cpu["scaled"]), errors[name]
        lines.append((name, f"{sorted(values)[len(values) // 2]:.2f}", str(ratio), f"{error:.3f}"))
    print(results.align_columns(lines))
    if FLAGS.output:
        results.write(FLAGS.output, measured, results.environment())
    return 0


def build_cases(source: str, count: int) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    """Returns ({case: function that decodes all images}, {case: mean absolute difference from the exact crops})."""
    import numpy as np
    import tensorflow as tf

    from evenkeel.pipeline.build import evaluation_batches
    from evenkeel.pipeline.dataset import load_dataset
    from evenkeel.pipeline.images import crop
    from evenkeel.pipeline.images.decode import LIBJPEG_OPTIONS, decode_crop, decode_region
    from evenkeel.pipeline.index.replica_shard import ReplicaShard

    config = DataConfig(source=source, image_size=512, batch_size=count, shapes=ShapesConfig(size=512, count=20))
    images, *_ = next(iter(evaluation_batches(load_dataset(config).train, config, ReplicaShard(count))))
    large = tf.saturate_cast(tf.image.resize(images, [HEIGHT, WIDTH], "bicubic"), tf.uint8)
    files = [tf.io.encode_jpeg(image, quality=JPEG_QUALITY) for image in large]
    draws = tf.random.stateless_uniform([count, crop.DRAWS_PER_IMAGE], (0, 0))
    windows = crop.random_windows(tf.fill([count], HEIGHT), tf.fill([count], WIDTH), CROP_STRENGTH, draws)
    sizes, shape = (tf.fill([count], HEIGHT), tf.fill([count], WIDTH)), [OUTPUT_SIZE, OUTPUT_SIZE]
    regions, methods = crop.decode_regions(windows, *sizes, tf.constant([shape]))

    def interpolate(image: tf.Tensor, antialias: bool = False) -> tf.Tensor:
        return tf.image.resize(image, shape, antialias=antialias)

    def whole(contents: tf.Tensor, window: tf.Tensor, region: tf.Tensor, method: tf.Tensor) -> tf.Tensor:
        y, x, height, width = tf.unstack(window)
        return tf.io.decode_jpeg(contents, channels=3, **LIBJPEG_OPTIONS)[y : y + height, x : x + width]

    def fused(contents: tf.Tensor, window: tf.Tensor, region: tf.Tensor, method: tf.Tensor) -> tf.Tensor:
        return interpolate(decode_crop(contents, window, True, 3))

    def scaled(contents: tf.Tensor, window: tf.Tensor, region: tf.Tensor, method: tf.Tensor) -> tf.Tensor:
        return decode_region(contents, region, window, method, True, shape, 3)

    def data_set(decode: Callable[..., tf.Tensor]) -> tf.data.Dataset:
        # There is no prefetching, because a buffer would continue to decode during the next case.
        return tf.data.Dataset.from_tensor_slices((files, windows, regions, methods)).map(decode)

    sets = {
        "whole": data_set(lambda *row: interpolate(whole(*row))),
        "fused": data_set(fused),
        "scaled": data_set(scaled),
    }

    def pixels(ds: tf.data.Dataset) -> np.ndarray:
        return np.stack(list(ds.as_numpy_iterator())).astype(np.float64)

    best = pixels(data_set(lambda *row: interpolate(whole(*row), antialias=True)))
    errors = {name: float(np.abs(pixels(ds) - best).mean()) for name, ds in sets.items()}

    def run(ds: tf.data.Dataset) -> Callable[[], object]:
        return lambda: [None for _ in ds]

    return {name: run(ds) for name, ds in sets.items()}, errors


if __name__ == "__main__":
    command.run(main)
