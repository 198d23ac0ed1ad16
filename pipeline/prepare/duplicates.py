"""Images that hold exactly the same pixels, whatever their files are called.

same_as = first_copies(index)     # int64 [rows]: same_as[row] < row where an earlier row shows the same pixels
"""

from __future__ import annotations

import numpy as np

from evenkeel.pipeline.index.index import Index

COMPARED = ("fingerprint", "height", "width", "sums", "squares", "laplacian")


def first_copies(*indexes: Index) -> np.ndarray:
    """int64 [rows]: the first row with the same pixels, for the rows of all `indexes`, one behind the other.

    Two images count as equal when a 64-bit hash of their pixels, their sizes and all sums over them are.
    """
    columns = [np.concatenate([index.columns[name] for index in indexes]) for name in COMPARED]
    keys = np.column_stack([column.astype(np.int64) for column in columns])
    order = np.lexsort(keys.T[::-1])  # stable: of equal rows the first comes first
    new = np.ones(len(keys), np.bool_)
    new[1:] = (keys[order][1:] != keys[order][:-1]).any(axis=1)
    first = np.empty(len(keys), np.int64)
    first[order] = order[np.maximum.accumulate(np.where(new, np.arange(len(keys)), 0))]
    return first
