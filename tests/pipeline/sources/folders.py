"""Folders of pictures, and the errors that a source causes."""

from __future__ import annotations

import io
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.sources.resolve import resolve


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


def read_files(builder: Any, split: str) -> dict[str, tuple[bytes, str]]:
    """{file name: (bytes, class name)} as TFDS reads them."""
    ds = builder.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    name = builder.info.features["label"].int2str
    return {e["filename"].decode(): (e["image"], name(e["label"])) for e in ds.as_numpy_iterator()}


def png_paths(count: int) -> list[str]:
    return [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(count)]


def source_error(source: str) -> str:
    """The one-line message of the error that `source` causes."""
    with pytest.raises(UsageError) as raised:
        resolve(DataConfig(source=source))
    assert "\n" not in str(raised.value)
    return str(raised.value)
