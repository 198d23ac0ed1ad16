"""Loading with PyTorch's DataLoader and Pillow, worker processes that stay; uint8 out, channels last.

The transforms are torchvision's on Pillow images, by Pillow itself: torchvision's wheels on PyPI want a CUDA build of
torch. Decoded images, small and raw, are numpy arrays, in memory and mapped.
"""

from __future__ import annotations

import loading
import numpy as np
import PIL
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler

ENDLESS = 10**8  # images: an epoch's end would drain the workers' queues


class Images(Dataset):
    def __init__(self, work: loading.Work) -> None:
        self.work = work
        if work.task in ("small32", "raw224"):
            self.images, self.labels = work.small_images() if work.small else work.raw_images(), work.labels()
        else:
            self.images, self.labels = work.paths()
        self.rng: np.random.Generator | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        if self.rng is None:  # in the worker process, whose seed PyTorch sets
            self.rng = np.random.default_rng(torch.initial_seed())
        image = self.images[row]
        if self.work.small:
            image = loading.padded_crop(image, self.rng)
        else:
            image = Image.fromarray(image) if self.work.task == "raw224" else Image.open(image).convert("RGB")
            image = loading.scaled_crop(image, self.work.size, self.rng)
        return torch.from_numpy(np.array(image)), int(self.labels[row])


def prepare(threads: int, folder: str):
    work = loading.read(folder)
    images = Images(work)
    loader = DataLoader(
        images,
        work.batch,
        sampler=RandomSampler(images, num_samples=ENDLESS),
        num_workers=threads,
        drop_last=True,
        persistent_workers=True,
    )
    batches = iter(loader)
    work = loading.Work(work.task, work.folder, len(images))
    about = f"torch {torch.__version__}, Pillow {PIL.__version__}, uint8 out, {threads} worker processes"
    return loading.served(batches, work, about, lambda batch: batch[0].numpy())
