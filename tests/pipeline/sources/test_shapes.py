"""The synthetic data set: the same images every time, and an exact number of defects."""

import contextlib
import dataclasses
import io
import logging
import os
import pathlib
import tempfile
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from evenkeel.pipeline.config import ShapesConfig
from evenkeel.pipeline.sources import shapes
from tests import forked

CLEAN = ShapesConfig(size=16, count=200)
DIRTY = ShapesConfig(size=16, count=200, outliers=0.3, label_noise=0.3, unnormalised=0.3, imbalance=5.0, corrupt=0.3)
Split = dict[str, tuple[bytes, int]]  # file name -> JPEG, label


def read(directory: str, split: str) -> Split:
    """A prepared split as TFDS reads it."""
    builder = tfds.builder_from_directory(directory)
    dataset = builder.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    return {e["filename"].decode(): (e["image"], int(e["label"])) for e in tfds.as_numpy(dataset)}


def pixels(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def forbid(*args: object) -> np.ndarray:
    raise AssertionError("rendered again")


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Split]:
    """A function that returns the training split of CLEAN with changed options."""
    cache = str(tmp_path_factory.mktemp("shapes"))
    return lambda **dirt: read(shapes.prepare(dataclasses.replace(CLEAN, **dirt), cache), "train")


def changed_names(clean: Split, dirty: Split, part: int) -> list[str]:
    """Names whose JPEG (part 0) or label (part 1) differs; both splits must have the same names."""
    assert clean.keys() == dirty.keys()
    return [name for name in clean if clean[name][part] != dirty[name][part]]


def test_tfds_opens_the_data_set(tmp_path: pathlib.Path) -> None:
    directory = shapes.prepare(CLEAN, str(tmp_path))
    builder = tfds.builder_from_directory(directory)
    assert builder.info.features["label"].names == list(shapes.CLASSES)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 200, "validation": 40}
    assert builder.info.file_format == tfds.core.FileFormat.TFRECORD
    example = next(iter(tfds.as_numpy(builder.as_dataset(split="validation"))))
    assert example["image"].shape == (16, 16, 3)
    assert example["filename"].startswith(b"validation_0000")
    train = read(directory, "train")
    assert train.keys() == {f"train_{row:06d}.jpg" for row in range(200)}
    assert Counter(label for _, label in train.values()) == dict.fromkeys(range(10), 20)
    stored = dict(shapes._generate(CLEAN, "train"))
    assert all(train[name][0] == example["image"] for name, example in stored.items())  # not encoded a second time


def test_a_small_data_set_has_every_class_in_validation(tmp_path: pathlib.Path) -> None:
    directory = shapes.prepare(ShapesConfig(size=8, count=20), str(tmp_path))
    assert sorted(label for _, label in read(directory, "validation").values()) == list(range(10))


@pytest.mark.slow
def test_images_depend_only_on_the_seed(tmp_path: pathlib.Path) -> None:
    one, two = (shapes.prepare(CLEAN, str(tmp_path / place)) for place in "ab")
    other = shapes.prepare(dataclasses.replace(CLEAN, seed=1), str(tmp_path / "a"))
    for split in ("train", "validation"):
        assert read(one, split) == read(two, split)
        images, others = read(one, split), read(other, split)
        assert len(changed_names(images, others, 0)) == len(images)
    train, validation = read(one, "train"), read(one, "validation")
    jpegs = {jpeg for jpeg, _ in (train | validation).values()}
    assert len(jpegs) == len(train) + len(validation)  # no image twice, none in both splits


def test_defects_depend_only_on_the_seed() -> None:
    assert list(shapes._generate(DIRTY, "train")) == list(shapes._generate(DIRTY, "train"))
    noisy = dataclasses.replace(CLEAN, label_noise=0.3)
    first, second = (dict(shapes._generate(dataclasses.replace(noisy, seed=seed), "train")) for seed in (0, 1))
    assert [e["label"] for e in first.values()] != [e["label"] for e in second.values()]


def test_a_second_call_renders_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = shapes.prepare(CLEAN, str(tmp_path))
    monkeypatch.setattr(shapes, "render", forbid)
    assert shapes.prepare(dataclasses.replace(CLEAN), str(tmp_path)) == first
    with pytest.raises(AssertionError, match="rendered again"):
        shapes.prepare(dataclasses.replace(CLEAN, seed=1), str(tmp_path))


def prepare_and_die(directory: str) -> None:
    """Kills its own process in the middle of the validation split."""
    images, render = iter(range(220)), shapes.render
    shapes.render = lambda *given: render(*given) if next(images) < 210 else os._exit(9)
    shapes.prepare(CLEAN, directory)


