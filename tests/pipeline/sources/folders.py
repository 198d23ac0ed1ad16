"""Folders of pictures, what is read from them, and the errors that a source causes."""

from __future__ import annotations

import io
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import open_source
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.sources.folder_store import OpenedSource, open_folder
from evenkeel.pipeline.sources.image_folder import scan_folder


def encode_picture(seed: int, file_format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 9, 3), np.uint8)).save(file, file_format)
    return file.getvalue()


def make_folder(root: pathlib.Path, *paths: str) -> str:
    """A folder of pictures, each with other pixels."""
    for seed, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        formats = {".png": "PNG", ".bmp": "BMP", ".webp": "WEBP"}
        (root / path).write_bytes(encode_picture(seed, formats.get(pathlib.Path(path).suffix.lower(), "JPEG")))
    return str(root)


def open_pictures(root: str) -> OpenedSource:
    return open_folder(root, scan_folder(root), DataConfig.max_pixels, "white")


def read_files(opened: OpenedSource, split: str) -> dict[str, tuple[bytes, str]]:
    """{file name: (bytes, class name)} of the images of a split, as the shards hold them."""
    index = opened.index.take(opened.splits.select(split)).kept_rows
    columns, found = index.columns, {}
    for name, shard, offset, length, label in zip(
        index.names, *(columns[c].tolist() for c in ("shard", "offset", "length", "label")), strict=True
    ):
        with open(index.shards[shard], "rb") as file:
            found[name] = os.pread(file.fileno(), length, offset), index.features.classes[label]
    return found


def png_paths(count: int) -> list[str]:
    return [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(count)]


def source_error(source: str) -> str:
    """The one-line message of the error that `source` causes."""
    with pytest.raises(UsageError) as raised:
        open_source(DataConfig(source=source))
    assert "\n" not in str(raised.value)
    return str(raised.value)
