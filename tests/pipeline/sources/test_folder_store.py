"""The store of a folder: copied once, then kept up to date, whatever happens to the folder and to the cache."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import os
import pathlib
import resource
import signal
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import Dataset, load_dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.index import COLUMNS, Index
from evenkeel.pipeline.sources import folder_store, read_batches, store_shard
from evenkeel.pipeline.sources.folder_store import OpenedSource, open_folder, store_directory
from evenkeel.pipeline.sources.image_folder import scan_folder
from tests import forked
from tests.pipeline.sources.folders import encode_picture, make_folder, open_pictures, png_paths, read_files

PLACES = ("shard", "record", "start", "offset")  # columns that depend on the history of a store


def test_split_class_image_keeps_its_splits_and_classes(pets: str) -> None:
    opened = open_pictures(pets)
    assert {name: len(rows) for name, rows in opened.splits.rows.items()} == {"train": 4, "validation": 2}
    assert opened.index.features.classes == ("cat", "dog")


def test_files_are_stored_byte_for_byte_with_class_and_name(pets: str) -> None:
    opened = open_pictures(pets)
    found = read_files(opened, "train") | read_files(opened, "validation")
    paths = sorted(pathlib.Path(pets).rglob("*.*"))
    assert found == {
        path.relative_to(pets).as_posix(): (path.read_bytes(), path.parent.name) for path in paths if path.is_file()
    }
    assert len(found) == 6


def test_the_shards_are_tfrecords_of_examples(pets: str) -> None:
    (shard,) = open_pictures(pets).index.shards
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in ("image", "filename")}
    examples = [tf.io.parse_single_example(record, features) for record in tf.data.TFRecordDataset(shard)]
    stored = {example["filename"].numpy().decode(): example["image"].numpy() for example in examples}
    assert stored == {path: (pathlib.Path(pets) / path).read_bytes() for path in stored}
    assert len(stored) == 6


def test_the_folder_itself_is_not_changed(pets: str, cache: pathlib.Path) -> None:
    before = sorted(pathlib.Path(pets).rglob("*"))
    opened = open_pictures(pets)
    assert sorted(pathlib.Path(pets).rglob("*")) == before
    assert cache in pathlib.Path(opened.directory).parents


def test_one_copy_serves_all_spellings_of_a_path(pets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pathlib.Path(pets).parent)
    os.symlink(pets, "link")
    name = pathlib.Path(pets).name
    found = {store_directory(path) for path in (pets, f"{pets}/", name, f"./{name}", "link", "link/../pets")}
    assert len(found) == 1


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read from now on."""
    names: list[str] = []
    read = read_batches.read_file

    def read_file(path: str, count: int = -1) -> bytes:
        names.append(os.path.basename(path))
        return read(path, count)

    monkeypatch.setattr(read_batches, "read_file", read_file)
    return names


def test_each_file_is_read_once_and_an_unchanged_folder_not_at_all(pets: str, counted: list[str]) -> None:
    first = open_pictures(pets)
    assert sorted(counted) == sorted(path.name for path in pathlib.Path(pets).rglob("*.*"))
    counted.clear()
    again = open_pictures(pets)
    assert counted == []
    assert again.index.shards == first.index.shards
    assert same_rows(again.index, first.index)


