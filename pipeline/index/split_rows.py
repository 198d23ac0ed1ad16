"""The splits of a data set, and the rows that a text in TFDS syntax selects from them.

splits = tfds_splits(builder, index)
train = index.take(splits.select("train[:90%]"))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.index import Index


@dataclasses.dataclass(frozen=True, eq=False)
class SplitRows:
    """The splits of a data set.

    Attributes:
      source: name of the data set, for messages.
      infos: {name of a split: its tfds.core.SplitInfo}.
      rows: {name of a split: its rows in the index, in order, int64 [n]}.
    """

    source: str
    infos: Mapping[str, Any]
    rows: dict[str, np.ndarray]

    def select(self, split: str) -> np.ndarray:
        """The rows of a split in TFDS syntax: `train`, `train[:90%]`, `train+test`; int64 [n].

        Raises:
          UsageError: the split does not exist or is empty.
        """
        import tensorflow_datasets as tfds

        try:
            parts = tfds.core.splits.AbstractSplit.from_spec(split).to_absolute(self.infos)
        except (KeyError, ValueError, AssertionError) as error:
            known = ", ".join(f"{name} ({len(rows)})" for name, rows in self.rows.items())
            raise UsageError(
                f"split {split!r} does not exist in {self.source}, which has {known};"
                " a part of a split is written train[:90%]."
            ) from error
        rows = np.concatenate([self.rows[part.splitname][part.from_ : part.to] for part in parts])
        if not len(rows):
            raise UsageError(f"split {split!r} of {self.source} is empty: choose a larger part.")
        return rows


def tfds_splits(builder: Any, index: Index) -> SplitRows:
    """The splits of a TFDS builder, whose rows `index` holds."""
    shard_of = {path: number for number, path in enumerate(index.shards)}
    rows = {
        name: np.flatnonzero(np.isin(index.columns["shard"], [shard_of[str(path)] for path in info.filepaths]))
        for name, info in builder.info.splits.items()
    }
    return SplitRows(builder.info.full_name, dict(builder.info.splits), rows)


def consecutive_splits(source: str, counts: Mapping[str, int]) -> SplitRows:
    """Splits whose rows follow each other; `counts` is {name of a split: number of its rows}."""
    import tensorflow_datasets as tfds

    ends = np.cumsum(list(counts.values()))
    return SplitRows(
        source,
        {name: tfds.core.SplitInfo(name=name, shard_lengths=[n], num_bytes=0) for name, n in counts.items()},
        {name: np.arange(end - n, end) for (name, n), end in zip(counts.items(), ends.tolist(), strict=True)},
    )
