"""Decoded images on disk: read again by a later start, and only if they are whole and those of the data set."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator

import numpy as np
import pytest

from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.dataset import Dataset, load_dataset
from evenkeel.pipeline.reading import cache, decoded_file
from evenkeel.pipeline.reading.decoded_file import DecodedFile, read_decoded, write_decoded
from evenkeel.pipeline.reading.small_images import SmallImages
from evenkeel.pipeline.sources.cache_entries import list_entries
from tests.pipeline.sources.folders import make_folder

SIDE = 8
AUGMENTED = DataConfig(image_size=SIDE, augment=AugmentConfig(flip=0.5, pad_crop=1))


@pytest.fixture
def pets(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dataset]:
    monkeypatch.setenv("EVENKEEL_CACHE", str(tmp_path / "cache"))
    make_folder(tmp_path / "pets", "cat/1.png", "cat/2.png", "cat/3.jpg", "dog/1.png", "dog/2.jpg", "dog/3.png")
    yield load_pets(tmp_path)
    cache._decode_all.cache_clear()


def load_pets(tmp_path: pathlib.Path) -> Dataset:
    return load_dataset(DataConfig(source=str(tmp_path / "pets")))


def cached_lines(data: Dataset, config: DataConfig = AUGMENTED) -> np.ndarray:
    cache._decode_all.cache_clear()
    images = cache.cached_images(data.train, config)
    assert isinstance(images, SmallImages)
    return images.lines.numpy()


def only_file(tmp_path: pathlib.Path) -> pathlib.Path:
    (path,) = (path for path in (tmp_path / "cache" / "decoded").iterdir() if not path.name.startswith("."))
    return path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with every pass that decodes images."""
    passes: list[int] = []
    read = cache.evaluation_reader

    def count(*arguments):
        passes.append(1)
        return read(*arguments)

    monkeypatch.setattr(cache, "evaluation_reader", count)
    return passes


def test_a_later_start_reads_what_the_first_one_decoded(
    pets: Dataset, decoded: list[int], tmp_path: pathlib.Path
) -> None:
    first = cached_lines(pets)
    assert len(decoded) == 1
    assert np.array_equal(cached_lines(pets), first)
    plain = cached_lines(pets, DataConfig(image_size=SIDE))  # another layout in memory, of the same pixels
    assert len(decoded) == 1
    assert np.array_equal(
        plain.reshape(-1, SIDE, SIDE, 3), first.reshape(2, -1, SIDE + 2, SIDE + 2, 3)[0, :, 1:-1, 1:-1]
    )
    (entry,) = [entry for entry in list_entries() if entry.kind == "decoded images"]
    assert (entry.path, entry.size, entry.stale) == (
        str(only_file(tmp_path)),
        only_file(tmp_path).stat().st_size,
        False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["a byte", "cut short", "longer", "empty"])
def test_a_damaged_file_is_decoded_and_written_again(
    pets: Dataset, decoded: list[int], tmp_path: pathlib.Path, damage: str
) -> None:
    expected, path = cached_lines(pets), only_file(tmp_path)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[100] ^= 1
    path.write_bytes({"a byte": bytes(damaged), "cut short": whole[:-30], "longer": whole + b"x", "empty": b""}[damage])
    assert np.array_equal(cached_lines(pets), expected)
    assert len(decoded) == 2
    assert path.read_bytes() == whole


def test_other_images_replace_the_file(pets: Dataset, decoded: list[int], tmp_path: pathlib.Path) -> None:
    before = cached_lines(pets)
    make_folder(tmp_path / "pets", "cat/4.png")
    after = cached_lines(load_pets(tmp_path))
    assert len(decoded) == 2
    assert len(after) > len(before)
    assert only_file(tmp_path).stat().st_size == len(load_pets(tmp_path).train) * SIDE * SIDE * 3 + 20


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"image_size": 12}, {"channels": 1}, {"view": "stretch"}, {"background": "black"}])
def test_what_changes_pixels_is_decoded_apart(pets: Dataset, decoded: list[int], change: dict[str, object]) -> None:
    cached_lines(pets)
    changed = dataclasses.replace(AUGMENTED, **change)
    once = cached_lines(pets, changed)
    assert len(decoded) == 2
    cached_lines(pets)
    assert np.array_equal(cached_lines(pets, changed), once)
    assert len(decoded) == 2


def test_a_cache_that_is_full_is_said_in_a_line_and_training_goes_on(
    pets: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = cached_lines(pets)

    def refuse(path: str) -> None:
        raise OSError(28, os.strerror(28), path)

    monkeypatch.setattr(decoded_file, "atomic_write", refuse)
    images = cached_lines(pets, dataclasses.replace(AUGMENTED, view="pad"))
    assert images.shape == expected.shape
    assert (
        "decoded images cannot be kept in the cache (No space left on device): every start decodes them" in caplog.text
    )


def test_a_file_that_is_replaced_while_it_is_read_is_read_to_its_end(tmp_path: pathlib.Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 2, 3, 1), np.uint8)
    file = DecodedFile(str(tmp_path / "decoded" / "file"), str(tmp_path), b"identity of them", images[0].shape)
    write_decoded(file, [images[0]])
    batches = read_decoded(file)
    assert batches is not None
    write_decoded(dataclasses.replace(file, identity=b"identity of more"), [images[1]])  # by another process
    assert np.array_equal(np.concatenate(list(batches)), images[0])


def test_leftovers_of_killed_processes_are_removed(pets: Dataset, tmp_path: pathlib.Path) -> None:
    cached_lines(pets)
    leftover = pathlib.Path(f"{only_file(tmp_path)}.0123456789abcdef.tmp")
    leftover.write_bytes(b"half of the images")
    assert [entry.path for entry in list_entries() if entry.stale] == [str(leftover)]
    make_folder(tmp_path / "pets", "cat/4.png")
    cached_lines(load_pets(tmp_path))
    assert not leftover.exists()


def test_batches_of_any_size_come_back_in_order(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded_file, "CHUNK_IMAGES", 4)
    images = np.random.default_rng(0).integers(0, 256, (11, 2, 3, 1), np.uint8)
    file = DecodedFile(str(tmp_path / "decoded" / "file"), str(tmp_path), b"identity of them", images.shape)
    write_decoded(file, [images[:5], images[5:6], images[6:]])
    batches = read_decoded(file)
    assert batches is not None
    assert np.array_equal(np.concatenate(list(batches)), images)
    assert read_decoded(dataclasses.replace(file, identity=b"identity of more")) is None
    assert read_decoded(dataclasses.replace(file, shape=(12, 2, 3, 1))) is None
