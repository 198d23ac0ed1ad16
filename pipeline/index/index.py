"""The index of a data set: a table with one row per image (shard, offset, length, label, size, pixel sums, ...).

train = index.take(splits.select("train[:90%]")).kept_rows
mean, std = train.channel_statistics(channels=3)
"""

from __future__ import annotations

import dataclasses

import numpy as np

from evenkeel.pipeline.images.exif import FIRST_TURNED, UPRIGHT
from evenkeel.pipeline.images.sample_bits import ALL_BITS, scale_sums
from evenkeel.pipeline.index.features import Features

# Values of the column `kind`. A JPEG can be decoded in part; an image of kind OTHER is decoded as a whole; RAW needs no
# decoder, because the stored bytes are the pixels (uint8 [height, width, 3]).
OTHER, JPEG, RAW = range(3)

COLUMNS: dict[str, tuple[type, tuple[int, ...]]] = {
    "shard": (np.int32, ()),  # index into Index.shards
    "record": (np.int64, ()),  # number of the record in its shard
    "start": (np.int64, ()),  # byte of the shard at which the record begins
    "offset": (np.int64, ()),  # byte of the shard at which the image begins
    "length": (np.int64, ()),  # bytes of the image
    "label": (np.int64, ()),
    "kind": (np.int8, ()),  # OTHER, JPEG or RAW
    "format": (np.int8, ()),  # index into images.header.FORMATS; 0 for RAW
    "keep": (np.bool_, ()),  # whether the row is used for training
    "dropped": (np.bool_, ()),  # whether a usable row was dropped by the user
    "height": (np.int32, ()),  # of the image as it is stored
    "width": (np.int32, ()),
    "orientation": (np.int8, ()),  # how to turn the stored image, see images.exif: 1 to 8, and 0 if it is not decoded
    "sample_bits": (np.int8, ()),  # of a 16-bit file, the bits that its largest sample needs; 0 for other files
    # The results of pixel_sums: sums over red, green, blue and luma; sums over the Laplacian of luma; a pixel hash.
    "sums": (np.int64, (4,)),
    "squares": (np.int64, (4,)),
    "laplacian": (np.int64, (2,)),
    "fingerprint": (np.int64, ()),
    "perceptual_hash": (np.int64, (4,)),  # of the upright image, see images.perceptual_hash
    "name": (np.bytes_, ()),  # the file name; empty if the data set has none
}


@dataclasses.dataclass(frozen=True, eq=False)
class SeekArrays:
    """The JPEG seek points of all images of a data set, concatenated; see jpeg.seek_points.SeekPoints.

    Attributes:
      points: int32 [n, 3].
      filler: uint8 [m].
    """

    points: np.ndarray
    filler: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """Rows over the shards of one data set.

    Attributes:
      shards: path of each shard.
      sizes: bytes of each shard.
      features: names of the data set's features and classes.
      columns: {name: array [rows, ...]}, as in `COLUMNS`. With `seek_arrays` there is one more column, `seek_record`:
        int64 [rows, 11], a jpeg.seek_points.SeekRecord per row.
      faults: {(shard, record): "name: reason"} of every row that is not kept.
      seek_arrays: the seek points of JPEGs; None without a seek index.
      sample_bits: the bits that the samples of 16-bit files are taken to hold.
    """

    shards: tuple[str, ...]
    sizes: tuple[int, ...]
    features: Features
    columns: dict[str, np.ndarray]
    faults: dict[tuple[int, int], str]
    seek_arrays: SeekArrays | None = None
    sample_bits: int = ALL_BITS

    def __len__(self) -> int:
        return len(self.columns["label"])

    def take(self, rows: np.ndarray) -> Index:
        """The rows that a boolean mask or an array of row numbers selects."""
        return dataclasses.replace(self, columns={name: column[rows] for name, column in self.columns.items()})

    def fit_sample_bits(self) -> Index:
        """Returns the index with `sample_bits` and sums that fit the largest sample of all 16-bit files."""
        bits = int(self.columns["sample_bits"].max(initial=0)) or ALL_BITS
        return dataclasses.replace(self, columns=scale_sums(self.columns, bits), sample_bits=bits)

    @property
    def kept_rows(self) -> Index:
        """The rows that are used for training."""
        return self.take(self.columns["keep"])

    @property
    def corrupt_rows(self) -> Index:
        """The rows that cannot be used."""
        return self.take(~self.columns["keep"] & ~self.columns["dropped"])

    @property
    def skip_reasons(self) -> list[str]:
        """One line "name: reason" for each row that is not kept."""
        lost = self.take(~self.columns["keep"]).columns
        return [self.faults[int(s), int(r)] for s, r in zip(lost["shard"], lost["record"], strict=True)]

    @property
    def names(self) -> list[str]:
        """The name of each row: its file name, or "SHARD record NUMBER" if it has none."""
        return [
            name.decode(errors="backslashreplace") or f"{self.shards[shard]} record {record}"
            for name, shard, record in zip(
                *(self.columns[c].tolist() for c in ("name", "shard", "record")), strict=True
            )
        ]

    @property
    def is_turned(self) -> bool:
        """Whether any image must be turned or mirrored after it is decoded."""
        return bool((self.columns["orientation"] > UPRIGHT).any())

    @property
    def upright_sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Heights and widths of the upright images, int32 [rows] each."""
        height, width, turned = (
            self.columns["height"],
            self.columns["width"],
            self.columns["orientation"] >= FIRST_TURNED,
        )
        return np.where(turned, width, height), np.where(turned, height, width)

    def drop(self, reasons: dict[int, str]) -> Index:
        """Returns all rows, with those in `reasons` ({row number: reason}) dropped. Corrupt rows stay corrupt."""
        rows = np.array([row for row in reasons if self.columns["keep"][row]], np.int64)
        columns = {**self.columns, "keep": self.columns["keep"].copy(), "dropped": self.columns["dropped"].copy()}
        columns["keep"][rows], columns["dropped"][rows] = False, True
        selected = self.take(rows)
        records = zip(
            *(selected.columns[c].tolist() for c in ("shard", "record")), selected.names, rows.tolist(), strict=True
        )
        faults = {(shard, record): f"{name}: {reasons[row]}" for shard, record, name, row in records}
        return dataclasses.replace(self, columns=columns, faults={**self.faults, **faults})

    def undrop(self) -> Index:
        """Returns all rows, with all dropped rows kept again."""
        keep, dropped = self.columns["keep"], self.columns["dropped"]
        records = set(zip(*(self.columns[c][dropped].tolist() for c in ("shard", "record")), strict=True))
        faults = {record: reason for record, reason in self.faults.items() if record not in records}
        columns = {**self.columns, "keep": keep | dropped, "dropped": np.zeros_like(dropped)}
        return dataclasses.replace(self, columns=columns, faults=faults)

    def channel_statistics(self, channels: int) -> tuple[list[float], list[float]]:
        """Mean and standard deviation per channel over all pixels of the rows, in units of 0..255.

        `channels` is 3 for red, green and blue, or 1 for luma.
        """
        selected = slice(0, 3) if channels == 3 else slice(3, 4)
        pixels = float(np.sum(self.columns["height"].astype(np.int64) * self.columns["width"]))
        mean = self.columns["sums"].sum(axis=0)[selected] / pixels
        variance = self.columns["squares"].sum(axis=0)[selected] / pixels - mean**2
        # The deviation is at least one gray level: it would be 0 for a data set of a single colour, and images are
        # divided by it.
        return mean.tolist(), np.sqrt(np.maximum(variance, 1.0)).tolist()