def test_a_killed_preparation_starts_anew(tmp_path: pathlib.Path) -> None:
    killed = forked.run(prepare_and_die, str(tmp_path))
    assert killed.returncode == 9, killed.stderr
    assert list(tmp_path.rglob("*.tfrecord*")), "killed before anything was written: this test tests nothing"
    directory = shapes.prepare(CLEAN, str(tmp_path))
    assert (len(read(directory, "train")), len(read(directory, "validation"))) == (200, 40)


def test_what_a_killed_preparation_leaves_in_the_cache_is_removed(cache: pathlib.Path) -> None:
    assert forked.run(prepare_and_die, str(cache)).returncode == 9
    assert list(cache.rglob("incomplete.*")), "killed before anything was written: this test tests nothing"
    shapes.prepare(CLEAN, str(cache))
    assert list(cache.rglob("incomplete.*")) == []


def prepare_and_count(directory: str) -> None:
    """Prints the directory, and how many images this process has rendered."""
    calls, render = [], shapes.render
    shapes.render = lambda *given: calls.append(given) or render(*given)
    print(shapes.prepare(CLEAN, directory), len(calls))


@pytest.mark.slow
def test_only_one_of_several_processes_renders_a_data_set(tmp_path: pathlib.Path) -> None:
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(3)]
        processes = [forked.start(prepare_and_count, str(tmp_path), out=file) for file in files]
        outputs = []
        for process, file in zip(processes, files, strict=True):
            process.join(120)
            file.seek(0)
            out = file.read()
            assert process.exitcode == 0, out
            outputs.append(out.splitlines()[-1].split())
    assert len({directory for directory, _ in outputs}) == 1
    assert sorted(int(calls) for _, calls in outputs) == [0, 0, 240]


