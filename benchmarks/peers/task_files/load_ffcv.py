"""Loads images with FFCV: its decoder with random resized crop, its flip, translation and cutout; uint8 output.

The bytes of the JPEG files are copied unchanged into FFCV's format. FFCV's translation fills the border with one
colour; the other loaders reflect the image there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import loading
import numpy as np
import PIL.Image
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder, SimpleRGBImageDecoder
from ffcv.fields.rgb_image import IMAGE_MODES
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import Cutout, RandomHorizontalFlip, RandomTranslate
from ffcv.writer import DatasetWriter

EPOCH_IMAGES = 1 << 18  # epochs are long, because every epoch starts a new thread and allocates new buffers


class JpegFiles(RGBImageField):
    """An image field that stores the bytes of a JPEG file; FFCV's own field would encode the pixels again."""

    def encode(self, destination: np.ndarray, path: str, malloc: Callable) -> None:
        contents = np.fromfile(path, np.uint8)
        with PIL.Image.open(path) as image:
            destination["width"], destination["height"] = image.size
        destination["mode"] = IMAGE_MODES["jpg"]
        destination["data_ptr"], storage = malloc(contents.nbytes)
        storage[:] = contents


class Rows:
    """The indexed data set that FFCV's writer reads: element i is (image, label) of row i."""

    def __init__(self, images: Sequence | loading.RawImages | np.ndarray, labels: Sequence | np.ndarray) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[object, int]:
        return self.images[row], int(self.labels[row])


def write_beton(work: loading.Work) -> Path:
    """Writes the images in FFCV's format, once, and returns the path of the file."""
    path = work.folder / "ffcv.beton"
    if path.is_file():
        return path
    if work.task in ("small32", "raw224"):
        rows = Rows(work.small_images() if work.small else work.raw_images(), work.labels())
        field = RGBImageField(write_mode="raw")
    else:
        rows, field = Rows(*work.paths()), JpegFiles()
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    writer = DatasetWriter(str(unfinished), {"image": field, "label": IntField()}, num_workers=2)
    writer.from_indexed_dataset(rows)
    unfinished.rename(path)
    return path


def prepare(threads: int, folder: str):
    work = loading.read_work(folder)
    path = write_beton(work)
    if work.small:
        gray = (loading.GRAY,) * 3
        pipeline = [
            SimpleRGBImageDecoder(),
            RandomHorizontalFlip(),
            RandomTranslate(loading.PAD, gray),
            Cutout(loading.CUTOUT, gray),
        ]
    else:
        size = (work.size, work.size)
        pipeline = [RandomResizedCropRGBImageDecoder(size, loading.AREA, loading.ASPECT), RandomHorizontalFlip()]
    work = loading.Work(work.task, work.folder, len(work.paths()[0]))
    loader = Loader(
        str(path),
        batch_size=work.batch,
        num_workers=threads,
        os_cache=True,
        order=OrderOption.RANDOM,
        indices=np.tile(np.arange(work.images), -(-EPOCH_IMAGES // work.images)),
        pipelines={"image": pipeline, "label": [IntDecoder()]},
        custom_fields={"image": RGBImageField},
        drop_last=True,
    )
    batches = loading.repeat_epochs(lambda: loader)
    about = f"ffcv {version('ffcv')}, uint8 out, {threads} threads"
    return loading.serve_batches(batches, work, about, lambda batch: batch[0])
