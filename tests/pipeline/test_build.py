"""The input pipeline: any batch at any step, the same pixels for any division of the work, every image exactly once."""

from __future__ import annotations

import collections
import dataclasses
import logging
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from evenkeel.pipeline.augment import chain
from evenkeel.pipeline.augment.geometry import CROP_X_COLUMN
from evenkeel.pipeline.build import evaluation_batches, training_batches
from evenkeel.pipeline.config import AugmentConfig, DataConfig, ShapesConfig
from evenkeel.pipeline.dataset import Dataset, load_dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.images import crop
from evenkeel.pipeline.images.decode import decode_region
from evenkeel.pipeline.index import batch_draws, shuffle
from evenkeel.pipeline.index.index import JPEG, Index
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.reading import decoder, reader
from tests import forked

Batch = tuple[np.ndarray, np.ndarray]  # images, labels
EVERYTHING = AugmentConfig(
    pad_crop=2, random_resized_crop=0.5, flip=0.5, rotation=20, brightness=0.2, contrast=0.2, sharpness=0.5,
    equalize=0.2, posterize=2, noise=4, cutout=0.2, randaugment_ops=2,
)  # fmt: skip
# Of all kinds of random numbers: draws of an image, of a batch's cells and of a step, before and after decoding. The
# tests of the chain show that replicas agree on the others.
SEVERAL = AugmentConfig(pad_crop=2, random_resized_crop=0.5, flip=0.5, brightness=0.2, noise=4, cutout=0.2)


def read_training(
    data: Dataset,
    config: DataConfig,
    count: int,
    replica_shard: ReplicaShard | None = None,
    start_step: int = 0,
    seed: int = 0,
) -> list[Batch]:
    """The first `count` batches."""
    ds = training_batches(data, config, seed, replica_shard or ReplicaShard(config.batch_size), start_step)
    return list(ds.take(count).as_numpy_iterator())


def assert_equal(batches: list[Batch], expected: list[Batch]) -> None:
    assert len(batches) == len(expected) > 0
    for (images, labels), (expected_images, expected_labels) in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(images, expected_images)
        np.testing.assert_array_equal(labels, expected_labels)


def concatenate(batches: list[Batch]) -> Batch:
    return np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches])


def count_images(images: np.ndarray, labels: np.ndarray) -> collections.Counter[tuple[bytes, int]]:
    return collections.Counter((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def encoded_images(index: Index) -> list[bytes]:
    """The encoded image of every row, read from the shards."""
    contents = [pathlib.Path(shard).read_bytes() for shard in index.shards]
    places = zip(*(index.columns[name].tolist() for name in ("shard", "offset", "length")), strict=True)
    return [contents[shard][offset : offset + length] for shard, offset, length in places]


def expected_images(index: Index, rows: list[int], windows: tf.Tensor, config: DataConfig) -> np.ndarray:
    """Windows of upright images, inside of them."""
    files = encoded_images(index)

    def image(row: int, window: tf.Tensor) -> tf.Tensor:
        contents, is_jpeg = tf.constant(files[row]), bool(index.columns["kind"][row] == JPEG)
        height, width = (index.columns[name][row : row + 1] for name in ("height", "width"))
        regions, methods = crop.decode_regions(window[None], height, width, tf.constant([config.image_shape]))
        return decode_region(contents, regions[0], window, methods[0], is_jpeg, config.image_shape, config.channels)

    return np.stack([image(row, window) for row, window in zip(rows, windows, strict=True)])


def sizes(index: Index, rows: list[int]) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.constant(index.columns["height"][rows]), tf.constant(index.columns["width"][rows])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataConfig, Dataset]:
    """A folder of 42 + 14 images in seven formats and many sizes, tall and wide ones."""
    root = tmp_path_factory.mktemp("mixed")
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        ("jpg", "RGB", {"quality": 90}), ("jpg", "L", {}), ("jpg", "CMYK", {}), ("png", "RGB", {}), ("png", "LA", {}),
        ("png", "P", {}), ("webp", "RGBA", {"lossless": True}),
    ]  # fmt: skip
    for number in range(56):
        ending, mode, options = kinds[number % 7]
        height, width = 20 + 5 * (number % 5), 18 + 7 * (number % 4)
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
        path = root / ("train" if number < 42 else "test") / f"class_{number % 3}" / f"{number}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert(mode).save(path, **options)
    config = DataConfig(source=str(root), image_size=16, batch_size=12, augment=SEVERAL)
    return config, load_dataset(config)


