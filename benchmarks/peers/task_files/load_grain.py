"""Loads images with Grain and Pillow in worker processes; uint8 output.

Decoded images are NumPy arrays: small images in memory, raw images memory-mapped.
"""

from __future__ import annotations

from importlib.metadata import version

import grain
import loading
import numpy as np
import PIL
from PIL import Image


class Rows:
    """The source that Grain reads: element i is the number i, so that images are read only in the worker processes."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> int:
        return row


class LoadAndAugment(grain.transforms.RandomMap):
    def __init__(self, work: loading.Work) -> None:
        self.work = work
        if work.task in ("small32", "raw224"):
            self.images, self.labels = work.small_images() if work.small else work.raw_images(), work.labels()
        else:
            self.images, self.labels = work.paths()

    def random_map(self, row: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        image = self.images[row]
        if self.work.small:
            image = loading.padded_crop(image, rng)
        else:
            image = Image.fromarray(image) if self.work.task == "raw224" else Image.open(image).convert("RGB")
            image = loading.random_resized_crop(image, self.work.size, rng)
        return image, int(self.labels[row])


def prepare(threads: int, folder: str):
    work = loading.read_work(folder)
    load_and_augment = LoadAndAugment(work)
    work = loading.Work(work.task, work.folder, len(load_and_augment.labels))
    ds = grain.MapDataset.source(Rows(work.images)).seed(0).shuffle().repeat()
    ds = ds.random_map(load_and_augment)
    ds = ds.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=work.batch))
    ds = ds.batch(work.batch, drop_remainder=True)
    ds = ds.mp_prefetch(grain.MultiprocessingOptions(num_workers=threads))
    about = f"grain {version('grain')}, Pillow {PIL.__version__}, uint8 out, {threads} worker processes"
    return loading.serve_batches(iter(ds), work, about, lambda batch: batch[0])
