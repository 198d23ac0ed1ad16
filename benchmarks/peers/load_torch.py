"""Loading with PyTorch's DataLoader and Pillow, worker processes that stay; normalized float32 out, channels first.

The transforms are torchvision's on Pillow images (RandomResizedCrop, RandomHorizontalFlip, ToTensor, Normalize, as
PyTorch's ImageNet example has them), by Pillow and torch themselves: torchvision's wheels on PyPI want a CUDA build of
torch. Decoded images, small and raw, are numpy arrays, in memory and mapped.
"""

from __future__ import annotations

import loading
import numpy as np
import PIL
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler

MEAN, DEVIATION = 0.5, 0.29  # of pixels in 0 to 1
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
        return normalized(torch.from_numpy(np.array(image))), int(self.labels[row])


def normalized(image: torch.Tensor) -> torch.Tensor:
    """What ToTensor and Normalize make of uint8 [h, w, 3]: float32 [3, h, w]."""
    image = image.permute(2, 0, 1).contiguous().to(torch.float32).div_(255)
    return image.sub_(MEAN).div_(DEVIATION)


def pixels(batch: list[torch.Tensor]) -> np.ndarray:
    return (255 * (batch[0] * DEVIATION + MEAN)).permute(0, 2, 3, 1).numpy()


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
    about = f"torch {torch.__version__}, Pillow {PIL.__version__}, float32 out, {threads} worker processes"
    return loading.served(batches, work, about, pixels)