@pytest.fixture(scope="module")
def nine_steps(mixed: tuple[DataConfig, Dataset]) -> list[Batch]:
    """Nine consecutive steps, on one thread and one replica."""
    return read_training(mixed[1], dataclasses.replace(mixed[0], threads=1), 9)


@pytest.mark.parametrize("channels", [1, 3])
def test_batches_have_the_documented_shapes_and_types(small: DataConfig, data: Dataset, channels: int) -> None:
    config, replica_shard = dataclasses.replace(small, channels=channels), ReplicaShard(20, replicas=2)
    images, labels = training_batches(data, config, 0, replica_shard).element_spec
    assert images == tf.TensorSpec([10, 16, 16, channels], tf.uint8)
    assert labels == tf.TensorSpec([10], tf.int64)
    images, labels, weights = evaluation_batches(data.validation, config, replica_shard).element_spec
    assert images == tf.TensorSpec([10, 16, 16, channels], tf.uint8)
    assert labels == tf.TensorSpec([10], tf.int64)
    assert weights == tf.TensorSpec([10], tf.float32)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_a_training_batch_is_shuffled_cropped_decoded_and_augmented(
    mixed: tuple[DataConfig, Dataset], channels: int
) -> None:
    config, data = dataclasses.replace(mixed[0], channels=channels, augment=EVERYTHING), mixed[1]
    replica_shard, step, seed = ReplicaShard(12), 4, 7
    ((images, labels),) = read_training(data, config, 1, start_step=step, seed=seed)
    element = tf.constant(step, tf.int64)
    # Shuffling, cropping and augmenting use the seeds 3 seed, 3 seed + 1 and 3 seed + 2.
    rows = shuffle.shuffled_rows(replica_shard.positions(element), len(data.train), 3 * seed).numpy().tolist()
    draws = batch_draws.uniforms(3 * seed + 1, element, replica_shard, crop.DRAWS_PER_IMAGE)
    windows = crop.random_windows(*sizes(data.train, rows), 0.5, draws)
    cropped = expected_images(data.train, rows, windows, config)
    change = chain.build_augmentation(config.augment)
    assert change is not None
    draws = batch_draws.uniforms(3 * seed + 2, element, replica_shard, change.draw_columns).numpy()
    # The horizontal offset of the crop is the same for a whole cell of the batch.
    offsets = batch_draws.permutation(3 * seed + 2, element, replica_shard, 5).numpy()[np.arange(12) * 5 // 12]
    draws[:, CROP_X_COLUMN] = (offsets + 0.5) / 5
    key = shuffle.hash_words(3 * seed + 2, tf.constant(-1 - step, tf.int64), words=2)
    expected = change(tf.constant(cropped), draws, key)
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(labels, data.train.columns["label"][rows])


def test_without_random_crops_training_sees_the_central_square(mixed: tuple[DataConfig, Dataset]) -> None:
    config, data = dataclasses.replace(mixed[0], augment=AugmentConfig()), mixed[1]
    ((images, _),) = read_training(data, config, 1)
    rows = shuffle.shuffled_rows(tf.range(12, dtype=tf.int64), len(data.train), 0).numpy().tolist()
    windows = crop.view_windows(*sizes(data.train, rows), "center", (16, 16))
    np.testing.assert_array_equal(images, expected_images(data.train, rows, windows, config))


@pytest.mark.slow
def test_the_batch_of_any_step_can_be_built_alone_with_any_parallelism(
    mixed: tuple[DataConfig, Dataset], nine_steps: list[Batch]
) -> None:
    config, data = dataclasses.replace(mixed[0], threads=2), mixed[1]
    assert_equal(read_training(data, config, 9), nine_steps)
    assert_equal(read_training(data, config, 4, start_step=3), nine_steps[3:7])
    assert_equal(read_training(data, config, 1, start_step=8), nine_steps[8:])


def test_a_batch_is_the_same_if_its_images_are_decoded_in_parallel(
    mixed: tuple[DataConfig, Dataset], nine_steps: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "images_in_parallel", lambda config, replica_shard: 5)
    assert_equal(read_training(mixed[1], dataclasses.replace(mixed[0], threads=2), 9), nine_steps)


@pytest.mark.parametrize(
    ("threads", "batch", "budget", "expected"),
    [
        (2, 64, 512, 1),
        (64, 64, 512, 5),  # 13 batches of 9.6 MB
        (64, 1024, 512, 64),  # one batch of 154 MB, although there is no room for four
        (64, 64, 4096, 1),
        (3, 512, 700, 2),  # two batches
    ],
)
def test_images_of_a_batch_are_decoded_in_parallel_if_there_is_no_room_for_more_batches(
    threads: int, batch: int, budget: int, expected: int
) -> None:
    config = DataConfig(image_size=224, batch_size=batch, threads=threads, ram_budget_mb=budget)
    assert decoder.images_in_parallel(config, ReplicaShard(batch)) == expected


def test_a_late_step_is_built_without_the_steps_before(small: DataConfig, data: Dataset) -> None:
    late = 10**13  # counting so many steps would take days
    ((images, labels),) = read_training(data, small, 1, start_step=late)
    rows = shuffle.shuffled_rows(tf.range(20 * late, 20 * late + 20), 300, 0).numpy().tolist()
    windows = crop.view_windows(*sizes(data.train, rows), "center", (16, 16))
    np.testing.assert_array_equal(images, expected_images(data.train, rows, windows, small))
    np.testing.assert_array_equal(labels, data.train.columns["label"][rows])


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "local"), [(1, 4), (2, 2), (3, 1)])
def test_the_batches_of_all_replicas_and_workers_together_equal_the_global_batch(
    mixed: tuple[DataConfig, Dataset], nine_steps: list[Batch], workers: int, local: int
) -> None:
    parts = [
        read_training(
            mixed[1], mixed[0], 3 * local, ReplicaShard(12, workers * local, worker * local, local), start_step=5
        )
        for worker in range(workers)
    ]
    steps = [[batch for part in parts for batch in part[step * local : (step + 1) * local]] for step in range(3)]
    assert_equal([concatenate(step) for step in steps], nine_steps[5:8])


