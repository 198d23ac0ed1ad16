"""A cache directory for each test, and a folder of pictures."""

from __future__ import annotations

import pathlib

import pytest

from tests.pipeline.sources.folders import make_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("EVENKEEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pets(tmp_path: pathlib.Path) -> str:
    """A folder of two splits, two classes and six pictures."""
    names = [
        "train/dog/1.jpg",
        "train/dog/2.png",
        "train/cat/1.webp",
        "train/cat/3.bmp",
        "val/cat/4.JPEG",
        "val/dog/1.jpg",
    ]
    return make_folder(tmp_path / "pets", *names)
