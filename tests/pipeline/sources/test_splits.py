"""The validation split."""

from __future__ import annotations

import pytest

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.sources.splits import validation_split


class Splits:
    """A builder with the attributes that `validation_split` uses."""

    def __init__(self, *names: str) -> None:
        self.info = self
        self.full_name, self.splits = "pets/1.0.0", dict.fromkeys(names)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("train", "test", "validation"), "validation"),
        (("train", "val", "valid", "test"), "test"),
        (("train", "val", "valid"), "valid"),
        (("train", "val"), "val"),
    ],
)
def test_the_validation_split_is_the_first_of_the_usual_names(names: tuple[str, ...], chosen: str) -> None:
    assert validation_split(Splits(*names), DataConfig()) == chosen


def test_the_configured_validation_split_is_used_unchanged() -> None:
    config = DataConfig(validation_split="train[90%:]")
    assert validation_split(Splits("train", "test"), config) == "train[90%:]"


def test_without_a_usual_split_the_error_says_how_to_hold_images_out() -> None:
    with pytest.raises(UsageError) as raised:
        validation_split(Splits("train", "extra"), DataConfig())
    assert str(raised.value) == (
        "pets/1.0.0 has only the splits train, extra: say which part to validate on,"
        " for example --data.train_split=train[:90%] --data.validation_split=train[90%:]."
    )