def test_another_seed_changes_order_and_augmentations(
    mixed: tuple[DataConfig, Dataset], nine_steps: list[Batch]
) -> None:
    config, data = dataclasses.replace(mixed[0], batch_size=42), mixed[1]
    ((images, labels),) = read_training(data, config, 1, seed=1)
    epoch, epoch_labels = concatenate(nine_steps)
    assert (labels != epoch_labels[:42]).any()
    assert sorted(labels) == sorted(epoch_labels[:42])
    assert not count_images(images, labels) & count_images(epoch, epoch_labels)


def test_each_epoch_augments_an_image_differently(nine_steps: list[Batch]) -> None:
    images, labels = concatenate(nine_steps)  # 108 images: more than two epochs
    first, second = count_images(images[:42], labels[:42]), count_images(images[42:84], labels[42:84])
    assert sorted(labels[:42]) == sorted(labels[42:84])
    assert not first & second


def test_streaming_shows_the_same_images_per_epoch_as_mapping(mixed: tuple[DataConfig, Dataset]) -> None:
    plain = dataclasses.replace(mixed[0], augment=AugmentConfig(), batch_size=14, shuffle_buffer=10)
    epochs = {}
    for kind in ("mapped", "streaming"):
        batches = read_training(mixed[1], dataclasses.replace(plain, reader=kind), 6)
        epochs[kind] = [count_images(*concatenate(batches[:3])), count_images(*concatenate(batches[3:]))]
    assert epochs["mapped"][0].total() == len(epochs["mapped"][0]) == 42
    assert epochs["streaming"] == epochs["mapped"] == [epochs["mapped"][0]] * 2


@pytest.mark.slow
def test_streamed_images_are_augmented(mixed: tuple[DataConfig, Dataset]) -> None:
    config = dataclasses.replace(mixed[0], reader="streaming", batch_size=42, shuffle_buffer=10)
    plain = dataclasses.replace(config, augment=AugmentConfig())
    (first,), (untouched,) = read_training(mixed[1], config, 1), read_training(mixed[1], plain, 1)
    np.testing.assert_array_equal(first[1], untouched[1])
    assert not count_images(*first) & count_images(*untouched)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mapped", "streaming"])
