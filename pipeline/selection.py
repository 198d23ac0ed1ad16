"""Which training rows to leave out: row operations on the index, free of rewriting, for any source.

reasons = unwanted("outliers,duplicates", train, validation, index)      # {row of train: why}
"""

from __future__ import annotations

import os

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.prepare import duplicates, outliers, skew


def unwanted(drop: str, train: Index, validation: Index, index: Index) -> dict[int, str]:
    """{row of `train`: why it is left out}, as `data.drop` says; `index` is the whole data set.

    Raises:
      UsageError: a part of `drop` is neither a known word nor a readable file, or that names an unknown image.
    """
    reasons: dict[int, str] = {}
    for part in filter(None, drop.split(",")):
        if part == "outliers":
            reasons |= outliers.reasons(skew.strangers(train, validation))
        elif part == "duplicates":
            reasons |= _copies(train, validation)
        else:
            reasons |= _named(part, train, index)
    return reasons


def _copies(train: Index, validation: Index) -> dict[int, str]:
    """Training rows with the pixels of a validation row, and all but the first of those equal within training."""
    names = [*validation.names, *train.names]
    same_as = duplicates.first_copies(validation, train)[len(validation) :].tolist()
    return {
        row: f"duplicate of {names[first]}" + (" in validation" if first < len(validation) else "")
        for row, first in enumerate(same_as)
        if first != len(validation) + row
    }


def _named(path: str, train: Index, index: Index) -> dict[int, str]:
    try:
        with open(path, encoding="utf-8") as file:
            wanted = [line for line in file.read().split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"data.drop ({path}) is neither outliers, nor duplicates, nor a text file of image names, one a line:"
            f" {error}."
        ) from error
    known = set(index.names)
    for name in wanted:
        if name not in known:
            near = f", for example {next(iter(sorted(known)))}" if known else ""
            raise UsageError(f"{path} (data.drop) names {name!r}, and the data set has no such image{near}.")
    chosen = set(wanted)
    reason = f"named in {os.path.basename(path)}"
    return {row: reason for row, name in enumerate(train.names) if name in chosen}
