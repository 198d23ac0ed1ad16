"""Measures the CPU time of each augmentation, compared with the decoding of an image of the same size.

    python -m benchmarks.speed.augment --output=result.json
    python -m benchmarks.speed.augment --source_224=/data/photographs --source_32=/data/cifar10

Each augmentation runs alone, on all images of batches of decoded pixels. Decoding runs in a tf.data map, as in
training. The cases alternate. CPU time is the user and system time of the process, summed over all threads. The case
`all together` is one chain of all augmentations except RandAugment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from absl import flags

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.timing import measure_interleaved, paired_ratio
from evenkeel.pipeline.config import AugmentConfig, DataConfig, ShapesConfig
from evenkeel.pipeline.errors import require

FLAGS = flags.FLAGS
BATCH_SIZES = {32: 128, 224: 32}
# Side of the rendered images: 32 pixels as in CIFAR, and 436 pixels, which gives about 0.2 megapixels as in ImageNet.
RENDERED_SIDES = {32: 32, 224: 436}
CASES = {
    "flip": AugmentConfig(flip=0.5),
    "pad_crop": AugmentConfig(pad_crop=4),
    "rotation": AugmentConfig(rotation=15),
    "rotation, translation, shear, zoom, flip": AugmentConfig(
        rotation=15, translation=0.1, shear=0.1, zoom=0.2, flip=0.5
    ),
    "brightness, contrast": AugmentConfig(brightness=0.2, contrast=0.2),
    "brightness, contrast, saturation, hue": AugmentConfig(brightness=0.2, contrast=0.2, saturation=0.4, hue=0.1),
    "sharpness": AugmentConfig(sharpness=0.5),
    "equalize": AugmentConfig(equalize=1.0),
    "posterize": AugmentConfig(posterize=4),
    "noise": AugmentConfig(noise=8),
    "cutout": AugmentConfig(cutout=0.25),
    "randaugment, 1 operation": AugmentConfig(randaugment_ops=1),
    "randaugment, 2 operations": AugmentConfig(randaugment_ops=2),
    "all together": AugmentConfig(
        pad_crop=4, rotation=15, translation=0.1, shear=0.1, zoom=0.2, flip=0.5, brightness=0.2, contrast=0.2,
        saturation=0.4, hue=0.1, sharpness=0.5, equalize=0.1, posterize=4, noise=8, cutout=0.25,
    ),
}  # fmt: skip

flags.DEFINE_integer("rounds", 9, "samples of each case")
flags.DEFINE_integer("batches", 4, "batches in a sample")
flags.DEFINE_string("source_32", "shapes", "source of the images of 32 pixels, like --data.source of training")
flags.DEFINE_string("source_224", "shapes", "source of the images that are decoded to 224 pixels")
flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")


def main(argv: list[str]) -> int:
    for name, value in (("rounds", FLAGS.rounds), ("batches", FLAGS.batches)):
        require(value >= 1, f"--{name} ({value}) must be at least 1.")
    measured, lines = [], [("pixels", "case", "CPU us per image", "ratio to decoding", "95% interval")]
    for size, source in ((32, FLAGS.source_32), (224, FLAGS.source_224)):
        shapes = ShapesConfig(size=RENDERED_SIDES[size], count=10 * BATCH_SIZES[size])
        cases = build_cases(
            DataConfig(source=source, image_size=size, batch_size=BATCH_SIZES[size], shapes=shapes), FLAGS.batches
        )
        samples = measure_interleaved(cases, FLAGS.rounds, warmup=2)
        images = FLAGS.batches * BATCH_SIZES[size]
        cpu = {
            name: [sample.cpu_seconds / images * 1e6 for sample in case_samples]
            for name, case_samples in samples.items()
        }
        for name, values in cpu.items():
            ratio = paired_ratio(values, cpu["decode"])
            result = results.Result("augment", f"{name}/{size}", "cpu_us_per_image", "us", "lower", tuple(values))
            share = tuple(a / b for a, b in zip(values, cpu["decode"], strict=True))
            measured += [result, results.Result("augment", f"{name}/{size}", "share_of_decoding", "1", "lower", share)]
            low, high = ratio.ci95
            lines.append((str(size), name, f"{result.median:.1f}", f"{ratio.median:.3f}", f"{low:.3f} .. {high:.3f}"))
    print(results.align_columns(lines))
    if FLAGS.output:
        results.write(FLAGS.output, measured, results.environment())
    return 0


def build_cases(config: DataConfig, batches: int) -> dict[str, Callable[[], object]]:
    """Returns {case: function that processes the first `batches` training batches of `config`}; `decode` is first."""
    import tensorflow as tf

    from evenkeel.pipeline import build
    from evenkeel.pipeline.augment import chain
    from evenkeel.pipeline.dataset import load_dataset
    from evenkeel.pipeline.images import crop
    from evenkeel.pipeline.images.decode import decode_crop
    from evenkeel.pipeline.images.scaling import PLAIN, scale
    from evenkeel.pipeline.index import batch_draws, shuffle
    from evenkeel.pipeline.index.index import JPEG
    from evenkeel.pipeline.index.replica_shard import ReplicaShard

    replica_shard, columns = ReplicaShard(config.batch_size), (data := load_dataset(config)).train.columns
    training = build.training_chain(data.train, dataclasses.replace(config, cache="none"), 0, replica_shard)
    assert training.source is not None
    read_bytes = training.source.read_bytes
    encoded = training.read.take(batches).map(lambda element, rows, payloads: (rows, payloads)).unbatch()
    encoded = encoded.map(lambda row, payload: (row, read_bytes(payload)))
    rows, contents = zip(*encoded.as_numpy_iterator(), strict=True)
    height, width, kind = (columns[name][list(rows)] for name in ("height", "width", "kind"))
    is_jpeg = kind == JPEG
    # One thread decodes, and all images are read: a prefetch buffer would continue to decode during the next case.
    files = tf.data.Dataset.from_tensor_slices(
        (list(contents), crop.view_windows(height, width, "center", config.image_shape), is_jpeg)
    )
    shape, channels, only = config.image_shape, config.channels, bool(is_jpeg[0]) if len(set(is_jpeg)) == 1 else None

    def decode(file: tf.Tensor, window: tf.Tensor, kind: tf.Tensor) -> tf.Tensor:
        return scale(decode_crop(file, window, kind if only is None else only, channels), shape, PLAIN)

    decoded = files.map(decode).batch(config.batch_size)
    images = next(iter(decoded))

    def decode_all() -> None:
        for _ in decoded:
            pass

    def build_case(augment: AugmentConfig) -> Callable[[], object]:
        stage = chain.build_augmentation(augment)
        assert stage is not None

        @tf.function(input_signature=[tf.TensorSpec(images.shape, tf.uint8), tf.TensorSpec([], tf.int64)])
        def step(images: tf.Tensor, element: tf.Tensor) -> tf.Tensor:
            key = shuffle.hash_words(1, element, words=2)
            return stage(images, batch_draws.uniforms(0, element, replica_shard, stage.draw_columns), key)

        def run() -> None:
            for element in range(batches):
                step(images, tf.constant(element, tf.int64))

        return run

    return {"decode": decode_all, **{name: build_case(augment) for name, augment in CASES.items()}}


if __name__ == "__main__":
    command.run(main)