@pytest.mark.parametrize(("workers", "local"), [(1, 1), (1, 2), (2, 1)])
def test_evaluation_shows_every_image_exactly_once(
    mixed: tuple[DataConfig, Dataset], kind: str, workers: int, local: int
) -> None:
    config, index = dataclasses.replace(mixed[0], reader=kind, batch_size=8), mixed[1].validation
    parts = [
        list(
            evaluation_batches(
                index, config, ReplicaShard(8, workers * local, worker * local, local)
            ).as_numpy_iterator()
        )
        for worker in range(workers)
    ]
    assert {len(part) for part in parts} == {2 * local}  # 14 examples in steps of 8
    in_order = [part[step * local + replica] for step in range(2) for part in parts for replica in range(local)]
    images, labels, weights = (np.concatenate(column) for column in zip(*in_order, strict=True))
    assert weights.tolist() == [1.0] * 14 + [0.0] * 2
    rows = list(range(14))
    windows = crop.view_windows(*sizes(index, rows), "center", (16, 16))
    np.testing.assert_array_equal(images[:14], expected_images(index, rows, windows, config))
    np.testing.assert_array_equal(labels[:14], index.columns["label"])
    assert labels[14:].min() >= 0  # a loss over them must be finite


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["mapped", "streaming"])
def test_padding_is_cropped_by_the_size_of_its_own_image(mixed: tuple[DataConfig, Dataset], reader: str) -> None:
    """With the largest image and a smaller one of another kind, either pads: the window of neither fits the other."""
    config, data = mixed
    area = data.validation.columns["height"].astype(int) * data.validation.columns["width"]
    ends = np.array([area.argmax(), area.argmin()])
    assert area.max() > 1.5 * area.min()
    for rows in (ends, ends[::-1]):
        subset = data.validation.take(rows)
        batches = evaluation_batches(subset, dataclasses.replace(config, batch_size=7, reader=reader), ReplicaShard(7))
        images, _, weights = next(iter(batches))
        assert weights.numpy().sum() == 2
        real_images = images[:2].numpy()
        for image in images[2:].numpy():
            assert (image == real_images).all(axis=(1, 2, 3)).any()


def test_evaluation_crops_the_configured_fraction(mixed: tuple[DataConfig, Dataset]) -> None:
    config, index = dataclasses.replace(mixed[0], eval_crop=0.6), mixed[1].validation
    images = next(iter(evaluation_batches(index, config, ReplicaShard(14))))[0]
    rows = list(range(14))
    windows = crop.view_windows(*sizes(index, rows), "center", (16, 16), 0.6)
    np.testing.assert_array_equal(images, expected_images(index, rows, windows, config))


def test_evaluation_is_never_augmented(mixed: tuple[DataConfig, Dataset]) -> None:
    config, index = mixed[0], mixed[1].validation
    plain = dataclasses.replace(config, augment=AugmentConfig())
    (images, *_), (expected, *_) = (next(iter(evaluation_batches(index, c, ReplicaShard(14)))) for c in (config, plain))
    np.testing.assert_array_equal(images, expected)


def test_remote_shards_cannot_be_mapped(small: DataConfig, data: Dataset) -> None:
    remote = dataclasses.replace(data.train, shards=tuple(f"gs://bucket/{path}" for path in data.train.shards))
    config = dataclasses.replace(small, reader="mapped")
    with pytest.raises(UsageError, match=r"^data\.reader=mapped needs local shards on Linux, but gs://bucket/"):
        training_batches(dataclasses.replace(data, train=remote), config, 0, ReplicaShard(20))
    assert not reader.use_memory_map(small, remote)


def test_the_tf_data_options_are_those_of_the_config(small: DataConfig, data: Dataset) -> None:
    config = dataclasses.replace(small, threads=3, ram_budget_mb=64)
    for ds in (
        training_batches(data, config, 0, ReplicaShard(20)),
        evaluation_batches(data.validation, config, ReplicaShard(20)),
    ):
        options = ds.options()
        assert options.deterministic
        assert options.threading.private_threadpool_size == 3
        assert options.autotune.ram_budget == 64 << 20


@pytest.mark.parametrize("channels", [3, 1])
def test_normalization_constants_are_those_of_the_training_pixels(small: DataConfig, channels: int) -> None:
    """Within the tolerance that the JPEG decoder's settings need; the index's own test on lossless images is exact."""
    config = dataclasses.replace(small, channels=channels, train_split="train[:50]")
    loaded = load_dataset(config)
    windows = tf.constant([[0, 0, 16, 16]] * 50)
    pixels = expected_images(loaded.train, list(range(50)), windows, config).astype(np.float64)
    np.testing.assert_allclose(loaded.mean, pixels.mean(axis=(0, 1, 2)), atol=0.5)
    np.testing.assert_allclose(loaded.std, pixels.std(axis=(0, 1, 2)), rtol=0.05)


def test_without_normalization_the_constants_are_0_and_1(small: DataConfig) -> None:
    loaded = load_dataset(dataclasses.replace(small, normalize=False, channels=1))
    assert (loaded.mean, loaded.std) == ([0.0], [1.0])


