"""Reads images for checks, in this process.

images, labels = sample_images(data.train, local_data_config(config.data, image_size=32), count=4000)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from evenkeel.pipeline.build import evaluation_batches
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.replica_shard import ReplicaShard


def local_data_config(config: DataConfig, **changes: Any) -> DataConfig:
    """Returns `config` for reading in this process, without a cache or data service, with the fields in `changes`."""
    return dataclasses.replace(config, **{"cache": "none", "service": "", "reader": "auto", **changes})


def sample_images(index: Index, config: DataConfig, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads images, uint8 [n, h, w, c], and labels [n] of at most `count` random rows; the same rows in every call."""
    rows = np.sort(np.random.default_rng(0).permutation(len(index))[:count])
    shard = ReplicaShard(min(len(rows), 250))
    images, labels = [], []
    for batch, batch_labels, weights in evaluation_batches(index.take(rows), config, shard).as_numpy_iterator():
        images.append(batch[weights > 0])
        labels.append(batch_labels[weights > 0])
    return np.concatenate(images), np.concatenate(labels)
