"""Finding the image, label and file name features of a data set."""

from __future__ import annotations

import re
from typing import Any

import pytest
import tensorflow_datasets as tfds

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index import features as features_module


def make_builder(features: dict[str, Any]) -> Any:
    """A builder with the attributes that `find_features` uses."""

    class Info:
        full_name = "pictures/1.0.0"

    class Builder:
        info = Info()

    Builder.info.features = features  # type: ignore[attr-defined]
    return Builder()


PHOTO, KIND = tfds.features.Image(), tfds.features.ClassLabel(names=["cat", "dog"])


ONE = "image classification needs exactly one: choose another data set."


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"a": PHOTO, "b": PHOTO, "c": KIND}, f"has 2 image features among a, b, c; {ONE}"),
        ({"image": PHOTO, "text": tfds.features.Text()}, f"has 0 class label features among image, text; {ONE}"),
        (
            {"image": PHOTO, "label": tfds.features.ClassLabel(names=["cat"])},
            "has only one class (cat); classification needs two: choose another data set.",
        ),
    ],
)
def test_data_that_is_not_for_image_classification_is_an_error(features: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(f'pictures/1.0.0 {message}')}$"):
        features_module.find_features(make_builder(features))


def test_features_are_found_by_their_types() -> None:
    features = {"photo": PHOTO, "kind": KIND}
    assert features_module.find_features(make_builder(features)) == features_module.Features(
        "photo", "kind", None, ("cat", "dog")
    )
    features["filename"] = tfds.features.Text()
    assert features_module.find_features(make_builder(features)).filename == "filename"
