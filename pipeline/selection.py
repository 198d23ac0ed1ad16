"""The drop list: training rows that `data.drop` leaves out. No file is rewritten, so any source can have a drop list.

reasons = drop_list("outliers,duplicates", train, validation, index)      # {row of train: reason}
"""

from __future__ import annotations

import os

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.prepare import duplicates, outliers, skew


def drop_list(drop: str, train: Index, validation: Index, index: Index) -> dict[int, str]:
    """Returns {row of `train`: the reason to drop it}.

    `drop` is the value of `data.drop`; `index` holds all rows of the data set.

    Raises:
      UsageError: a part of `drop` is neither a known word nor a readable file, or the file names an unknown image.
    """
    reasons: dict[int, str] = {}
    for part in filter(None, drop.split(",")):
        if part == "outliers":
            reasons |= outliers.outlier_reasons(skew.find_train_outliers(train, validation))
        elif part == "duplicates":
            reasons |= _duplicate_rows(train, validation)
        else:
            reasons |= _listed_rows(part, train, index)
    return reasons


def _duplicate_rows(train: Index, validation: Index) -> dict[int, str]:
    """Returns {row: reason} of training rows with the same pixels as a validation row or an earlier training row."""
    names = [*validation.names, *train.names]
    same_as = duplicates.find_first_copies(validation, train)[len(validation) :].tolist()
    return {
        row: f"duplicate of {names[first]}" + (" in validation" if first < len(validation) else "")
        for row, first in enumerate(same_as)
        if first != len(validation) + row
    }


def _listed_rows(path: str, train: Index, index: Index) -> dict[int, str]:
    """Returns {row: reason} of the training rows that the text file `path` names, one name per line."""
    try:
        with open(path, encoding="utf-8") as file:
            names = [line for line in file.read().split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"data.drop ({path}) is neither outliers, nor duplicates, nor a text file of image names, one per line:"
            f" {error}."
        ) from error
    known = set(index.names)
    for name in names:
        if name not in known:
            example = f"; its first name is {min(known)}" if known else ""
            raise UsageError(
                f"{path} (data.drop) names {name!r}, but the data set has no such image{example}. Correct or remove"
                " that line."
            )
    listed = set(names)
    reason = f"named in {os.path.basename(path)}"
    return {row: reason for row, name in enumerate(train.names) if name in listed}