def test_a_replaced_file_of_equal_size_and_time_is_noticed(pets: str, counted: list[str]) -> None:
    path = pathlib.Path(pets) / "train/cat/1.bmp"
    path.write_bytes(encode_picture(0, "BMP"))
    before, times = open_pictures(pets), path.stat()
    assert read_files(before, "train")["train/cat/1.bmp"][0] == path.read_bytes()
    counted.clear()
    path.write_bytes(encode_picture(1, "BMP"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size
    assert read_files(open_pictures(pets), "train")["train/cat/1.bmp"][0] == path.read_bytes()
    assert counted == ["1.bmp"]


def same_rows(ours: Index, theirs: Index) -> bool:
    """Whether two indexes have the same rows in the same order, apart from where they are stored."""
    columns = [name for name in COLUMNS if name not in PLACES]
    return all((ours.columns[name] == theirs.columns[name]).all() for name in columns) and (
        sorted(ours.skip_reasons) == sorted(theirs.skip_reasons)
    )


def same_data(ours: OpenedSource, theirs: OpenedSource) -> bool:
    splits = {name: rows.tolist() for name, rows in ours.splits.rows.items()}
    return (
        splits == {name: rows.tolist() for name, rows in theirs.splits.rows.items()}
        and ours.index.features == theirs.index.features
        and same_rows(ours.index, theirs.index)
        and all(read_files(ours, split) == read_files(theirs, split) for split in splits)
    )


def fresh(root: str, number: int, monkeypatch: pytest.MonkeyPatch) -> OpenedSource:
    """The folder opened with an empty cache."""
    with monkeypatch.context() as patch:
        patch.setenv("EVENKEEL_CACHE", f"{root}-cache{number}")
        return open_pictures(root)


@pytest.mark.parametrize("alone", [True, False])
def test_after_any_change_the_data_are_those_of_a_new_store(
    pets: str, alone: bool, monkeypatch: pytest.MonkeyPatch, counted: list[str]
) -> None:
    monkeypatch.setattr(folder_store, "is_used", lambda directory: not alone)
    monkeypatch.setattr(folder_store, "MAX_SMALL_SHARDS", 3)
    root = pathlib.Path(pets)

    def replace() -> None:
        (root / "train/cat/1.webp").write_bytes(encode_picture(77, "JPEG"))

    def spoil() -> None:
        (root / "train/dog/2.png").write_bytes(b"no picture")

    def repair() -> None:
        (root / "train/dog/2.png").write_bytes(encode_picture(78, "PNG"))

    changes = {
        replace: ["1.webp"],
        lambda: make_folder(root, "train/eel/7.jpg", "train/cat/0.png"): ["7.jpg", "0.png"],
        lambda: (root / "train/dog/1.jpg").unlink(): [],
        spoil: ["2.png"],
        lambda: None: [],
        lambda: (root / "train/cat").rename(root / "train/puma"): ["0.png", "1.webp", "3.bmp"],
        repair: ["2.png"],
        lambda: (root / "val").rename(root / "test"): ["4.JPEG", "1.jpg"],
        lambda: os.utime(root / "train/puma/3.bmp"): ["3.bmp"],
    }
    open_pictures(pets)
    for number, (change, expected) in enumerate(changes.items()):
        change()
        counted.clear()
        opened = open_pictures(pets)
        assert set(counted) >= set(expected)
        assert alone or sorted(counted) == sorted(expected), "only what has changed is read"
        assert same_data(opened, fresh(pets, number, monkeypatch)), number
        shards = list(pathlib.Path(opened.directory).glob("*.tfrecord"))
        assert len(shards) == len(list(pathlib.Path(opened.directory).glob("*.npz")))
        assert not alone or len(shards) <= 5


def test_less_than_half_of_a_shard_in_use_is_written_again_unless_another_process_reads_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder(tmp_path / "pets", *png_paths(10))
    (shard,) = open_pictures(root).index.shards
    for number in range(6):
        (tmp_path / f"pets/cat/{number}.png").unlink()
        (tmp_path / f"pets/dog/{number}.png").unlink()
    assert open_pictures(root).index.shards == (shard,), "this process itself uses it"
    monkeypatch.setattr(folder_store, "is_used", lambda directory: False)
    (after,) = open_pictures(root).index.shards
    assert after != shard
    assert not os.path.exists(shard)
    assert os.path.getsize(after) < 0.5 * 10 * 2 * 300
    assert len(open_pictures(root).index.kept_rows) == 8


def test_other_options_read_again_only_what_they_may_change(pets: str, counted: list[str]) -> None:
    clear = Image.new("RGBA", (9, 8), (0, 0, 0, 0))
    clear.save(f"{pets}/train/cat/clear.png")
    Image.new("RGB", (40, 40)).save(f"{pets}/train/dog/large.jpg")
    files = scan_folder(pets)
    open_folder(pets, files, 1000, "white")
    counted.clear()
    black = open_folder(pets, files, 1000, "black").index
    assert sorted(counted) == ["1.webp", "2.png", "clear.png"], "JPEG and BMP have no transparent pixels"
    assert black.columns["sums"][black.names.index("train/cat/clear.png")].tolist() == [0] * 4
    counted.clear()
    whole = open_folder(pets, files, 40 * 40, "black").index
    assert counted == ["large.jpg"]
    assert len(whole.kept_rows) == len(whole) == 8
    counted.clear()
    small = open_folder(pets, files, 1000, "black").index
    assert counted == [], "it was found too large before"
    assert small.skip_reasons == [
        "train/dog/large.jpg: 40 x 40 pixels are more than data.max_pixels (1000): raise this limit to decode the image"
    ]


def test_a_file_that_cannot_be_read_is_skipped_and_tried_again(pets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    os.symlink("/nowhere/9.jpg", f"{pets}/train/cat/9.jpg")
    assert open_pictures(pets).index.skip_reasons == ["train/cat/9.jpg: cannot be read: No such file or directory"]
    pathlib.Path(f"{pets}/train/cat/9.jpg").unlink()
    pathlib.Path(f"{pets}/train/cat/9.jpg").write_bytes(encode_picture(0, "JPEG"))
    assert open_pictures(pets).index.skip_reasons == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tfrecord", "npz"])
@pytest.mark.parametrize("damage", ["cut", "emptied", "overwritten", "removed", "noise"])
def test_a_damaged_cache_heals_itself(
    pets: str, kind: str, damage: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = fresh(pets, 0, monkeypatch)
    path = next(pathlib.Path(open_pictures(pets).directory).glob(f"*.{kind}"))
    size = path.stat().st_size
    if damage == "removed":
        path.unlink()
    elif damage in ("cut", "emptied"):
        os.truncate(path, size // 2 if damage == "cut" else 0)
    elif damage == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(size))
    else:
        with path.open("r+b") as file:
            file.seek(size // 2)
            file.write(b"??????????")
    caplog.clear()
    assert same_data(open_pictures(pets), expected)
    assert len(caplog.messages) == (0 if damage == "removed" else 1)
    assert all("in the cache is damaged" in message and "\n" not in message for message in caplog.messages)
    caplog.clear()
    open_pictures(pets)
    assert caplog.messages == []


def test_a_store_of_an_earlier_format_is_written_anew(pets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_pictures(pets)
    monkeypatch.setattr(store_shard, "FORMAT_VERSION", store_shard.FORMAT_VERSION + 1)
    again = open_pictures(pets)
    assert same_data(dataclasses.replace(first, index=again.index), again)
    assert not os.path.exists(first.index.shards[0])


def open_and_die(root: str, writes: str) -> None:
    """Opens a folder in shards of three images, and kills its own process at the given write to the cache."""
    store_shard.SHARD_IMAGES, read_batches.BATCH_IMAGES = 3, 1
    counter, frame = itertools.count(1), store_shard.frame_record

    def frame_or_die(record: bytes) -> bytes:
        if next(counter) == int(writes):
            os.kill(os.getpid(), signal.SIGKILL)
        return frame(record)

    store_shard.frame_record = frame_or_die
    open_pictures(root)


def test_a_killed_start_goes_on_where_it_was_and_leaves_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, counted: list[str]
) -> None:
    root = make_folder(tmp_path / "pets", *png_paths(10))
    killed = forked.run(open_and_die, root, "12")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    directory = pathlib.Path(store_directory(root))
    assert len(list(directory.glob("*.tfrecord"))) == 3
    assert len(list(directory.glob("*.tmp"))) == 1, "killed while it wrote nothing: this test tests nothing"
    opened = open_pictures(root)
    assert len(counted) == 20 - 9
    assert same_data(opened, fresh(root, 0, monkeypatch))
    assert {path.suffix for path in directory.iterdir()} == {".tfrecord", ".npz"}


def test_an_interrupted_start_goes_on_and_leaves_no_temporary_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, counted: list[str]
) -> None:
    root = make_folder(tmp_path / "pets", *png_paths(10))
    monkeypatch.setattr(store_shard, "SHARD_IMAGES", 3)
    monkeypatch.setattr(read_batches, "BATCH_IMAGES", 1)
    counter, frame = itertools.count(1), store_shard.frame_record

    def interrupt(record: bytes) -> bytes:
        if next(counter) == 8:
            raise KeyboardInterrupt
        return frame(record)

    with monkeypatch.context() as patch:
        patch.setattr(store_shard, "frame_record", interrupt)
        with pytest.raises(KeyboardInterrupt):
            open_pictures(root)
    assert {path.suffix for path in pathlib.Path(store_directory(root)).iterdir()} == {".tfrecord", ".npz"}
    counted.clear()
    assert len(open_pictures(root).index.kept_rows) == 20
    assert len(counted) == 20 - 6


def open_and_print(root: str) -> None:
    opened = open_pictures(root)
    print(len(opened.index.kept_rows), *sorted(opened.index.shards))


def test_two_processes_at_once_make_one_copy(tmp_path: pathlib.Path) -> None:
    root = make_folder(tmp_path / "pets", *png_paths(30))
    outputs = [(tmp_path / f"out{number}").open("w+") for number in range(2)]
    processes = [forked.start(open_and_print, root, out=out) for out in outputs]
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    texts = []
    for out in outputs:
        out.seek(0)
        texts.append(out.read().splitlines()[-1])
        out.close()
    assert texts[0] == texts[1]
    assert texts[0].startswith("60 ")
    assert len(list(pathlib.Path(store_directory(root)).glob("*.tfrecord"))) == 1


def open_with_a_limit(root: str, limit: str) -> None:
    """Opens a folder while no file may become larger than `limit` bytes, which fails as a full disk does."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    try:
        open_pictures(root)
    except UsageError as error:
        print(error)


@pytest.mark.parametrize("limit", [2000, 7500])
def test_a_full_cache_is_one_line_that_names_it(tmp_path: pathlib.Path, cache: pathlib.Path, limit: int) -> None:
    """At 7,500 bytes the shard of 20 pictures fits, and its side file does not."""
    root = make_folder(tmp_path / "pets", *png_paths(10))
    result = forked.run(open_with_a_limit, root, str(limit))
    assert result.stdout == (
        f"the cache ({cache}) cannot be written to (File too large): free space or correct its permissions, or set"
        " EVENKEEL_CACHE to another directory. `evenkeel cache` lists what it holds, and clears it.\n"
    ), result.stderr
    assert list(pathlib.Path(store_directory(root)).glob("*.tmp")) == []
    assert len(open_pictures(root).index.kept_rows) == 20


def test_an_unwritable_cache_is_one_line_that_names_it(pets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENKEEL_CACHE", "/dev/null/cache")
    with pytest.raises(UsageError, match=r"^the cache \(/dev/null/cache\) cannot be written to \(Not a directory\)"):
        load_dataset(DataConfig(source=pets))


def test_a_cache_that_is_read_only_serves_until_something_is_missing(
    pets: str, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = open_pictures(pets)

    @contextlib.contextmanager
    def refuse(directory: str) -> Iterator[None]:
        raise OSError(errno.EROFS, "Read-only file system", f"{cache}/folders/.lock")
        yield

    monkeypatch.setattr(folder_store, "exclusive_lock", refuse)
    assert same_data(open_pictures(pets), expected)
    make_folder(pathlib.Path(pets), "train/cat/9.png")
    with pytest.raises(UsageError, match=r"^the cache \(.*\) cannot be written to \(Read-only file system\): free"):
        open_pictures(pets)


def test_statistics_and_training_do_not_depend_on_the_history(pets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> Dataset:
        return load_dataset(DataConfig(source=pets, image_size=8))

    load()
    make_folder(pathlib.Path(pets), "train/cat/0.png", "train/dog/0.jpg", "val/cat/9.png")
    grown = load()
    monkeypatch.setenv("EVENKEEL_CACHE", f"{pets}-cache")
    once = load()
    assert (grown.mean, grown.std, grown.train.names) == (once.mean, once.std, once.train.names)
    assert grown.validation.names == once.validation.names
    assert len(grown.train.shards) == 2


def test_a_remote_folder_is_copied_once_and_kept_up_to_date(counted: list[str]) -> None:
    def write(path: str, contents: bytes) -> None:
        tf.io.gfile.makedirs(os.path.dirname(path))
        with tf.io.gfile.GFile(path, "wb") as file:
            file.write(contents)

    root = "ram://pets"
    for number, name in enumerate(("cat/1.png", "cat/2.png", "dog/1.jpg")):
        write(f"{root}/{name}", encode_picture(number, "JPEG" if name.endswith("jpg") else "PNG"))
    opened = open_pictures(root)
    assert read_files(opened, "train")["cat/2.png"] == (encode_picture(1), "cat")
    assert len(counted) == 3
    counted.clear()
    write(f"{root}/dog/2.png", encode_picture(7))
    again = open_pictures(root)
    assert counted == ["2.png"]
    assert read_files(again, "train")["dog/2.png"] == (encode_picture(7), "dog")
    assert len(again.index.kept_rows) == 4
