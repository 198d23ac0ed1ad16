"""Preparing writes every image once, in the chosen tier, readable by plain TFDS, even after interruptions."""

from __future__ import annotations

import csv
import io
import json
import os
import pathlib
import signal
import subprocess
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from google.protobuf import text_format
from PIL import Image
from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2

from evenkeel.pipeline.build import training_batches
from evenkeel.pipeline.config import DataConfig, PrepareConfig, ShapesConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index import index, storage
from evenkeel.pipeline.index.build_index import UNDECODABLE
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.index.storage import open_index
from evenkeel.pipeline.index.tfrecord import DAMAGED_RECORD
from evenkeel.pipeline.prepare import shards
from evenkeel.pipeline.prepare.prepare import prepare
from evenkeel.pipeline.prepare.statistics import features_by_name
from evenkeel.pipeline.sources import shapes
from tests import forked
from tests.command_line import refused
from tests.pipeline.index.tfds_pictures import equal_indexes, fail_if_built

ROOT = pathlib.Path(__file__).parents[3]
FORMATS = ("JPEG", "PNG", "WEBP", "JPEG", "BMP")
Files = dict[str, bytes]


def encode_picture(seed: int, size: int = 24, file_format: str = "JPEG") -> bytes:
    rng = np.random.default_rng([seed, 1, 2])
    height, width = size + rng.integers(0, size, 2)
    pixels = shapes.render(seed % 10, int(max(height, width)), rng)[:height, :width]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, file_format)
    return file.getvalue()


def write_folder(root: pathlib.Path, train: int = 40, test: int = 10) -> Files:
    """Writes a folder of two splits, two classes and four formats; returns {name: contents}."""
    files = {}
    for number in range(train + test):
        file_format = FORMATS[number % 5]
        split, kind = "train" if number < train else "test", "cat" if number % 2 else "dog"
        files[f"{split}/{kind}/{number:03d}.{file_format.lower()}"] = encode_picture(number, file_format=file_format)
    for name, contents in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(contents)
    return files


@pytest.fixture(autouse=True)
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENKEEL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Files]:
    root = tmp_path_factory.mktemp("pets")
    return str(root), write_folder(root)