def test_parts_of_one_split_have_no_row_in_common(small: DataConfig) -> None:
    loaded = load_dataset(dataclasses.replace(small, train_split="train[:80%]", validation_split="train[80%:]"))
    assert (len(loaded.train), len(loaded.validation)) == (240, 60)
    assert not set(loaded.train.columns["record"]) & set(loaded.validation.columns["record"])


def test_the_data_set_has_the_documented_fields(small: DataConfig, data: Dataset) -> None:
    assert (len(data.train), len(data.validation)) == (300, 60)
    assert len(data.classes) == 10
    assert data.skipped == ()


CORRUPT = ShapesConfig(size=16, count=60, corrupt=0.2)


def test_corrupt_images_are_skipped_counted_and_named(small: DataConfig, caplog: pytest.LogCaptureFixture) -> None:
    config = dataclasses.replace(small, shapes=CORRUPT, max_corrupt_fraction=0.2)
    with caplog.at_level(logging.WARNING):
        loaded = load_dataset(config)
    assert (len(loaded.train), len(loaded.validation)) == (48, 12)
    assert len(loaded.skipped) == 12
    assert all(
        line.startswith("train: train_0000") and line.endswith("it is a damaged or truncated JPEG")
        for line in loaded.skipped
    )
    counted = "12 of 60 images of split train are skipped because they are corrupt: 12 times: it is a damaged or"
    assert f"{counted} truncated JPEG" in caplog.messages
    named = [message for message in caplog.messages if message.startswith("skipped in split train: train_0000")]
    assert len(named) == 10
    images, labels = concatenate(read_training(loaded, dataclasses.replace(config, batch_size=48), 1))
    assert np.bincount(labels, minlength=10).tolist() == np.bincount(loaded.train.columns["label"]).tolist()
    assert images.shape == (48, 16, 16, 3)


def test_too_many_corrupt_images_are_an_error_with_both_numbers(small: DataConfig) -> None:
    config = dataclasses.replace(small, shapes=CORRUPT, max_corrupt_fraction=0.19)
    with pytest.raises(UsageError) as raised:
        load_dataset(config)
    message = str(raised.value)
    assert message.startswith(
        "12 of 60 images of split 'train' are corrupt, more than data.max_corrupt_fraction (0.19) allows;"
        " the first is train_0000"
    )
    assert message.endswith(": it is a damaged or truncated JPEG. Repair them or raise data.max_corrupt_fraction.")


def test_a_split_without_any_usable_image_is_refused(tmp_path: pathlib.Path) -> None:
    for path in ("train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(b"no image")
    with pytest.raises(UsageError, match="no image of split 'train' can be decoded; the first corrupt one is train/"):
        load_dataset(DataConfig(source=str(tmp_path), max_corrupt_fraction=1.0))


@pytest.mark.parametrize("split", ["train_split", "validation_split"])
def test_a_split_that_does_not_exist_is_named(small: DataConfig, split: str) -> None:
    with pytest.raises(UsageError, match=r"^split 'trian' does not exist in .*, which has train \(300\), validation"):
        load_dataset(dataclasses.replace(small, **{split: "trian"}))  # type: ignore[arg-type]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path: pathlib.Path) -> None:
    peaks = {}
    for shards in (4, 40):
        directory = tmp_path / str(shards)
        directory.mkdir()
        result = forked.run("tests.passes", str(directory), str(shards))
        assert result.returncode == 0, result.stderr
        peaks[shards] = int(result.stdout.split()[-1])
    assert peaks[40] < 1.05 * peaks[4]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [{"cache": "none"}, {"cache": "memory"}])
@pytest.mark.parametrize("crop", [0.0, 0.5])
def test_a_flip_alone_mirrors_a_fraction_of_the_images_once(
    small: DataConfig, data: Dataset, kind: dict[str, str], crop: float
) -> None:
    def first_images(flip: float) -> np.ndarray:
        config = dataclasses.replace(small, **kind, augment=AugmentConfig(flip=flip, random_resized_crop=crop))
        images, _ = next(iter(training_batches(data, config, 0, ReplicaShard(100))))
        return images.numpy()

    plain = first_images(0.0)
    np.testing.assert_array_equal(first_images(1.0), plain[:, :, ::-1])
    some = first_images(0.5)
    flipped = np.array([np.array_equal(a, b[:, ::-1]) for a, b in zip(some, plain, strict=True)])
    same = np.array([np.array_equal(a, b) for a, b in zip(some, plain, strict=True)])
    assert (flipped ^ same).all()
    assert 30 < flipped.sum() < 70
