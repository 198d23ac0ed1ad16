"""Converts TFRecord files of tf.Examples from other pipelines, gzipped or not, into a TFDS directory.

    directory = convert_records({"train": ["/data/Split-train/*"], "validation": ["/data/Split-eval/*"]}, "/data/pets")

Compressed records can neither be memory-mapped nor read at random positions. Each set of files is converted once; the
bytes of the encoded images do not change.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.sources.fingerprint import fingerprint_files
from evenkeel.pipeline.sources.prepare_once import prepare_once

MAX_CLASSES = 100_000
IMAGE_FEATURE, LABEL_FEATURE = "image/encoded", "image/class/label"  # the names that TensorFlow's own converters use


def convert_records(
    patterns: dict[str, list[str]], directory: str, image: str = IMAGE_FEATURE, label: str = LABEL_FEATURE
) -> str:
    """Converts the files if this was not done before, and returns the TFDS directory, which is below `directory`.

    Files that have changed since are converted into a new directory.

    Args:
      patterns: {split: glob patterns of its files}.
      directory: parent of the converted data sets.
      image: feature with an encoded image (bytes).
      label: feature with the class, either a name (bytes) or a number from 0 on (int64).

    Raises:
      UsageError: there are no such files or features, or a record is not a tf.Example.
    """
    files = {split: _find_files(split_patterns) for split, split_patterns in patterns.items()}
    paths = [path for split_files in files.values() for path in split_files]
    data_dir = os.path.join(directory, fingerprint_files(repr([files, image, label]), paths))
    converted = os.path.join(data_dir, RecordsBuilder.name, str(RecordsBuilder.VERSION))
    if tf.io.gfile.exists(converted):
        return converted
    labels = {_read_label(features, label) for _, features in _read_examples(files, image, label)}
    names = class_names(labels, label)
    builder = RecordsBuilder(files=files, names=names, image=image, label=label, data_dir=data_dir)
    prepare_once(builder)
    return str(builder.data_dir)


def class_names(labels: set[int | str], feature: str) -> list[str]:
    """Returns the names of the classes: all numbers up to the largest, or the names in alphabetical order.

    Raises:
      UsageError: a number is not in [0, `MAX_CLASSES`), there are both numbers and names, or fewer than two classes.
    """
    numbers = [label for label in labels if isinstance(label, int)]
    if numbers and len(numbers) < len(labels):
        raise UsageError(f"feature {feature} has both numbers and names: write all classes in the same way.")
    for number in numbers:
        if not 0 <= number < MAX_CLASSES:
            raise UsageError(f"feature {feature} has {number}: class numbers must be from 0 to {MAX_CLASSES - 1}.")
    names = [str(number) for number in range(max(numbers) + 1)] if numbers else sorted(map(str, labels))
    if len(labels) < 2:
        raise UsageError(f"feature {feature} has only one class ({', '.join(names[-1:])}): at least two are needed.")
    return names


class RecordsBuilder(tfds.core.GeneratorBasedBuilder):
    """Writes the features `image`, `label` and `filename` (number and name of the file, number of the record)."""

    VERSION = tfds.core.Version("1.0.0")
    name = "records"
    pkg_dir_path = None

    def __init__(self, *, files: dict[str, list[str]], names: list[str], image: str, label: str, **kwargs) -> None:
        self._files, self._names, self._image, self._label = files, names, image, label
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=self._names),
            "filename": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Records of {next(iter(self._files.values()))[0]}",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in self._files}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, features in _read_examples({split: self._files[split]}, self._image, self._label):
            (image,) = features[self._image].bytes_list.value
            yield name, {"image": image, "label": str(_read_label(features, self._label)), "filename": name}


def _find_files(patterns: list[str]) -> list[str]:
    files = sorted({path for pattern in patterns for path in tf.io.gfile.glob(pattern)})
    if not files:
        raise UsageError(f"no file matches {patterns[0] if patterns else 'an empty list of patterns'}: check the path.")
    return files


def _read_examples(files: dict[str, list[str]], image: str, label: str) -> Iterator[tuple[str, Any]]:
    """Yields (record name, features) of every record in every file."""
    required = ((image, "one encoded image (bytes)"), (label, "one class (bytes or int64)"))
    for file_number, path in enumerate(path for split_files in files.values() for path in split_files):
        compression = "GZIP" if path.endswith(".gz") else ""
        try:
            for number, record in enumerate(tf.data.TFRecordDataset(path, compression).as_numpy_iterator()):
                features = tf.train.Example.FromString(record).features.feature
                for name, content in required:
                    values = _read_values(features[name], numbers=name == label) if name in features else []
                    if len(values) != 1:
                        raise UsageError(
                            f"{path}: feature {name} of record {number} must be {content}; the record has"
                            f" {', '.join(sorted(features))}: set image and label in custom_config."
                        )
                # The file's number distinguishes files with the same name in two directories.
                yield f"{file_number:05d}-{os.path.basename(path)}-{number:06d}", features
        except (tf.errors.OpError, DecodeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"{path} does not contain tf.Examples ({reason}): repair or remove this file.") from error


def _read_values(feature: Any, numbers: bool) -> list[Any]:
    return [*feature.bytes_list.value, *(feature.int64_list.value if numbers else [])]


def _read_label(features: Any, name: str) -> int | str:
    (value,) = _read_values(features[name], numbers=True)
    return value if isinstance(value, int) else value.decode("utf-8", errors="replace")