@pytest.fixture(scope="module")
def prepared(pets: tuple[str, Files], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """The folder prepared with unchanged files in three shards per split, and its summary."""
    output = str(tmp_path_factory.mktemp("prepared") / "pets")
    return output, prepare(PrepareConfig(source=pets[0], shards=3), output)


@pytest.fixture(scope="module")
def downscaled(pets: tuple[str, Files], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """{(tier, bound): the folder prepared so}."""
    outputs = {}
    for kind, bound in (("jpeg:30:95", "longer"), ("raw:30", "shorter")):
        outputs[kind, bound] = str(tmp_path_factory.mktemp("downscaled") / "pets")
        prepare(PrepareConfig(source=pets[0], tier=kind, bound=bound, shards=2), outputs[kind, bound])
    return outputs


@pytest.fixture(scope="module")
def small_pixels(prepared: tuple[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The prepared directory, prepared again as pixels of at most 16 x 16."""
    output = str(tmp_path_factory.mktemp("small_pixels") / "pets")
    prepare(PrepareConfig(source=prepared[0], tier="raw:16", bound="longer"), output)
    return output


@pytest.mark.slow
def test_all_shards_share_one_traced_function(
    pets: tuple[str, Files], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced, encoder = [], shards.make_encoder
    monkeypatch.setattr(shards, "make_encoder", lambda *given: traced.append(given) or encoder(*given))
    shards._make_process.cache_clear()
    prepare(PrepareConfig(source=pets[0], tier="raw:9", shards=4), str(tmp_path / "pets"))
    assert len(traced) == 1


def read_with_tfds(directory: str, split: str) -> list[dict[str, Any]]:
    """The examples as plain TFDS reads them; encoded images are not decoded."""
    builder = tfds.builder_from_directory(directory)
    encoded = isinstance(builder.info.features["image"], tfds.features.Image)
    read = tfds.ReadConfig(interleave_cycle_length=1)
    decoders = {"image": tfds.decode.SkipDecoding()} if encoded else None
    return list(tfds.as_numpy(builder.as_dataset(split=split, decoders=decoders, read_config=read)))


def read_csv(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_plain_tfds_reads_every_file_once_byte_for_byte(pets: tuple[str, Files], prepared: tuple[str, Any]) -> None:
    stored_files: Files = {}
    for split, count in (("train", 40), ("test", 10)):
        rows = read_with_tfds(prepared[0], split)
        assert len(rows) == count
        for row in rows:
            stored_files[row["filename"].decode()] = row["image"]
            assert ("cat", "dog")[row["label"]] == row["filename"].decode().split("/")[1]
    assert stored_files.keys() == pets[1].keys()
    for name, stored in stored_files.items():
        if name.endswith("webp"):  # as PNG
            assert stored.startswith(b"\x89PNG")
            assert np.array_equal(tf.io.decode_png(stored), tf.io.decode_image(pets[1][name], expand_animations=False))
        else:
            assert stored == pets[1][name]


@pytest.mark.parametrize("split", ["train", "test"])
def test_plain_tfds_decodes_every_image(prepared: tuple[str, Any], split: str) -> None:
    builder = tfds.builder_from_directory(prepared[0])
    shapes = [image.shape for image, _ in tfds.as_numpy(builder.as_dataset(split=split, as_supervised=True))]
    assert len(shapes) == builder.info.splits[split].num_examples
    assert all(len(shape) == 3 and shape[2] == 3 for shape in shapes)


def test_shards_are_even_and_their_order_is_shuffled(prepared: tuple[str, Any]) -> None:
    builder = tfds.builder_from_directory(prepared[0])
    assert sorted(builder.info.splits["train"].shard_lengths) == [13, 13, 14]
    assert builder.info.splits["test"].shard_lengths == [3, 3, 4]
    names = [row["filename"] for row in read_with_tfds(prepared[0], "train")]
    assert names != sorted(names)
    numbers = np.array([int(name.decode()[-8:].split("/")[-1].split(".")[0]) for name in names])
    assert abs(np.corrcoef(numbers, np.arange(40))[0, 1]) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["jpeg", "jpeg:30:95", "raw:30"])
def test_the_index_equals_one_built_from_the_shards(
    prepared: tuple[str, Any],
    downscaled: dict[tuple[str, str], str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    tier: str,
) -> None:
    output = str(tmp_path / "pets")
    made = {"jpeg": prepared[0], **{kind: path for (kind, _), path in downscaled.items()}}
    subprocess.run(["cp", "-a", made[tier], output], check=True)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "build_index", fail_if_built)
        stored_index = open_index(tfds.builder_from_directory(output), "unused")
    os.remove(f"{output}/evenkeel-index.npz")
    assert equal_indexes(stored_index, open_index(tfds.builder_from_directory(output), "unused"))
    assert len(stored_index) == 50
    assert stored_index.columns["keep"].all()


def test_the_directory_may_be_moved(
    prepared: tuple[str, Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["cp", "-a", prepared[0], str(tmp_path / "moved")], check=True)
    monkeypatch.setattr(storage, "build_index", fail_if_built)
    assert len(load_dataset(DataConfig(source=str(tmp_path / "moved"), image_size=16)).train) == 40


@pytest.mark.parametrize(("kind", "bound"), [("jpeg:30:95", "longer"), ("raw:30", "shorter")])
def test_larger_images_are_downscaled_and_none_is_enlarged(
    pets: tuple[str, Files], downscaled: dict[tuple[str, str], str], kind: str, bound: str
) -> None:
    pick_side = min if bound == "shorter" else max
    for row in read_with_tfds(downscaled[kind, bound], "train"):
        before = Image.open(io.BytesIO(pets[1][row["filename"].decode()]))
        if kind.startswith("raw"):
            height, width = row["image"].shape[:2]
        else:
            image = Image.open(io.BytesIO(row["image"]))
            assert image.format == "JPEG"
            width, height = image.size
        if pick_side(before.size) <= 30:
            assert (width, height) == before.size
        else:
            scale = 30 / pick_side(before.size)
            assert pick_side(width, height) == 30
            assert -1 < width - before.width * scale < 1e-9  # less than a pixel at the border is left out
            assert -1 < height - before.height * scale < 1e-9


def bicubic_weights(length: int, first: float, ratio: float, size: int) -> np.ndarray:
    """Keys' cubic kernel (a = -1/2), `ratio` times as wide as for interpolation: float64 [size, length]."""
    centers = first + (np.arange(size) + 0.5) * ratio
    x = np.abs(np.arange(length) + 0.5 - centers[:, None]) / ratio
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    table = np.where(x < 1, near, np.where(x < 2, far, 0))
    return table / table.sum(axis=1, keepdims=True)


@pytest.mark.slow
def test_raw_pixels_show_the_same_central_square_as_the_image(pets: tuple[str, Files], small_pixels: str) -> None:
    checked = 0
    for row in read_with_tfds(small_pixels, "test"):
        name = row["filename"].decode()
        before = np.asarray(Image.open(io.BytesIO(pets[1][name])).convert("RGB"), np.float64)
        if name.endswith("jpeg") or max(before.shape) <= 16:  # a JPEG may be downscaled before its inverse transform
            continue
        size, shrunk = np.array(before.shape[:2]), np.array(row["image"].shape[:2])
        ratio = size.max() / 16
        first = (size - size.min()) // 2 - (shrunk - shrunk.min()) // 2 * ratio
        rows, columns = (bicubic_weights(*numbers) for numbers in zip(size, first, [ratio] * 2, shrunk, strict=True))
        expected = np.einsum("yh,hwc,xw->yxc", rows, before, columns).clip(0, 255)
        assert np.abs(row["image"] - expected).max() <= 0.6
        checked += 1
    assert checked


def test_training_from_raw_pixels_sees_them(small_pixels: str) -> None:
    stored = {
        row["image"].tobytes() for row in read_with_tfds(small_pixels, "train") if row["image"].shape == (16, 16, 3)
    }
    for reader in ("mapped", "streaming"):
        config = DataConfig(source=small_pixels, image_size=16, batch_size=40, reader=reader)
        images, _ = next(iter(training_batches(load_dataset(config), config, 0, ReplicaShard(40))))
        seen = {image.tobytes() for image in images.numpy()}
        assert stored
        assert stored <= seen


def decode(contents: bytes) -> tf.Tensor:
    if contents.startswith(b"\xff\xd8"):
        return tf.io.decode_jpeg(contents, dct_method="INTEGER_ACCURATE", fancy_upscaling=False)
    return tf.io.decode_image(contents, channels=0)


def test_statistics_equal_numpy_over_the_stored_images(prepared: tuple[str, Any]) -> None:
    statistics = statistics_pb2.DatasetFeatureStatisticsList.FromString(
        pathlib.Path(prepared[0], "statistics.pb").read_bytes()
    )
    for data in statistics.datasets:
        images = [decode(row["image"]).numpy() for row in read_with_tfds(prepared[0], data.name)]
        pixels = np.concatenate([image.reshape(-1, 3) for image in images]).astype(np.float64)
        features = features_by_name(data)
        for channel, name in enumerate(("red", "green", "blue")):
            assert features[name].num_stats.mean == pytest.approx(pixels[:, channel].mean(), rel=1e-6)
            assert features[name].num_stats.std_dev == pytest.approx(pixels[:, channel].std(), rel=1e-6)
        assert features["height"].num_stats.max == max(image.shape[0] for image in images)
    train = next(data for data in statistics.datasets if data.name == "train")
    assert prepared[1]["mean"] == [features_by_name(train)[name].num_stats.mean for name in ("red", "green", "blue")]
    assert {b.label: b.sample_count for b in features_by_name(train)["format"].string_stats.rank_histogram.buckets} == {
        "JPEG": 16, "PNG": 16, "BMP": 8,
    }  # fmt: skip


def test_training_normalizes_with_the_statistics_of_the_prepared_images(prepared: tuple[str, Any]) -> None:
    data = load_dataset(DataConfig(source=prepared[0], image_size=16))
    np.testing.assert_allclose(data.mean, prepared[1]["mean"], rtol=1e-12)
    np.testing.assert_allclose(data.std, prepared[1]["std"], rtol=1e-9)


@pytest.mark.slow
def test_a_prepared_directory_and_stored_pixels_can_be_prepared_again(
    prepared: tuple[str, Any], small_pixels: str, tmp_path: pathlib.Path
) -> None:
    first, second = small_pixels, str(tmp_path / "again")
    assert prepare(PrepareConfig(source=first, tier="jpeg:16:95"), second)["images"] == {"train": 40, "test": 10}
    assert {row["filename"] for row in read_with_tfds(second, "test")} == {
        row["filename"] for row in read_with_tfds(prepared[0], "test")
    }
    with pytest.raises(UsageError, match=r"^tier \(jpeg\) stores files unchanged, but .* holds pixels: use"):
        prepare(PrepareConfig(source=first), str(tmp_path / "third"))


@pytest.mark.slow
def test_the_embedded_data_set_can_be_prepared(tmp_path: pathlib.Path) -> None:
    config = PrepareConfig(shapes=ShapesConfig(size=16, count=50), tier="raw:16")
    assert prepare(config, str(tmp_path / "out"))["images"] == {"train": 50, "validation": 10}
    assert read_with_tfds(str(tmp_path / "out"), "train")[0]["image"].shape == (16, 16, 3)


@pytest.mark.slow
def test_shards_have_about_the_size_of_shard_mb(tmp_path: pathlib.Path) -> None:
    """30 noisy images of 200 x 200 pixels take 3.4 MiB as pixels."""
    for number in range(31):
        path = tmp_path / f"src/{'test' if number == 30 else 'train'}/{'ab'[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((200, 200), 50).convert("RGB").save(path)
    prepare(PrepareConfig(source=str(tmp_path / "src"), tier="raw:200", shard_mb=1), str(tmp_path / "out"))
    builder = tfds.builder_from_directory(str(tmp_path / "out"))
    assert builder.info.splits["train"].num_shards == 3
    assert builder.info.splits["test"].num_shards == 1


# Images that cannot be stored are left out, counted and listed.


def test_corrupt_and_oversized_files_are_listed_with_the_reason(tmp_path: pathlib.Path) -> None:
    files = write_folder(tmp_path / "src")
    (tmp_path / "src/train/cat/001.png").write_bytes(files["train/cat/001.png"][:-40])
    (tmp_path / "src/test/dog/044.bmp").write_bytes(b"")
    large = io.BytesIO()
    Image.new("RGB", (300, 200)).save(large, "PNG")
    (tmp_path / "src/train/dog/002.webp").write_bytes(large.getvalue())
    config = PrepareConfig(source=str(tmp_path / "src"), max_corrupt_fraction=0.1, max_pixels=50_000)
    summary = prepare(config, str(tmp_path / "out"))
    assert summary["images"] == {"train": 38, "test": 9}
    assert summary["left_out"] == 3
    assert read_csv(f"{tmp_path}/out/quarantine.csv") == [
        {"file": "test/dog/044.bmp", "split": "test", "reason": f"{UNDECODABLE}: it is empty"},
        {
            "file": "train/cat/001.png",
            "split": "train",
            "reason": f"{UNDECODABLE}: it is a damaged or truncated PNG",
        },
        {
            "file": "train/dog/002.webp",
            "split": "train",
            "reason": "300 x 200 pixels are more than data.max_pixels (50000): raise this limit to decode the image",
        },
    ]
    assert len(read_with_tfds(f"{tmp_path}/out", "train")) == 38


@pytest.mark.slow
def test_too_many_corrupt_files_stop_the_run_and_a_higher_limit_resumes_it(tmp_path: pathlib.Path) -> None:
    files = write_folder(tmp_path / "src")
    for name in [name for name in files if name.startswith("train")][::8]:
        (tmp_path / "src" / name).write_bytes(b"no image")
    config = {"source": str(tmp_path / "src"), "shards": 4}
    with pytest.raises(UsageError, match=r"^\d of 50 images cannot be stored, more than --max_corrupt_fraction"):
        prepare(PrepareConfig(**config), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert prepare(PrepareConfig(**config, max_corrupt_fraction=0.2), str(tmp_path / "out"))["left_out"] == 5


def test_a_damaged_record_of_the_source_is_listed(prepared: tuple[str, Any], tmp_path: pathlib.Path) -> None:
    subprocess.run(["cp", "-a", prepared[0], str(tmp_path / "src")], check=True)
    shard = tmp_path / "src/folder-train.tfrecord-00000-of-00003"
    contents = bytearray(shard.read_bytes())
    contents[200] ^= 1
    shard.write_bytes(contents)
    prepare(PrepareConfig(source=str(tmp_path / "src"), max_corrupt_fraction=0.1), str(tmp_path / "out"))
    assert read_csv(f"{tmp_path}/out/quarantine.csv") == [
        {"file": f"{shard.name} record 0", "split": "train", "reason": DAMAGED_RECORD}
    ]


# Outliers and duplicates.


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder with three outliers in training, two duplicates within training and one across splits."""
    root = tmp_path_factory.mktemp("dirty")
    files = write_folder(root, train=60)
    outliers = {
        "black": np.zeros((30, 30, 3)),
        "white": np.full((30, 30, 3), 255.0),
        "scale": np.eye(30)[..., None].repeat(3, 2),
    }
    for name, pixels in outliers.items():
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"train/cat/{name}.png")
    (root / "train/cat/copy.jpeg").write_bytes(files["train/dog/000.jpeg"])
    # The same pixels in another file format.
    Image.open(io.BytesIO(files["train/cat/001.png"])).save(root / "train/cat/again.bmp")
    (root / "test/dog/seen.webp").write_bytes(files["train/dog/002.webp"])
    return str(root)


def test_outliers_and_duplicates_are_listed_and_drawn(dirty: str, tmp_path: pathlib.Path) -> None:
    summary = prepare(PrepareConfig(source=dirty), str(tmp_path / "out"))
    listed = {line["file"] for line in read_csv(f"{tmp_path}/out/outliers.csv") if line["split"] == "train"}
    assert listed >= {f"train/cat/{name}.png" for name in ("black", "white", "scale")}
    assert summary["outliers"]["train"] == len(listed) <= 6
    assert summary["dropped"] == 0
    sheet = Image.open(tmp_path / "out/outliers.png")
    assert sheet.width > 300
    assert len(sheet.getcolors(1 << 20)) > 2
    copies = {frozenset((line["file"], line["same_as"])) for line in read_csv(f"{tmp_path}/out/duplicates.csv")}
    assert copies == {
        frozenset(("train/dog/000.jpeg", "train/cat/copy.jpeg")),
        frozenset(("train/cat/001.png", "train/cat/again.bmp")),
        frozenset(("train/dog/002.webp", "test/dog/seen.webp")),
    }
    assert summary["duplicates"] == {"within splits": 2, "across splits": 1, "of another class": 1}
    assert [line for line in summary["anomaly_lines"] if ": image: " in line] == [
        "error: image: 1 of 11 images of test equal an image of another split",
        "error: image: 1 images equal an image of another class",
    ]


@pytest.mark.slow
def test_near_duplicates_are_listed_and_drawn_in_pairs(tmp_path: pathlib.Path) -> None:
    files = write_folder(tmp_path / "src", train=20, test=5)
    picture = {name: Image.open(io.BytesIO(contents)).convert("RGB") for name, contents in files.items()}
    larger = picture["train/dog/002.webp"].resize([2 * side for side in picture["train/dog/002.webp"].size])
    larger.save(tmp_path / "src/test/dog/larger.jpg", quality=80)
    mirrored = picture["train/cat/001.png"].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirrored.save(tmp_path / "src/train/dog/mirrored.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture["train/cat/003.jpeg"].transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "src/train/cat/turned.webp", exif=exif, quality=80)
    (tmp_path / "src/train/cat/equal.png").write_bytes(files["train/cat/001.png"])
    summary = prepare(PrepareConfig(source=str(tmp_path / "src")), str(tmp_path / "out"))
    assert summary["near_duplicates"] == {"within splits": 2, "across splits": 1, "of another class": 1}
    lines = read_csv(f"{tmp_path}/out/near_duplicates.csv")
    pairs = [frozenset((line["file"], line["same_as"])) for line in lines]
    assert pairs[0] == frozenset(("train/dog/002.webp", "test/dog/larger.jpg")), "across splits, which comes first"
    assert (lines[0]["split"], lines[0]["same_as_split"]) == ("test", "train")
    assert "train/dog/mirrored.png" in pairs[1], "two classes, which come next"
    assert pairs[2:] == [frozenset(("train/cat/turned.webp", "train/cat/003.jpeg"))]
    assert all(int(line["bits"]) <= 40 for line in lines)
    assert [line for line in summary["anomaly_lines"] if "near duplicates" in line] == [
        "error: image: 1 of 6 images of test are near duplicates of an image of another split",
        "error: image: 1 images are near duplicates of an image of another class",
    ]
    sheet = Image.open(tmp_path / "out/near_duplicates.png")
    assert sheet.width == 6 + 6 * (112 + 6) + 2 * 18, "three pairs with wider gaps between them"
    assert len(sheet.getcolors(1 << 20)) > 2
    # Without near duplicates, the files of an earlier run do not stay.
    for name in ("test/dog/larger.jpg", "train/dog/mirrored.png", "train/cat/turned.webp"):
        (tmp_path / "src" / name).unlink()
    prepare(PrepareConfig(source=str(tmp_path / "src")), str(tmp_path / "out"), overwrite=True)
    assert read_csv(f"{tmp_path}/out/near_duplicates.csv") == []
    assert not (tmp_path / "out/near_duplicates.png").exists()


def test_dropped_outliers_stay_in_the_shards_but_not_in_training(
    dirty: str, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = str(tmp_path / "out")
    config = {"source": dirty, "max_outlier_fraction": 0.1}
    summary = prepare(PrepareConfig(**config, outliers="drop"), output)
    assert f"{summary['dropped']} of 65 images of train are dropped as outliers" in caplog.messages
    assert len(read_with_tfds(output, "train")) == 65
    data = load_dataset(DataConfig(source=output, image_size=16))
    assert len(data.train) == 65 - summary["dropped"]
    assert any(line.startswith("train: train/cat/black.png: outlier: ") for line in data.skipped)
    # Without its index, the directory still has the list of dropped rows.
    os.remove(f"{output}/evenkeel-index.npz")
    assert load_dataset(DataConfig(source=output, image_size=16)).train.names == data.train.names
    # Preparing without --outliers=drop keeps them again, without writing a shard.
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*tfrecord*")}
    assert prepare(PrepareConfig(**config), output)["dropped"] == 0
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*tfrecord*")} == before
    assert len(load_dataset(DataConfig(source=output, image_size=16)).train) == 65


def test_dropping_more_than_the_fraction_is_refused_with_a_remedy(dirty: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        UsageError, match=r"are outliers; this exceeds .* --max_outlier_fraction \(0.01\): .*--outliers=flag\.$"
    ):
        prepare(PrepareConfig(source=dirty, outliers="drop", max_outlier_fraction=0.01), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_outliers_keep_looks_for_none(dirty: str, tmp_path: pathlib.Path) -> None:
    assert prepare(PrepareConfig(source=dirty, outliers="keep"), str(tmp_path / "out"))["outliers"] == {
        "train": 0,
        "test": 0,
    }
    assert not (tmp_path / "out/outliers.csv").exists()


# Interrupted runs are resumed; finished directories are kept.


def directory_contents(directory: pathlib.Path) -> dict[str, Any]:
    """{file: its bytes}; of the index only the columns, because it also holds the times of the shards."""
    result: dict[str, Any] = {}
    for path in sorted(directory.iterdir()):
        if path.suffix == ".npz":
            with np.load(path) as stored:
                result[path.name] = {name: stored[name].tobytes() for name in index.COLUMNS}
        else:
            result[path.name] = path.read_bytes()
    return result


@pytest.mark.slow
def test_an_interrupted_run_writes_only_the_missing_shards(
    pets: tuple[str, Files], prepared: tuple[str, Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, written = tmp_path / "pets", []

    def interrupt(stored: shards.StoredImage) -> bytes:
        written.append(stored.row)
        if len(written) == 30:
            raise KeyboardInterrupt
        return original(stored)

    original = shards.serialize_example
    monkeypatch.setattr(shards, "serialize_example", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(PrepareConfig(source=pets[0], shards=3), str(output))
    assert not output.exists()
    prepare(PrepareConfig(source=pets[0], shards=3), str(output))
    # All of `test` and a training shard of 13 were complete; 7 images of the next one are written again.
    assert len(written) == 50 + 7
    assert directory_contents(output) == directory_contents(pathlib.Path(prepared[0]))
    assert not (tmp_path / "pets.unfinished").exists()


@pytest.fixture
def interrupted(pets: tuple[str, Files], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The output of a run with three shards per split that was interrupted at its first image."""
    output = str(tmp_path / "pets")
    with monkeypatch.context() as patch:
        patch.setattr(shards, "serialize_example", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(PrepareConfig(source=pets[0], shards=3), output)
    return output


@pytest.mark.slow
def test_another_plan_cannot_resume_an_unfinished_run_and_another_seed_decides_another_order(
    pets: tuple[str, Files], prepared: tuple[str, Any], interrupted: str
) -> None:
    for key, value in (("tier", "raw:8"), ("shards", 2), ("seed", 5)):
        changed = PrepareConfig(**{"source": pets[0], "shards": 3, key: value})
        with pytest.raises(UsageError, match=rf"unfinished run that differs in {key}: repeat .* with --overwrite\.$"):
            prepare(changed, interrupted)
    assert prepare(changed, interrupted, overwrite=True)["left_out"] == 0
    order, other = (
        [row["filename"] for row in read_with_tfds(directory, "train")] for directory in (prepared[0], interrupted)
    )
    assert order != other
    assert sorted(order) == sorted(other)


def test_a_finished_directory_gets_the_same_reports_and_no_new_shards(
    pets: tuple[str, Files], tmp_path: pathlib.Path
) -> None:
    output = tmp_path / "pets"
    first = prepare(PrepareConfig(source=pets[0]), str(output))
    before = directory_contents(output)
    assert prepare(PrepareConfig(source=pets[0]), str(output)) == first
    assert directory_contents(output) == before


def test_an_existing_output_is_replaced_only_with_overwrite(pets: tuple[str, Files], tmp_path: pathlib.Path) -> None:
    output = tmp_path / "pets"
    output.mkdir()
    (output / "mine.txt").write_text("mine")
    with pytest.raises(
        UsageError, match=r"^output \(.*pets\) exists, but was made from another source .* with --overwrite\.$"
    ):
        prepare(PrepareConfig(source=pets[0]), str(output))
    assert (output / "mine.txt").read_text() == "mine"
    prepare(PrepareConfig(source=pets[0]), str(output), overwrite=True)
    assert not (output / "mine.txt").exists()
    assert len(read_with_tfds(str(output), "train")) == 40


def test_a_changed_source_makes_another_plan(tmp_path: pathlib.Path) -> None:
    write_folder(tmp_path / "src")
    prepare(PrepareConfig(source=str(tmp_path / "src")), str(tmp_path / "out"))
    (tmp_path / "src/train/cat/new.png").write_bytes(encode_picture(99, file_format="PNG"))
    with pytest.raises(UsageError, match="exists, but was made from another source"):
        prepare(PrepareConfig(source=str(tmp_path / "src")), str(tmp_path / "out"))


def prepare_until_killed(source: str, output: str, last: str) -> None:
    """Prepares and counts its actions (images written, files renamed, ...); kills its own process at action `last`."""
    done = 0

    def count_calls(module: Any, name: str) -> None:
        original = getattr(module, name)

        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal done
            done += 1
            if done == int(last):
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **named)

        setattr(module, name, call)

    for module, name in (
        (shards, "serialize_example"),
        (os, "replace"),
        (os, "rename"),
        (os, "fsync"),
        (os, "makedirs"),
    ):
        count_calls(module, name)
    prepare(PrepareConfig(source=source, tier="jpeg:20:90", shards=3), output)
    print(done)


def prepare_in_child(source: str, output: pathlib.Path, last: int) -> subprocess.CompletedProcess:
    return forked.run(prepare_until_killed, source, str(output), str(last))


@pytest.mark.slow
def test_a_run_killed_at_five_moments_ends_with_the_same_bytes(pets: tuple[str, Files], tmp_path: pathlib.Path) -> None:
    straight = prepare_in_child(pets[0], tmp_path / "straight", 0)
    assert straight.returncode == 0, straight.stderr
    moments = int(straight.stdout.split()[-1])
    draws = np.random.default_rng(0).integers(1, moments // 2, 3).tolist()
    # The last two have few shards left: they are killed among the metadata, the reports and the final renaming.
    for last in [*draws, 12, 3]:
        killed = prepare_in_child(pets[0], tmp_path / "killed", last)
        assert killed.returncode == -signal.SIGKILL, killed.stdout
        assert not (tmp_path / "killed").exists()
    done = prepare_in_child(pets[0], tmp_path / "killed", 0)
    assert done.returncode == 0, done.stderr
    assert directory_contents(tmp_path / "killed") == directory_contents(tmp_path / "straight")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["killed", "straight"]


# The command line.


@pytest.mark.slow
def test_anomalies_end_with_exit_code_4_and_bad_input_with_2(
    pets: tuple[str, Files], prepared: tuple[str, Any], tmp_path: pathlib.Path
) -> None:
    schema = tmp_path / "schema.pbtxt"
    text = pathlib.Path(prepared[0], "schema.pbtxt").read_text()
    schema.write_text(text.replace('value: "cat"', 'value: "eel"'))
    arguments = [f"--source={pets[0]}", f"--output={tmp_path}/out", f"--schema={schema}"]
    done = forked.run("tools.prepare", *arguments)
    assert done.returncode == 4, done.stderr
    assert "error: label: train: not in the schema: cat (50.0%)" in done.stdout
    assert done.stderr.splitlines()[-1] == (
        f"error: found 1 anomalies, listed in {tmp_path}/out/anomalies.pbtxt: correct the data or the schema."
    )
    anomalies = text_format.Parse((tmp_path / "out/anomalies.pbtxt").read_text(), anomalies_pb2.Anomalies())
    assert list(anomalies.anomaly_info) == ["label"]
    assert len(read_with_tfds(f"{tmp_path}/out", "train")) == 40  # the directory is complete nevertheless
    assert "--overwrite" in refused(
        forked.run("tools.prepare", f"--source={pets[0]}", f"--output={tmp_path}/out", "--tier=raw:8")
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tier=png"], ["tier ('png')", "jpeg:SIDE:QUALITY"]),
        (["--tier=jpeg:0:90"], ["tier", "at least 1 pixel"]),
        (["--tier=jpeg:20:101"], ["quality", "1 to 100"]),
        (["--outliers=drp"], ["outliers ('drp')", "'drop'"]),
        (["--source=nowhere", "--output=unused"], ["nowhere", "check the spelling"]),
        (["--output="], ["--output is missing"]),
    ],
)
def test_bad_flags_are_one_line(flags: list[str], words: list[str]) -> None:
    line = refused(forked.run("tools.prepare", *flags))
    for word in words:
        assert word in line


def test_drift_from_a_directory_prepared_earlier_is_reported(
    pets: tuple[str, Files], prepared: tuple[str, Any], tmp_path: pathlib.Path
) -> None:
    summary = prepare(PrepareConfig(source=pets[0], previous=prepared[0]), str(tmp_path / "out"))
    assert summary["anomalies"]["error"] == 0
    anomalies = text_format.Parse((tmp_path / "out/anomalies.pbtxt").read_text(), anomalies_pb2.Anomalies())
    assert all(info.drift_measurements[0].value == 0 for info in anomalies.drift_skew_info)
    with pytest.raises(UsageError, match=r"^--previous \(.*\) holds no readable statistics.pb"):
        prepare(PrepareConfig(source=pets[0], previous=str(tmp_path)), str(tmp_path / "other"))


def test_the_summary_is_stored(prepared: tuple[str, Any]) -> None:
    assert json.loads(pathlib.Path(prepared[0], "summary.json").read_text()) == prepared[1]
