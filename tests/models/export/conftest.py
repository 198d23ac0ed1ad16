"""Encoded images for the tests of record files."""

from __future__ import annotations

import pathlib

import pytest
import tensorflow as tf

from evenkeel.pipeline.config import ShapesConfig
from evenkeel.pipeline.sources import shapes


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[bytes, int]]]:
    """{split: [(encoded image, label)]} of 200 training and 100 validation images of shapes."""
    directory = shapes.prepare(ShapesConfig(size=16, count=200), str(tmp_path_factory.mktemp("shapes")))
    splits = {}
    for split in ("train", "validation"):
        paths = sorted(map(str, pathlib.Path(directory).glob(f"shapes-{split}.tfrecord*")))
        splits[split] = []
        for record in tf.data.TFRecordDataset(paths).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            image, label = features["image"].bytes_list.value[0], int(features["label"].int64_list.value[0])
            splits[split].append((image, label))
    return splits
