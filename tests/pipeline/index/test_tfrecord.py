"""Reading TFRecord files and checking their checksums."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.pipeline.index import tfrecord


@settings(max_examples=20)
@given(records=st.lists(st.binary(max_size=300), min_size=1, max_size=5))
def test_records_are_those_that_tensorflow_wrote(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes]
) -> None:
    path = str(tmp_path_factory.mktemp("records") / "file")
    with tf.io.TFRecordWriter(path) as writer:
        for record in records:
            writer.write(record)
    rows = list(tfrecord.read_records(path, len(records)))
    assert [(data, fault) for _, data, fault in rows] == [(record, "") for record in records]
    contents = pathlib.Path(path).read_bytes()
    for offset, data, _ in rows:
        assert contents[offset : offset + len(data)] == data
        assert tfrecord.masked_crc(data) == contents[offset + len(data) : offset + len(data) + 4]


def test_a_record_larger_than_the_read_buffer_is_read_completely(tmp_path: pathlib.Path) -> None:
    large, small = np.random.default_rng(0).bytes(3 << 20), b"small"
    with tf.io.TFRecordWriter(str(tmp_path / "file")) as writer:
        writer.write(large)
        writer.write(small)
    assert [data for _, data, fault in tfrecord.read_records(str(tmp_path / "file"), 2) if not fault] == [large, small]
