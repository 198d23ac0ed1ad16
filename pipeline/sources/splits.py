"""Finds the validation split of a data set by its usual names."""

from __future__ import annotations

from typing import Any

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.errors import UsageError

VALIDATION_SPLITS = ("validation", "test", "valid", "val")  # the first that exists is used


def validation_split(builder: Any, config: DataConfig) -> str:
    """The split to evaluate on: `data.validation_split`, else the first of `VALIDATION_SPLITS` in the data set.

    Raises:
      UsageError: the data set has none of these splits.
    """
    if config.validation_split:
        return config.validation_split
    for name in VALIDATION_SPLITS:
        if name in builder.info.splits:
            return name
    raise UsageError(
        f"{builder.info.full_name} has only the splits {', '.join(builder.info.splits)}: say which part to validate on,"
        " for example --data.train_split=train[:90%] --data.validation_split=train[90%:]."
    )
