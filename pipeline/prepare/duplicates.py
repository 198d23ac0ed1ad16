"""Images with exactly the same pixels, whatever the names and formats of their files.

first = find_first_copies(index)     # int64 [rows]: first[row] < row where an earlier row has the same pixels
"""

from __future__ import annotations

import numpy as np

from evenkeel.pipeline.index.index import Index

COMPARED_COLUMNS = ("fingerprint", "height", "width", "sums", "squares", "laplacian")


def find_first_copies(*indexes: Index) -> np.ndarray:
    """For each row, the first row with the same pixels, int64 [rows]; rows of all `indexes` are numbered in sequence.

    Two images count as equal if a 64-bit hash of their pixels, their sizes and all sums over their pixels are equal.
    """
    columns = [np.concatenate([index.columns[name] for index in indexes]) for name in COMPARED_COLUMNS]
    keys = np.column_stack([column.astype(np.int64) for column in columns])
    order = np.lexsort(keys.T[::-1])  # stable: among equal rows, the first comes first
    is_new = np.ones(len(keys), np.bool_)
    is_new[1:] = (keys[order][1:] != keys[order][:-1]).any(axis=1)
    first = np.empty(len(keys), np.int64)
    first[order] = order[np.maximum.accumulate(np.where(is_new, np.arange(len(keys)), 0))]
    return first
