"""The drop list: training rows that `data.drop` leaves out. No file is rewritten, so any source can have a drop list.

dropped = drop_list("outliers,duplicates", train, {"validation": validation}, index)     # {row of train: Drop}
"""

from __future__ import annotations

import collections
import os
from typing import NamedTuple

import numpy as np
from absl import logging

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.prepare import duplicates, near_duplicates, outliers, skew


class Drop(NamedTuple):
    """Why a training row is dropped.

    Attributes:
      kind: one of a few words, by which dropped rows are counted.
      reason: the reason, with the name of the image that the row is a copy of.
    """

    kind: str
    reason: str


def drop_list(drop: str, train: Index, held_out: dict[str, Index], index: Index) -> dict[int, Drop]:
    """Returns {row of `train`: why it is dropped}.

    Args:
      drop: the value of `data.drop`.
      train: the usable training rows.
      held_out: the usable rows of `validation` and of other splits that the model is not trained on, by name.
      index: all rows of the data set.

    Raises:
      UsageError: a part of `drop` is neither a known word nor a readable file, or the file names an unknown image.
    """
    dropped: dict[int, Drop] = {}
    for part in filter(None, drop.split(",")):
        if part == "outliers":
            found = skew.find_train_outliers(train, held_out["validation"])
            dropped |= {row: Drop("outliers", reason) for row, reason in outliers.outlier_reasons(found).items()}
        elif part == "duplicates":
            dropped |= _find_copies(train, held_out)
        else:
            dropped |= _listed_rows(part, train, index)
    return dropped


def _find_copies(train: Index, held_out: dict[str, Index]) -> dict[int, Drop]:
    """Training rows that are exact or near duplicates of a held-out row, or of an earlier training row.

    Of equal images with two labels none is kept, because nothing says which label is right. Near duplicates with two
    labels are all kept, because what distinguishes the images may be what distinguishes the classes.
    """
    parts = [*held_out.values(), train]
    start = sum(map(len, held_out.values()))  # training rows are numbered from here on
    names = [f"{name} in {split}" for split, index in held_out.items() for name in index.names] + train.names
    labels = np.concatenate([index.columns["label"] for index in parts])
    dropped = _find_exact_copies(duplicates.find_first_copies(*parts).tolist(), labels.tolist(), names, start)
    near = near_duplicates.find_near_duplicates(*parts)
    if near.note:
        logging.warning("data.drop=duplicates: near duplicates%s", near.note)
    for earlier, later in near.pairs[np.lexsort((near.pairs[:, 0], near.pairs[:, 1]))].tolist():
        if later < start or later in dropped or earlier in dropped:
            continue
        if earlier < start:
            dropped[later] = Drop("near duplicates of held-out images", f"near duplicate of {names[earlier]}")
        elif labels[earlier] == labels[later]:
            dropped[later] = Drop("near duplicates of other training images", f"near duplicate of {names[earlier]}")
    return {row - start: drop for row, drop in dropped.items()}


def _find_exact_copies(first: list[int], labels: list[int], names: list[str], start: int) -> dict[int, Drop]:
    """Rows from `start` on that equal an earlier row or a row of another label; `first` is of `find_first_copies`."""
    dropped: dict[int, Drop] = {}
    # {first row: it and all later ones that equal it, from `start` on}
    equal_rows: dict[int, list[int]] = collections.defaultdict(list)
    for row, same in enumerate(first[start:], start):
        equal_rows[same].append(row)
    for same, rows in equal_rows.items():
        examples = {labels[row]: row for row in rows}  # a row of each label
        if same < start:
            dropped |= dict.fromkeys(rows, Drop("equal to held-out images", f"duplicate of {names[same]}"))
        elif len(examples) == 1:
            dropped |= dict.fromkeys(rows[1:], Drop("equal to other training images", f"duplicate of {names[same]}"))
        else:
            for row in rows:
                other = next(other for label, other in examples.items() if label != labels[row])
                dropped[row] = Drop("equal with two labels", f"equal to {names[other]} of another class")
    return dropped


def _listed_rows(path: str, train: Index, index: Index) -> dict[int, Drop]:
    """The training rows that the text file `path` names, one name per line."""
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
    drop = Drop("listed", f"named in {os.path.basename(path)}")
    return {row: drop for row, name in enumerate(train.names) if name in listed}