def test_a_disk_error_is_raised(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> np.ndarray:
        raise OSError("No space left on device")

    monkeypatch.setattr(shapes, "render", full)
    with pytest.raises(OSError, match="No space left"):
        shapes.prepare(CLEAN, str(tmp_path))


def test_every_field_changes_the_name() -> None:
    config = ShapesConfig()
    assert shapes.config_name(config) == "size32_count6000_quality90_seed0"
    others = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for more in (1,) if isinstance(value, int) else (0.125, 0.12500000001):
            others.append(dataclasses.replace(config, **{field.name: value + more}))
    assert len({shapes.config_name(other) for other in [config, *others]}) == 1 + 4 + 2 * 5
    assert shapes.config_name(ShapesConfig(imbalance=2)) == shapes.config_name(ShapesConfig(imbalance=2.0))


def test_the_default_configuration_is_the_plain_tfds_name(tmp_path: pathlib.Path) -> None:
    builder = tfds.builder("shapes", data_dir=str(tmp_path))
    assert builder.builder_config.shapes == ShapesConfig()


def test_outliers_are_black_white_and_noise(train: Callable[..., Split]) -> None:
    clean, dirty = train(), train(outliers=0.15)
    names = changed_names(clean, dirty, 0)
    images = [pixels(dirty[name][0]) for name in names]
    kinds = Counter(
        "black" if image.max() == 0 else "white" if image.min() == 255 else "noise" if image.std() > 45 else "?"
        for image in images
    )
    assert kinds == {"black": 10, "white": 10, "noise": 10}
    assert not changed_names(clean, dirty, 1)
    assert len({dirty[name][0] for name in names}) == 12  # every noise image is different


def test_label_noise_is_spread_over_the_other_classes(train: Callable[..., Split]) -> None:
    clean, dirty = train(), train(label_noise=0.27)
    names = changed_names(clean, dirty, 1)
    assert len(names) == 54
    offsets = Counter((dirty[name][1] - clean[name][1]) % 10 for name in names)
    assert offsets == dict.fromkeys(range(1, 10), 6)
    assert len({clean[name][1] for name in names}) == 10
    assert not changed_names(clean, dirty, 0)


def test_unnormalised_images_are_sixteen_times_too_dark(train: Callable[..., Split]) -> None:
    clean, dirty = train(), train(unnormalised=0.1)
    names = changed_names(clean, dirty, 0)
    assert len(names) == 20
    for name in names:
        bright, dark = pixels(clean[name][0]).mean(), pixels(dirty[name][0]).mean()
        assert dark == pytest.approx(bright / 16, abs=1.0)
        assert bright > 30
    assert not changed_names(clean, dirty, 1)


@pytest.mark.slow
def test_imbalance_makes_class_sizes_a_geometric_series(tmp_path: pathlib.Path) -> None:
    directory = shapes.prepare(ShapesConfig(size=8, count=1500, imbalance=16), str(tmp_path))
    counts = Counter(label for _, label in read(directory, "train").values())
    sizes = np.array([counts[label] for label in range(10)])
    assert sizes.sum() == 1500
    assert sizes[0] / sizes[9] == pytest.approx(16, rel=0.05)
    np.testing.assert_allclose(sizes[1:] / sizes[:-1], 16 ** (-1 / 9), rtol=0.05)
    assert Counter(label for _, label in read(directory, "validation").values()) == dict.fromkeys(range(10), 30)


@pytest.mark.parametrize(("count", "imbalance"), [(20, 1.0), (25, 1.0), (20, 1e6), (999, 7.3), (100, 50.0)])
def test_class_sizes_add_up_and_no_class_is_empty(count: int, imbalance: float) -> None:
    sizes = np.bincount(shapes._draw_labels(count, imbalance, np.random.default_rng(0)), minlength=10)
    assert sizes.sum() == count
    assert sizes.min() >= 1
    assert list(sizes) == sorted(sizes, reverse=True) or imbalance == 1
    assert imbalance > 1 or np.ptp(sizes) <= 1


@pytest.mark.parametrize(("size", "quality"), [(8, 90), (16, 1), (16, 100), (96, 90)])
def test_only_corrupt_files_fail_to_decode(size: int, quality: int, train: Callable[..., Split]) -> None:
    shape = {"size": size, "quality": quality, "count": 40}
    clean, dirty = train(**shape), train(**shape, corrupt=0.3)
    names = changed_names(clean, dirty, 0)
    assert len(names) == 12
    for name, (jpeg, _) in dirty.items():
        if name in names:
            assert clean[name][0].startswith(jpeg)
            with pytest.raises(tf.errors.InvalidArgumentError):
                tf.io.decode_jpeg(jpeg)
            with pytest.raises(tf.errors.InvalidArgumentError):  # no part of it decodes either
                tf.image.decode_and_crop_jpeg(jpeg, [0, 0, 1, 1])
        else:
            assert tf.io.decode_jpeg(jpeg).shape == (size, size, 3)


def test_validation_has_no_defects(tmp_path: pathlib.Path) -> None:
    clean, dirty = (shapes.prepare(config, str(tmp_path)) for config in (CLEAN, DIRTY))
    assert read(dirty, "validation") == read(clean, "validation")
    assert read(dirty, "train") != read(clean, "train")


def test_the_label_changes_only_the_shape() -> None:
    images = [shapes.render(label, 32, np.random.default_rng(5)) for label in range(10)]
    for first in range(10):
        np.testing.assert_array_equal(images[first], shapes.render(first, 32, np.random.default_rng(5)))
        for second in range(first):
            differs = (images[first] != images[second]).any(axis=2)
            assert 10 < differs.sum() < 700  # the shape, not the surroundings


def test_the_shape_stands_out_from_its_background(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = range(200)
    with_shape = [shapes.render(0, 32, np.random.default_rng(seed)) for seed in seeds]
    monkeypatch.setitem(shapes.OUTLINES, "circle", (np.full((3, 2), 9.0),))  # outside the image
    for seed, image in zip(seeds, with_shape, strict=True):
        empty = shapes.render(0, 32, np.random.default_rng(seed))
        inside = (image != empty).any(axis=2)
        assert inside.sum() > 120, seed
        contrast = np.abs((image.astype(float) - empty) @ shapes.LUMA_WEIGHTS)[inside]
        assert np.median(contrast) > 40, seed


@pytest.mark.parametrize("size", [64, 96, 130])
def test_a_larger_image_shows_the_same_scene(size: int) -> None:
    for label in range(10):
        small, large = (shapes.render(label, side, np.random.default_rng([7, label])) for side in (32, size))
        assert large.shape == (size, size, 3)
        assert large.dtype == np.uint8
        shrunk = np.asarray(Image.fromarray(large).resize((32, 32), Image.Resampling.BOX), float)
        assert np.abs(shrunk - small).mean() < 16


@pytest.mark.parametrize("size", [8, 9, 33, 600])
def test_any_size_renders(size: int) -> None:
    image = shapes.render(3, size, np.random.default_rng(0))
    assert image.shape == (size, size, 3)
    assert image.std() > 10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
def test_a_linear_model_cannot_separate_the_classes(tmp_path: pathlib.Path) -> None:
    from sklearn.linear_model import LogisticRegression

    directory = shapes.prepare(ShapesConfig(count=2000), str(tmp_path))

    def arrays(split: str) -> tuple[np.ndarray, np.ndarray]:
        jpegs, labels = zip(*read(directory, split).values(), strict=True)
        images = np.stack([pixels(jpeg).ravel() for jpeg in jpegs])
        return images.astype(np.float32) / 255 - 0.5, np.array(labels)

    model = LogisticRegression(max_iter=20).fit(*arrays("train"))  # at 20 iterations it overfits
    accuracy = model.score(*arrays("validation"))
    assert 0.14 < accuracy <= 0.5  # more than chance, far less than a CNN's 0.99


def test_the_first_preparation_logs_no_warning(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        shapes.prepare(CLEAN, str(tmp_path))
    assert caplog.messages == []
