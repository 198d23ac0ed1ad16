"""Writes TFRecord files for tests."""

from __future__ import annotations

import pathlib

import tensorflow as tf

from evenkeel.models.export.tfrecords import IMAGE_FEATURE, LABEL_FEATURE


def encode_example(image: bytes, label: int | str, names: tuple[str, str] = (IMAGE_FEATURE, LABEL_FEATURE)) -> bytes:
    """A serialized tf.Example; `names` are those of the two features."""

    def bytes_feature(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    number = tf.train.Feature(int64_list=tf.train.Int64List(value=[label])) if isinstance(label, int) else None
    features = {names[0]: bytes_feature(image), names[1]: number or bytes_feature(str(label).encode())}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_records(path: pathlib.Path, records: list[bytes], compression: str = "GZIP") -> str:
    """Writes a TFRecord file and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)
    return str(path)
