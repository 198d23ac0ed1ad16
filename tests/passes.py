"""Reads 160 batches of a data set of N shards, all of the same content, and prints the peak of anonymous memory.

They are two passes over 40 shards, or twenty passes over 4.

python -m tests.passes DIRECTORY SHARDS
"""

from __future__ import annotations

import io
import pathlib
import re
import shutil
import sys

import numpy as np
import tensorflow as tf
from PIL import Image

from evenkeel.pipeline.build import training_batches
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.index.build_index import build_index
from evenkeel.pipeline.index.features import Features
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.replica_shard import ReplicaShard

IMAGES, SIDE, BATCH, STEPS = 50, 96, 25, 160
COMMENTS = 64 << 10  # bytes in each file that no decoder looks at


def anonymous() -> int:
    """Bytes of this process's anonymous memory."""
    found = re.search(r"RssAnon:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10


def write(directory: pathlib.Path, shards: int) -> Index:
    """Shards of 50 images of noise with long comments, 4 MB each."""
    first = directory / "shard-0"
    with tf.io.TFRecordWriter(str(first)) as writer:
        for number in range(IMAGES):
            pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=95, comment=bytes(COMMENTS - 3))
            image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[file.getvalue()]))
            label = tf.train.Feature(int64_list=tf.train.Int64List(value=[number % 3]))
            features = tf.train.Features(feature={"image": image, "label": label})
            writer.write(tf.train.Example(features=features).SerializeToString())
    paths = [first, *(directory / f"shard-{number}" for number in range(1, shards))]
    for path in paths[1:]:
        shutil.copyfile(first, path)
    lengths = {str(path): IMAGES for path in paths}
    assert first.stat().st_size > 3_800_000
    features = Features(image="image", label="label", filename=None, classes=("a", "b", "c"))
    columns, faults = build_index(lengths, features)
    return Index(tuple(lengths), (first.stat().st_size,) * shards, features, columns, faults)


def main(directory: pathlib.Path, shards: int) -> int:
    rows = write(directory, shards)
    data = Dataset(rows, rows, ("a", "b", "c"), [127.5] * 3, [60.0] * 3, np.ones(3), ())
    config = DataConfig(image_size=SIDE, batch_size=BATCH, augment=AugmentConfig(random_resized_crop=0.5, flip=0.5))
    peak = 0
    for _ in training_batches(data, config, 0, ReplicaShard(BATCH)).take(STEPS):
        peak = max(peak, anonymous())
    return peak


if __name__ == "__main__":
    print(main(pathlib.Path(sys.argv[1]), int(sys.argv[2])))
