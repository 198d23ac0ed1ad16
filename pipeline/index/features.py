"""Finds the image, label and file name features of a TFDS data set, and parses them from a tf.Example.

features = find_features(builder)
example = parse_example(record, features)
example.image, example.label
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Features:
    """Keys of a data set's tf.Examples, and its classes.

    Attributes:
      image: key of the image.
      label: key of the class number.
      filename: key of the file name; None if there is none.
      classes: names of the classes.
      shape: key of the image's shape if images are stored as pixels; None if they are encoded.
    """

    image: str
    label: str
    filename: str | None
    classes: tuple[str, ...]
    shape: str | None = None


def find_features(builder: Any) -> Features:
    """The image, label and file name features of a TFDS builder.

    Raises:
      UsageError: the data set does not have exactly one image and one class label, or it has only one class.
    """
    import tensorflow_datasets as tfds

    features = builder.info.features
    names_of: dict[str, list[str]] = {"image": [], "class label": []}
    for name, feature in features.items():
        if type(feature) is tfds.features.Image or _is_pixel_tensor(feature):
            names_of["image"].append(name)
        elif type(feature) is tfds.features.ClassLabel:
            names_of["class label"].append(name)
    for kind, names in names_of.items():
        if len(names) != 1:
            raise UsageError(
                f"{builder.info.full_name} has {len(names)} {kind} features among {', '.join(features)};"
                " image classification needs exactly one: choose another data set."
            )
    (image,), (label,) = names_of.values()
    classes = tuple(features[label].names)
    if len(classes) < 2:
        raise UsageError(
            f"{builder.info.full_name} has only one class ({classes[0]}); classification needs two: choose another"
            " data set."
        )
    filename = "filename" if "filename" in features else None
    if _is_pixel_tensor(features[image]):
        # TFDS stores a tensor of unknown shape under two keys.
        return Features(f"{image}/value", label, filename, classes, f"{image}/shape")
    return Features(image, label, filename, classes)


def _is_pixel_tensor(feature: Any) -> bool:
    """Whether a feature is `Tensor((None, None, 3), uint8, encoding="bytes")`: pixels that need no decoder."""
    import tensorflow_datasets as tfds

    return (
        type(feature) is tfds.features.Tensor
        and (feature.shape, feature.np_dtype) == ((None, None, 3), np.uint8)
        and feature._encoding == tfds.features.Encoding.BYTES
    )


class Example(NamedTuple):
    """The content of a record.

    Attributes:
      image: encoded bytes, or pixels.
      label: class number.
      name: file name; empty if the data set has none.
      shape: shape of the pixels; empty if the image is encoded.
    """

    image: bytes
    label: int
    name: bytes
    shape: list[int]


def parse_example(record: bytes, features: Features) -> Example:
    """Parses a tf.Example.

    Raises:
      IndexError, ValueError, DecodeError: the record lacks a feature or is not a tf.Example.
    """
    values = tf.train.Example.FromString(record).features.feature
    name = values[features.filename].bytes_list.value[0] if features.filename else b""
    shape = [values[features.shape].int64_list.value[axis] for axis in range(3)] if features.shape else []
    return Example(values[features.image].bytes_list.value[0], values[features.label].int64_list.value[0], name, shape)
