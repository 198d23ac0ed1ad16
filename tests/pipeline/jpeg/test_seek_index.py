"""JPEGs that are entered where a crop begins: every pixel as if all of the file had been read."""

from __future__ import annotations

import io
import json
import os
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from evenkeel.pipeline.build import evaluation_batches, training_batches
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.images.decode import LIBJPEG
from evenkeel.pipeline.index.index import (
    JPEG,
    Entries,
    Features,
    Index,
)
from evenkeel.pipeline.index.shuffle import ReplicaShard
from evenkeel.pipeline.jpeg import (
    huffman,
    lossless_crop,
    seek_index,
    worker,
)
from evenkeel.pipeline.jpeg.layout import coded, read_layout
from evenkeel.pipeline.reading import memory_map
from evenkeel.pipeline.system.tensor_memory import ALIGNMENT_BYTES, allocate_bytes, share_as_tensor


def picture(height: int, width: int, seed: int, gray: bool = False) -> np.ndarray:
    """A gradient with noise in places: blocks of many codes and of few, strong colours and weak."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.stack([255 * x / max(1, width - 1), 255 * y / max(1, height - 1), 128 + 100 * np.sin(x / 9)], axis=2)
    image += rng.normal(0, 60, image.shape) * (rng.random((height, width, 1)) < 0.3)
    image = np.clip(image, 0, 255).astype(np.uint8)
    return image[..., 0] if gray else image


def jpeg(height: int, width: int, seed: int = 0, gray: bool = False, **options: Any) -> bytes:
    return saved(Image.fromarray(picture(height, width, seed, gray)), **options)


def saved(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


KINDS: dict[str, bytes] = {
    "4:4:4": jpeg(120, 150, subsampling=0, quality=90),
    "4:2:2": jpeg(121, 151, subsampling=1, quality=80),
    "4:2:0": jpeg(113, 167, subsampling=2, quality=95),
    "its own tables": jpeg(120, 150, subsampling=2, quality=60, optimize=True),
    "its own tables, 4:4:4": jpeg(90, 230, subsampling=0, quality=97, optimize=True),
    "gray": jpeg(130, 150, gray=True, quality=90),
    "gray, narrow": jpeg(300, 44, gray=True, quality=90),
    "gray, its own tables": jpeg(130, 149, gray=True, quality=30, optimize=True),
    "coarse": jpeg(140, 140, quality=3),
    "fine": jpeg(64, 64, quality=100, subsampling=0),
    "one row": jpeg(8, 300),
    "one column": jpeg(300, 8),
    "a comment and EXIF": jpeg(100, 130, comment=b"\xff\xd8\xff\xda" * 20, exif=b"Exif\x00\x00" + bytes(4000)),
    "flat": saved(Image.new("RGB", (160, 120), (255, 0, 0))),
}
REFUSED: dict[str, bytes] = {
    "progressive": jpeg(100, 130, progressive=True),
    "restart markers": jpeg(100, 130, restart_marker_rows=1),
    "cut short": jpeg(100, 130)[:-900],
    "no JPEG": b"\x89PNG" + bytes(300),
    "a header alone": jpeg(100, 130)[:300],
    "empty": b"",
    # A row of less than a look's codes: MCUs would be missed.
    "gray, too narrow": saved(Image.new("L", (16, 400), 77)),
    "4:4:4, too narrow": saved(Image.new("RGB", (8, 600), (9, 9, 9)), subsampling=0),
    "too tall": saved(Image.new("L", (48, 40_000))),
}


def found(images: dict[str, bytes]) -> dict[str, seek_index.Found | None]:
    names = list(images)
    return {names[number]: of for number, of in seek_index.find(enumerate(images.values()))}


@pytest.fixture(scope="module")
def enterable() -> dict[str, seek_index.Found]:
    of = found(KINDS)
    assert None not in of.values()
    return of  # type: ignore[return-value]


def aligned(array: np.ndarray) -> np.ndarray:
    """The same, as a mapped file would hold it."""
    copy = allocate_bytes(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def index_of(images: list[bytes], of: list[seek_index.Found | None]) -> tuple[Index, np.ndarray, np.ndarray]:
    """An index of these images alone, the memory that they lie in, and where."""
    lengths = np.array([len(image) for image in images])
    offsets = np.cumsum(lengths) - lengths
    memory = aligned(np.frombuffer(b"".join(images) + bytes(-lengths.sum() % ALIGNMENT_BYTES), np.uint8))
    records: list[seek_index.Record] = []
    points: list[np.ndarray] = []
    own: list[np.ndarray] = []
    for each in of:
        if each is None:
            records.append(seek_index.NONE)
            continue
        first, begin = sum(len(of) for of in points), sum(len(of) for of in own)
        records.append(each.record._replace(first=first, made_up=begin))
        points.append(each.points)
        own.append(each.made_up)
    store = Entries(aligned(np.concatenate(points)), aligned(np.concatenate(own)))
    columns = {"length": lengths, "entry": np.array(records, np.int64), "kind": np.full(len(images), JPEG)}
    features = Features("image", "label", None, ("a", "b"))
    return Index(("none",), (int(lengths.sum()),), features, columns, {}, store), memory, offsets


def decoded(contents: Any, window: Any, ratio: int) -> np.ndarray:
    return tf.image.decode_and_crop_jpeg(contents, window, ratio=ratio, **LIBJPEG).numpy()


@pytest.mark.parametrize("exponent", [0, 1, 3])
def test_what_is_cut_decodes_to_the_same_pixels(
    enterable: dict[str, seek_index.Found], exponent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lossless_crop, "WORTH", 1)
    images, names = list(KINDS.values()), list(KINDS)
    index, memory, offsets = index_of(images, [enterable[name] for name in names])
    plan, needed = lossless_crop.planner(index, offsets), lossless_crop.cutter(index, share_as_tensor(memory))
    rng = np.random.default_rng(exponent)
    were_cut = dict.fromkeys(names, 0)
    for _ in range(20):
        windows = []
        for image in images:
            height, width, _ = (-(-side // 2**exponent) for side in tf.image.extract_jpeg_shape(image).numpy().tolist())
            tall, wide = rng.integers(1, height + 1), rng.integers(1, width + 1)
            windows.append((rng.integers(height - tall + 1), rng.integers(width - wide + 1), tall, wide, exponent))
        regions = plan(tf.range(len(images), dtype=tf.int64), tf.constant(windows, tf.int32))
        for name, image, window, region in zip(names, images, windows, regions, strict=True):
            contents = needed(region)
            were_cut[name] += int(contents.numpy() != image)
            part = decoded(contents, tf.cast(region[:4], tf.int32), 2**exponent)
            np.testing.assert_array_equal(part, decoded(image, window[:4], 2**exponent), err_msg=f"{name} {window}")
    assert min(were_cut.values()) >= 1, were_cut


def test_every_row_of_mcus_can_be_entered_and_left(enterable: dict[str, seek_index.Found]) -> None:
    for name, image in KINDS.items():
        layout, of = read_layout(image), enterable[name]
        assert layout is not None
        across = -(-layout.across // of.record.step)
        assert len(of.points) == layout.down * across + 1, name
        assert across <= huffman.COLUMNS
        # The last point is the end of the codes, of whose last byte some bits are filling.
        codes = coded(image, layout)
        assert codes is not None
        assert of.points[-1, 0] == len(image) - layout.scan - len(b"\xff\xd9"), name


def test_a_window_that_leaves_little_out_reads_all_of_the_file(enterable: dict[str, seek_index.Found]) -> None:
    image = KINDS["4:2:0"]
    index, memory, offsets = index_of([image], [enterable["4:2:0"]])
    region = lossless_crop.planner(index, offsets)(tf.constant([0], tf.int64), tf.constant([[1, 1, 110, 160, 0]]))[0]
    assert region[:5].numpy().tolist() == [1, 1, 110, 160, 0]
    assert lossless_crop.cutter(index, share_as_tensor(memory))(region).numpy() == image


def test_an_image_that_cannot_be_entered_is_read_whole(
    enterable: dict[str, seek_index.Found], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lossless_crop, "WORTH", 1)
    images = [KINDS["gray"], REFUSED["progressive"], REFUSED["no JPEG"]]
    index, memory, offsets = index_of(images, [enterable["gray"], None, None])
    windows = tf.constant([[50, 50, 9, 9, 0]] * 3)
    regions = lossless_crop.planner(index, offsets)(tf.range(3, dtype=tf.int64), windows)
    contents = [lossless_crop.cutter(index, share_as_tensor(memory))(region).numpy() for region in regions]
    assert contents[1:] == images[1:]
    assert contents[0] != images[0]
    assert regions[1, :5].numpy().tolist() == [50, 50, 9, 9, 0]


def test_nothing_is_made_that_is_too_large_for_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lossless_crop, "WORTH", 1)
    image = saved(Image.new("L", (65_480, 64), 77))
    (of,) = found({"wide": image}).values()
    assert of is not None
    index, memory, offsets = index_of([image], [of])
    needed = lossless_crop.cutter(index, share_as_tensor(memory))
    for window in ([40, 0, 20, 65_480, 0], [40, 9_000, 20, 50_000, 0]):
        (region,) = lossless_crop.planner(index, offsets)(tf.constant([0], tf.int64), tf.constant([window]))
        part = decoded(needed(region), tf.cast(region[:4], tf.int32), 1)
        np.testing.assert_array_equal(part, decoded(image, window[:4], 1))


def test_of_a_tall_image_only_so_many_rows_are_put_together(
    enterable: dict[str, seek_index.Found], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lossless_crop, "WORTH", 1)
    monkeypatch.setattr(lossless_crop, "MOST_ROWS", 4)
    image = KINDS["4:4:4"]  # 15 rows of MCUs
    index, memory, offsets = index_of([image], [enterable["4:4:4"]])
    windows = tf.constant([[60, 60, 20, 40, 0], [60, 60, 40, 40, 0]])  # 4 rows of MCUs, and 6
    small, large = lossless_crop.planner(index, offsets)(tf.constant([0, 0], tf.int64), windows)
    needed = lossless_crop.cutter(index, share_as_tensor(memory))
    assert needed(small).numpy() != image
    assert needed(large).numpy() == image
    np.testing.assert_array_equal(
        decoded(needed(small), tf.cast(small[:4], tf.int32), 1), decoded(image, [60, 60, 20, 40], 1)
    )


def test_what_cannot_be_entered_is_told_and_stops_nobody() -> None:
    of = found({**REFUSED, "good": KINDS["4:2:0"]})
    assert of.pop("good") is not None
    assert of == dict.fromkeys(REFUSED)


def test_a_damaged_scan_is_entered_only_where_a_decoder_follows_the_same_codes() -> None:
    rng = np.random.default_rng(0)
    whole = KINDS["4:2:0"]
    layout = read_layout(whole)
    assert layout is not None
    damaged = {}
    for number in range(60):
        changed = bytearray(whole)
        at = int(rng.integers(layout.scan, len(whole) - 2))
        changed[at] ^= 1 << int(rng.integers(8))
        damaged[str(number)] = bytes(changed)
    of = found(damaged)
    refused = [name for name, each in of.items() if each is None]
    assert refused
    kept = [name for name, each in of.items() if each is not None]
    if kept:
        index, memory, offsets = index_of([damaged[name] for name in kept], [of[name] for name in kept])
        planned = lossless_crop.planner(index, offsets)
        regions = planned(tf.range(len(kept), dtype=tf.int64), tf.constant([[40, 50, 60, 70, 0]] * len(kept)))
        for name, region in zip(kept, regions, strict=True):
            part = decoded(lossless_crop.cutter(index, share_as_tensor(memory))(region), tf.cast(region[:4], tf.int32), 1)
            np.testing.assert_array_equal(part, decoded(damaged[name], [40, 50, 60, 70], 1), err_msg=name)


# ---- whole data sets, by real processes


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures large enough to be entered, one that cannot be, and one PNG."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(10):
        label = folder / "train" / "ab"[number % 2]
        label.mkdir(parents=True, exist_ok=True)
        image = jpeg(300, 400 + number, seed=number, subsampling=number % 3, quality=95, progressive=number == 4)
        (label / f"{number}.jpg").write_bytes(image)
    Image.fromarray(picture(200, 200, seed=99)).save(folder / "train" / "a" / "other.png")
    for number, name in enumerate("ab"):
        (folder / "validation" / name).mkdir(parents=True)
        image = jpeg(310, 390, seed=20 + number, quality=95)
        (folder / "validation" / name / "1.jpg").write_bytes(image)
    return folder


def config_of(folder: Path, **changes: Any) -> DataConfig:
    augment = AugmentConfig(random_resized_crop=0.92, flip=0.5)
    return DataConfig(str(folder), image_size=48, batch_size=4, cache="none", augment=augment, **changes)


def store_of(index: Index) -> Path:
    return Path(index.shards[0]).parent / seek_index.STORED


def batches_of(config: DataConfig, count: int) -> list[tuple[np.ndarray, ...]]:
    data, share = load_dataset(config), ReplicaShard(config.batch_size)
    train = list(training_batches(data, config, 0, share).take(count).as_numpy_iterator())
    return train + list(evaluation_batches(data.validation, config, share).as_numpy_iterator())


@pytest.mark.parametrize("channels", [1, 3])
def test_batches_are_the_same_with_entries(photographs: Path, channels: int) -> None:
    without = batches_of(config_of(photographs, channels=channels), 12)
    changed = config_of(photographs, channels=channels, entries=True)
    index = load_dataset(changed).train
    assert index.entries is not None
    names = [Path(name).stem for name in index.names]
    entered = {name: bool(record[0] >= 0) for name, record in zip(names, index.columns["entry"], strict=True)}
    assert entered == {**{str(number): number != 4 for number in range(10)}, "other": False}
    for ours, theirs in zip(batches_of(changed, 12), without, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)


def test_what_was_found_is_kept_and_found_anew_for_other_files(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(photographs, entries=True)
    index = load_dataset(config).train
    store = store_of(index)
    written = (store / seek_index.POINTS).stat().st_mtime_ns
    monkeypatch.setattr(worker, "run", lambda *of: pytest.fail("looked for again"))
    again = load_dataset(config).train
    np.testing.assert_array_equal(again.columns["entry"], index.columns["entry"])
    monkeypatch.undo()
    header = json.loads((store / seek_index.HEADER).read_text())
    (store / seek_index.HEADER).write_text(json.dumps({**header, "state": {**header["state"], "version": 0}}))
    load_dataset(config)
    assert json.loads((store / seek_index.HEADER).read_text()) == header
    assert (store / seek_index.POINTS).stat().st_mtime_ns > written
    os.truncate(store / seek_index.MADE_UP, 1000)
    assert load_dataset(config).train.entries is not None
    assert (store / seek_index.MADE_UP).stat().st_size == header["bytes"][1]


def test_a_process_that_dies_is_one_line_and_leaves_nothing(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(photographs, entries=True)
    store = store_of(load_dataset(config).train)
    (store / seek_index.HEADER).unlink()  # as if they had never been found
    before = sorted(path.name for path in store.parent.iterdir())
    monkeypatch.setattr(worker, "COMMAND", "import os; print(1, flush=True); os.kill(os.getpid(), 9)")
    line = r"^entries were not found \(SIGKILL\): mend that, or do without them by --data\.entries=false\.$"
    with pytest.raises(UsageError, match=line):
        load_dataset(config)
    monkeypatch.setattr(worker, "COMMAND", "print(1, flush=True); raise ValueError('the reason')")
    with pytest.raises(UsageError, match=r"^entries were not found \(ValueError: the reason\): mend that"):
        load_dataset(config)
    assert sorted(path.name for path in store.parent.iterdir()) == before
    left = store.with_name(f".{seek_index.STORED}.left")  # by one that was killed itself
    left.mkdir()
    monkeypatch.undo()
    assert load_dataset(config).train.entries is not None
    assert not left.exists()


def test_processes_do_not_outlive_one_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [tmp_path / "0", tmp_path / "1"]
    for place in places:
        place.mkdir()
    os.mkfifo(tmp_path / "meeting")  # whoever opens it waits for the other
    body = """
        import os, signal, sys
        meeting = os.path.join(sys.argv[1], "..", "meeting")
        print(1, flush=True)
        if sys.argv[1].endswith("0"):
            with open(meeting) as file, open(os.path.join(sys.argv[1], "pid"), "w") as kept:
                kept.write(file.read())
            sys.exit("no room")
        with open(meeting, "w") as file:
            file.write(str(os.getpid()))
        signal.pause()
    """
    monkeypatch.setattr(worker, "COMMAND", textwrap.dedent(body))
    done: list[int] = []
    with pytest.raises(UsageError, match=r"^entries were not found \(no room\)"):
        worker.run([str(place) for place in places], done.append)
    assert sum(done) in (1, 2)
    with pytest.raises(ProcessLookupError):
        os.kill(int((places[0] / "pid").read_text()), 0)


def test_small_images_gain_nothing_and_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    from absl import logging

    logging.set_verbosity(logging.INFO)
    with caplog.at_level("INFO", logger="absl"):
        data = load_dataset(DataConfig("shapes", entries=True))
    assert data.train.entries is None
    assert "JPEGs of less than 32 KB would not gain by them" in caplog.text


def test_where_nothing_is_mapped_it_is_said(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory_map, "available", False)
    assert load_dataset(config_of(photographs, entries=True)).train.entries is None
    assert "is streamed, and JPEGs are read whole: copy it to a local disk" in caplog.text


@pytest.mark.parametrize("changes", [{"reader": "streaming"}, {"service": "grpc://a:1"}])
def test_entries_want_mapped_shards(changes: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"^data\.entries needs mapped shards, .*: leave it out\.$"):
        DataConfig(entries=True, **changes)  # type: ignore[arg-type]
