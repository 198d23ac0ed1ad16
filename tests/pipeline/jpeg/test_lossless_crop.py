"""Cropped JPEGs: every pixel as if the whole file had been decoded."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from evenkeel.pipeline.jpeg import lossless_crop
from evenkeel.pipeline.jpeg.layout import read_layout
from evenkeel.pipeline.jpeg.seek_points import SeekPoints
from evenkeel.pipeline.system.tensor_memory import share_as_tensor
from tests.pipeline.jpeg.jpegs import (
    SUPPORTED,
    UNSUPPORTED,
    decode_window,
    find_all,
    make_index,
    save_jpeg,
)


@pytest.mark.slow
@pytest.mark.parametrize("exponent", [0, 1, 3])
def test_a_cropped_jpeg_decodes_to_the_same_pixels(
    seek_points: dict[str, SeekPoints], exponent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lossless_crop, "MIN_SAVED_BYTES", 1)
    images, names = list(SUPPORTED.values()), list(SUPPORTED)
    index, memory, offsets = make_index(images, [seek_points[name] for name in names])
    plan, crop = lossless_crop.make_planner(index, offsets), lossless_crop.make_cropper(index, share_as_tensor(memory))
    rng = np.random.default_rng(exponent)
    crops = dict.fromkeys(names, 0)
    for _ in range(20):
        windows = []
        for image in images:
            height, width, _ = (-(-side // 2**exponent) for side in tf.image.extract_jpeg_shape(image).numpy().tolist())
            crop_height, crop_width = rng.integers(1, height + 1), rng.integers(1, width + 1)
            y, x = rng.integers(height - crop_height + 1), rng.integers(width - crop_width + 1)
            windows.append((y, x, crop_height, crop_width, exponent))
        regions = plan(tf.range(len(images), dtype=tf.int64), tf.constant(windows, tf.int32))
        for name, image, window, region in zip(names, images, windows, regions, strict=True):
            contents = crop(region)
            crops[name] += int(contents.numpy() != image)
            part = decode_window(contents, tf.cast(region[:4], tf.int32), 2**exponent)
            np.testing.assert_array_equal(
                part, decode_window(image, window[:4], 2**exponent), err_msg=f"{name} {window}"
            )
    assert min(crops.values()) >= 1, crops


def test_a_window_of_nearly_the_whole_image_reads_the_whole_file(seek_points: dict[str, SeekPoints]) -> None:
    image = SUPPORTED["4:2:0"]
    index, memory, offsets = make_index([image], [seek_points["4:2:0"]])
    plan = lossless_crop.make_planner(index, offsets)
    (region,) = plan(tf.constant([0], tf.int64), tf.constant([[1, 1, 110, 160, 0]]))
    assert region[:5].numpy().tolist() == [1, 1, 110, 160, 0]
    assert lossless_crop.make_cropper(index, share_as_tensor(memory))(region).numpy() == image


def test_an_image_without_seek_points_is_read_whole(
    seek_points: dict[str, SeekPoints], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lossless_crop, "MIN_SAVED_BYTES", 1)
    images = [SUPPORTED["gray"], UNSUPPORTED["progressive"], UNSUPPORTED["no JPEG"]]
    index, memory, offsets = make_index(images, [seek_points["gray"], None, None])
    windows = tf.constant([[50, 50, 9, 9, 0]] * 3)
    regions = lossless_crop.make_planner(index, offsets)(tf.range(3, dtype=tf.int64), windows)
    contents = [lossless_crop.make_cropper(index, share_as_tensor(memory))(region).numpy() for region in regions]
    assert contents[1:] == images[1:]
    assert contents[0] != images[0]
    assert regions[1, :5].numpy().tolist() == [50, 50, 9, 9, 0]


def test_no_crop_is_too_wide_for_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lossless_crop, "MIN_SAVED_BYTES", 1)
    image = save_jpeg(Image.new("L", (65_480, 64), 77))
    (points,) = find_all({"wide": image}).values()
    assert points is not None
    index, memory, offsets = make_index([image], [points])
    crop = lossless_crop.make_cropper(index, share_as_tensor(memory))
    for window in ([40, 0, 20, 65_480, 0], [40, 9_000, 20, 50_000, 0]):
        (region,) = lossless_crop.make_planner(index, offsets)(tf.constant([0], tf.int64), tf.constant([window]))
        part = decode_window(crop(region), tf.cast(region[:4], tf.int32), 1)
        np.testing.assert_array_equal(part, decode_window(image, window[:4], 1))


def test_a_crop_of_too_many_rows_of_mcus_reads_the_whole_file(
    seek_points: dict[str, SeekPoints], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lossless_crop, "MIN_SAVED_BYTES", 1)
    monkeypatch.setattr(lossless_crop, "MAX_MCU_ROWS", 4)
    image = SUPPORTED["4:4:4"]  # 15 rows of MCUs
    index, memory, offsets = make_index([image], [seek_points["4:4:4"]])
    windows = tf.constant([[60, 60, 20, 40, 0], [60, 60, 40, 40, 0]])  # 4 rows of MCUs, and 6
    small, large = lossless_crop.make_planner(index, offsets)(tf.constant([0, 0], tf.int64), windows)
    crop = lossless_crop.make_cropper(index, share_as_tensor(memory))
    assert crop(small).numpy() != image
    assert crop(large).numpy() == image
    np.testing.assert_array_equal(
        decode_window(crop(small), tf.cast(small[:4], tf.int32), 1), decode_window(image, [60, 60, 20, 40], 1)
    )


def test_a_damaged_scan_is_cropped_only_if_it_decodes_to_the_same_pixels() -> None:
    rng = np.random.default_rng(0)
    whole = SUPPORTED["4:2:0"]
    layout = read_layout(whole)
    assert layout is not None
    damaged: dict[str, bytes] = {}
    for number in range(60):
        changed = bytearray(whole)
        position = int(rng.integers(layout.scan_offset, len(whole) - 2))
        changed[position] ^= 1 << int(rng.integers(8))
        damaged[str(number)] = bytes(changed)
    points = find_all(damaged)
    unsupported = [name for name, each in points.items() if each is None]
    assert unsupported
    kept = [name for name, each in points.items() if each is not None]
    if kept:
        index, memory, offsets = make_index([damaged[name] for name in kept], [points[name] for name in kept])
        plan = lossless_crop.make_planner(index, offsets)
        regions = plan(tf.range(len(kept), dtype=tf.int64), tf.constant([[40, 50, 60, 70, 0]] * len(kept)))
        for name, region in zip(kept, regions, strict=True):
            part = decode_window(
                lossless_crop.make_cropper(index, share_as_tensor(memory))(region), tf.cast(region[:4], tf.int32), 1
            )
            np.testing.assert_array_equal(part, decode_window(damaged[name], [40, 50, 60, 70], 1), err_msg=name)
