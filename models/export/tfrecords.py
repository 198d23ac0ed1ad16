"""TFRecord files of tf.Examples, gzipped or not, as other pipelines leave them -> a TFDS directory of ours.

    directory = prepare({"train": ["/data/Split-train/*"], "validation": ["/data/Split-eval/*"]}, "/data/ours")

Compressed records can neither be mapped nor found by their place: they are written anew once, images byte for byte.
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

MOST_CLASSES = 100_000
IMAGE, LABEL = "image/encoded", "image/class/label"  # as TensorFlow's own converters name them


def prepare(patterns: dict[str, list[str]], directory: str, image: str = IMAGE, label: str = LABEL) -> str:
    """The TFDS directory with a split for each of `patterns` below `directory`, written unless it is there already.

    Files that have changed since make another one.

    `image` and `label` name the features: encoded images, and class names (bytes) or numbers (int64) from 0 on.

    Raises:
      UsageError: no such files, no such features, or a record that is no tf.Example.
    """
    files = {split: _files(of) for split, of in patterns.items()}
    state = fingerprint_files(repr([files, image, label]), [path for of in files.values() for path in of])
    place = os.path.join(directory, state)
    prepared = os.path.join(place, Records.name, str(Records.VERSION))
    if tf.io.gfile.exists(prepared):
        return prepared
    labels = {_label(feature, label) for _, feature in _examples(files, image, label)}
    builder = Records(files=files, names=class_names(labels, label), image=image, label=label, data_dir=place)
    prepare_once(builder)
    return str(builder.data_dir)


def class_names(labels: set[int | str], feature: str) -> list[str]:
    """In the order of their numbers, or of the alphabet where they have names.

    Raises:
      UsageError: numbers that are none of a class, numbers beside names, or fewer than two classes.
    """
    numbers = [each for each in labels if isinstance(each, int)]
    if numbers and len(numbers) < len(labels):
        raise UsageError(f"feature {feature} holds numbers and names: write all classes in one way.")
    for number in numbers:
        if not 0 <= number < MOST_CLASSES:
            raise UsageError(f"feature {feature} holds {number}: a class's number lies in 0 to {MOST_CLASSES - 1}.")
    names = [str(number) for number in range(max(numbers) + 1)] if numbers else sorted(map(str, labels))
    if len(labels) < 2:
        raise UsageError(f"feature {feature} holds one class only ({', '.join(names[-1:])}): at least two are needed.")
    return names


class Records(tfds.core.GeneratorBasedBuilder):
    """Features `image`, `label` and `filename`, which is the file and the number of the record in it."""

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
        for name, feature in _examples({split: self._files[split]}, self._image, self._label):
            (image,) = feature[self._image].bytes_list.value
            yield name, {"image": image, "label": str(_label(feature, self._label)), "filename": name}


def _files(patterns: list[str]) -> list[str]:
    files = sorted({path for pattern in patterns for path in tf.io.gfile.glob(pattern)})
    if not files:
        raise UsageError(f"there is no file like {patterns[0] if patterns else 'any that was given'}: check the path.")
    return files


def _examples(files: dict[str, list[str]], image: str, label: str) -> Iterator[tuple[str, Any]]:
    """(name of the record, its features), of each of `files` in turn."""
    for at, path in enumerate(path for of in files.values() for path in of):
        compression = "GZIP" if path.endswith(".gz") else ""
        try:
            for number, record in enumerate(tf.data.TFRecordDataset(path, compression).as_numpy_iterator()):
                feature = tf.train.Example.FromString(record).features.feature
                for name, kind in ((image, "one encoded image (bytes)"), (label, "one class (bytes or int64)")):
                    values = _values(feature[name], numbers=name == label) if name in feature else []
                    if len(values) != 1:
                        there = ", ".join(sorted(feature))
                        raise UsageError(f"{path}: record {number} must hold {kind} as {name}; it has {there}.")
                yield f"{at:05d}-{os.path.basename(path)}-{number:06d}", feature  # files of two directories share names
        except (tf.errors.OpError, DecodeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"{path} does not hold tf.Examples ({reason}): mend or remove it.") from error


def _values(feature: Any, numbers: bool) -> list[Any]:
    return [*feature.bytes_list.value, *(feature.int64_list.value if numbers else [])]


def _label(feature: Any, name: str) -> int | str:
    (value,) = _values(feature[name], numbers=True)
    return value if isinstance(value, int) else value.decode("utf-8", errors="replace")
