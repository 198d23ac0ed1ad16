"""TFDS data sets that the tests of this folder share."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.storage import open_index
from tests.pipeline.index.tfds_pictures import (
    make_examples,
    prepare_tfds,
)


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """50 examples `train` and 20 `validation` in three shards each. Tests must not change it."""
    return prepare_tfds(
        tmp_path_factory.mktemp("pictures"), {"train": make_examples(50), "validation": make_examples(20, first=50)}
    )


@pytest.fixture(scope="module")
def whole(builder: Any) -> Index:
    return open_index(builder, "unused")


@pytest.fixture
def fresh(tmp_path: pathlib.Path) -> Any:
    """12 examples `train` in two shards, which a test may damage."""
    return prepare_tfds(tmp_path / "data", {"train": make_examples(12)}, shards=2)
