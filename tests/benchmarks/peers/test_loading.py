"""The data that the loaders read, the code that they share, and a race of the loaders that need no environment."""

import importlib
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from evenkeel.benchmarks.peers import environments, race, sources, tasks
from evenkeel.benchmarks.peers.race import Worker, check_equal_work, find_dissimilar
from evenkeel.benchmarks.peers.tasks import PEERS_DIRECTORY, TASK_FILES, Task, compare_peers
from evenkeel.pipeline.config import ShapesConfig
from evenkeel.pipeline.errors import UsageError

sys.path.append(str(TASK_FILES))  # where the loaders' files find the modules that they import by name
loading, loading_tf = (importlib.import_module(name) for name in ("loading", "loading_tf"))
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def small_sources(tmp_path, monkeypatch):
    """Sources of some tens of images, in the test's own cache."""
    monkeypatch.setenv("EVENKEEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "MIN_FILES", 128)
    shapes = {"images": ShapesConfig(size=288, count=20), "small": ShapesConfig(count=600)}
    monkeypatch.setattr(sources, "SHAPES", shapes)


def encode_noise(height, width, mode="RGB", format="JPEG"):
    """An encoded image of noise that is smooth enough for a JPEG."""
    shape = (height // 8, width // 8, 3)
    image = Image.fromarray(rng.integers(0, 256, shape, np.uint8)).resize((width, height)).convert(mode)
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()


def write_folder(folder, images):
    for row, image in enumerate(images):
        path = folder / "train" / f"class{row % 2}" / f"{row}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    return str(folder)


def test_jpeg_files_are_repeated_byte_for_byte_and_written_once(tmp_path):
    images = [encode_noise(300, 200), encode_noise(64, 640, "L"), encode_noise(100, 100)]
    logged = []
    folder = sources.write_task_data("jpeg224", write_folder(tmp_path / "photos", images), logged.append)
    work = loading.read_work(str(folder))
    assert (work.task, work.images, work.size, work.batch) == ("jpeg224", 129, 224, 64)
    paths, labels = work.paths()
    assert len(paths) == 129
    contents = [Path(path).read_bytes() for path in paths]
    assert {contents.count(image) for image in images} == {43}
    assert {label for label, content in zip(labels, contents, strict=True) if content == images[1]} == {1}
    assert len(list((folder / "files" / "validation").glob("*/*"))) == 2
    assert sources.write_task_data("jpeg224", str(tmp_path / "photos"), logged.append) == folder
    assert len(logged) == 1
    assert not list(folder.parent.glob("*.part"))
    write_folder(tmp_path / "photos", [encode_noise(300, 200)])
    assert sources.write_task_data("jpeg224", str(tmp_path / "photos"), logged.append) != folder


def test_prepared_files_have_bounded_sides_and_raw_pixels_are_those_of_the_files(tmp_path):
    images = [encode_noise(600, 400), encode_noise(200, 320), encode_noise(256, 1024)]
    source = write_folder(tmp_path / "photos", images)
    prepared = loading.read_work(str(sources.write_task_data("prepared224", source, print)))
    prepared_images = [Image.open(path) for path in prepared.paths()[0]]
    assert {image.size for image in prepared_images} == {(256, 384), (320, 200), (1024, 256)}
    bounded = loading.read_work(str(sources.write_task_data("bounded224", source, print)))
    assert {Image.open(path).size for path in bounded.paths()[0]} == {(267, 400), (320, 200), (400, 100)}
    raw = loading.read_work(str(sources.write_task_data("raw224", source, print)))
    pixels, labels = raw.raw_images(), raw.labels()
    assert len(pixels) == len(labels) == raw.images == prepared.images
    stored = {np.asarray(image).tobytes() for image in prepared_images}
    assert {pixels[row].tobytes() for row in range(len(pixels))} == stored
    # Area averaging keeps the mean.
    whole = np.asarray(Image.open(io.BytesIO(images[0])), np.float64).mean()
    shrunk = next(pixels[row] for row in range(len(pixels)) if pixels[row].shape == (384, 256, 3))
    assert shrunk.mean() == pytest.approx(whole, abs=1.0)


def test_small_images_are_stored_decoded(tmp_path):
    work = loading.read_work(str(sources.write_task_data("small32", "shapes", print)))
    images, labels = work.small_images(), work.labels()
    assert images.shape == (600, 32, 32, 3)
    assert set(labels) == set(range(10))
    paths, file_labels = work.paths()
    assert sorted(file_labels) == sorted(labels)
    row = int(os.path.basename(paths[5])[:6])
    np.testing.assert_array_equal(images[row], np.asarray(Image.open(paths[5])))
    assert labels[row] == file_labels[5]


def test_images_that_some_loader_cannot_read_are_left_out_and_counted(tmp_path):
    good = encode_noise(64, 64)
    bad = [encode_noise(64, 64, format="PNG"), encode_noise(64, 64, "CMYK"), good[: len(good) // 4]]
    images = sources.Images([good, *bad], [0, 1, 2, 3], {})
    usable = sources.select_usable(images, "jpeg224", "somewhere")
    assert (usable.encoded, usable.labels) == ([good], [0])
    assert usable.left_out == {"not JPEG, or neither colour nor gray": 2, "cannot be decoded": 1}
    assert len(sources.select_usable(images, "prepared224", "somewhere").encoded) == 3
    with pytest.raises(UsageError, match=r"^data.small_source \(somewhere\) has no image that small32 can use \(3 not"):
        sources.select_usable(images, "small32", "somewhere")


@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 2**32))
def test_random_windows_lie_inside(height, width, seed):
    y, x, crop_height, crop_width = loading.random_window(height, width, np.random.default_rng(seed))
    assert crop_height >= 1
    assert crop_width >= 1
    assert 0 <= y <= height - crop_height
    assert 0 <= x <= width - crop_width


def test_random_windows_have_the_area_and_aspect_asked_for():
    generator = np.random.default_rng(1)
    windows = np.array([loading.random_window(400, 500, generator) for _ in range(4000)], float)
    area, aspect = windows[:, 2] * windows[:, 3] / 200_000, windows[:, 3] / windows[:, 2]
    assert 0.075 < area.min() < 0.09
    assert area.max() > 0.95
    assert 0.45 < area.mean() < 0.55
    assert 0.72 < aspect.min() < aspect.max() < 1.36
    assert np.mean(windows[:, 0] / np.maximum(400 - windows[:, 2], 1)) == pytest.approx(0.5, abs=0.05)
    assert loading.random_window(10, 1000, generator)[2:] == (10, 13)  # no attempt fits: the central window


def check_padded_crops(crop):
    """Compares 60 results of `crop` with all crops of an image whose pixels all differ."""
    values = np.arange(32 * 32, dtype=np.uint16)
    image = np.stack([values // 256 * 10, values % 256, np.full_like(values, 7)], axis=1).astype(np.uint8)
    image = image.reshape(32, 32, 3)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), "reflect")
    crops = set()
    for _ in range(60):
        out = np.asarray(crop(image))
        assert out.shape == (32, 32, 3)
        rows, columns = np.nonzero((out == 128).all(axis=2))
        top, left = rows.min(), columns.min()
        assert len(rows) == 64
        assert (rows.max() - top, columns.max() - left) == (7, 7)
        inside = np.ones((32, 32), bool)
        inside[top : top + 8, left : left + 8] = False
        matches = [
            (y, x, flip)
            for y in range(9)
            for x in range(9)
            for flip in (1, -1)
            if (padded[y : y + 32, x : x + 32][:, ::flip][inside] == out[inside]).all()
        ]
        assert len(matches) == 1
        crops.add(matches[0])
    assert {flip for _, _, flip in crops} == {1, -1}
    assert len({y for y, _, _ in crops}) >= 6
    assert len({x for _, x, _ in crops}) >= 6


def test_padded_crops_are_crops_of_the_padded_image_with_a_square_cut_out():
    check_padded_crops(lambda image: loading.padded_crop(image, rng))
    check_padded_crops(tf.function(lambda image: loading_tf.padded_crop(image, 32)))


def test_resized_crops_show_their_window_and_half_are_flipped():
    """The gray levels of a ramp rise from left to right, or fall in a flipped image."""
    ramp = np.repeat(np.linspace(0, 255, 300).astype(np.uint8)[None, :, None], 200, axis=0).repeat(3, axis=2)
    keras_crops = importlib.import_module("load_keras").random_crops
    work = loading.Work("jpeg224", PEERS_DIRECTORY, 64)
    crop = tf.function(lambda image: loading_tf.random_resized_crop(image, 224))
    batches = {
        "Pillow": np.stack([loading.random_resized_crop(Image.fromarray(ramp), 224, rng) for _ in range(64)]),
        "TensorFlow": np.stack([crop(ramp).numpy() for _ in range(64)]),
        "Keras": keras_crops(tf.cast(tf.repeat(ramp[None], 64, axis=0), tf.float32), work).numpy(),
    }
    for name, images in batches.items():
        assert images.shape == (64, 224, 224, 3), name
        rise = images[:, 100, 220, 0].astype(float) - images[:, 100, 3, 0]
        assert 16 <= np.sum(rise > 0) <= 48, name
        assert np.all(np.abs(rise) > 30), name
        assert np.abs(rise).max() > 150, name
        steps = np.diff(images[:, 100, :, 0].astype(float), axis=1) * np.sign(rise)[:, None]
        assert steps.min() >= -1, name


def test_facts_are_computed_from_the_output_images():
    work = loading.Work("small32", PEERS_DIRECTORY, 10)
    levels = iter([10, 30] * 10)
    facts, run = loading.serve_batches(
        loading.repeat_epochs(lambda: [np.full((512, 32, 32, 3), next(levels), np.uint8)]), work, "about"
    )
    assert facts["same"] == {"images": 10, "images a batch": 512, "output": "32x32x3"}
    assert facts["alike"] == {"mean": 20.0, "deviation": 10.0}
    assert facts["works_ahead"] is True
    run(3)
    assert next(levels) == 30  # two batches of 512 were probed, three pulled


@pytest.mark.slow
def test_a_race_of_evenkeel_and_naive_tfdata(tmp_path, monkeypatch):
    """Real processes on rendered images, two tasks; the measured times are not checked."""
    monkeypatch.setattr(race, "MAX_ROUNDS_FACTOR", 1)
    for name in ("jpeg224", "small32"):
        folder = sources.write_task_data(name, "shapes", print)
        task = Task(("evenkeel", "tfdata_naive"), steps=1, file="load_{peer}.py", settings={"folder": str(folder)})
        comparison = compare_peers(name, rounds=1, directory=tmp_path, task=task)
        assert comparison.skipped == []
        assert {(r.case, r.metric) for r in comparison.results} == {
            (f"{peer}/{name}", metric)
            for peer in ("evenkeel", "tfdata_naive")
            for metric in ("cpu_ms_per_image", "images_per_second")
        }
        own, naive = (comparison.about["peers"][peer] for peer in ("evenkeel", "tfdata_naive"))
        assert own["same"] == naive["same"]
        assert own["same"]["images"] == json.loads((folder / "work.json").read_text())["images"]
        assert own["alike"]["mean"] == pytest.approx(naive["alike"]["mean"], abs=8)


INSTALLED_PEERS = [
    peer
    for peer in ("torch", "dali", "ffcv", "grain")
    if (environments.default_directory() / tasks.PACKAGES[peer][0] / "requirements.txt").is_file()
]


@pytest.mark.slow
@pytest.mark.parametrize("name", tasks.LOADING_TASKS)
def test_installed_peers_have_the_same_output(name):
    directory = environments.default_directory()
    peers = [peer for peer in tasks.TASKS[name].peers if peer in INSTALLED_PEERS]
    if not peers:
        pytest.skip("no peer is installed: python -m benchmarks.peers installs them")
    settings = {"folder": str(sources.write_task_data(name, "shapes", print))}
    running = {}
    for peer in peers:
        python = str(directory / tasks.PACKAGES[peer][0] / "bin" / "python")
        command = [
            python,
            str(PEERS_DIRECTORY / "worker.py"),
            str(TASK_FILES / f"load_{peer}.py"),
            "2",
            json.dumps(settings),
        ]
        with Worker(command, tasks.peer_environment(peer)) as worker:
            worker.start()
            assert worker.run(2).sample.cpu_seconds > 0
            running[peer] = worker
    check_equal_work(running)
    assert find_dissimilar(running) == {}
