"""Loads images with PyTorch's DataLoader and Pillow in persistent workers; normalized float32 output, channels first.

Torchvision transforms Pillow images, as in PyTorch's ImageNet example; NumPy transforms small images. Decoded images
are arrays: small images in memory, raw images memory-mapped.
"""

from __future__ import annotations

import loading
import numpy as np
import PIL
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler

try:
    import torchvision
except RuntimeError:
    # PyPI's torchvision cannot load its operators with a CPU build of torch. The import fails at two operators that no
    # image transform uses, so these are declared here.
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    import torchvision
from torchvision import transforms

MEAN, DEVIATION = 0.5, 0.29  # of pixel values from 0 to 1
EPOCH_IMAGES = 10**8  # practically endless, because the queues of the workers run empty at the end of an epoch


class Images(Dataset):
    def __init__(self, work: loading.Work) -> None:
        self.work = work
        if work.task in ("small32", "raw224"):
            self.images, self.labels = work.small_images() if work.small else work.raw_images(), work.labels()
        else:
            self.images, self.labels = work.paths()
        self.rng: np.random.Generator | None = None
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(work.size, loading.AREA, loading.ASPECT),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize([MEAN] * 3, [DEVIATION] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        image, label = self.images[row], int(self.labels[row])
        if self.work.small:
            if self.rng is None:  # created in the worker process, where PyTorch has set the seed
                self.rng = np.random.default_rng(torch.initial_seed())
            return normalize(torch.from_numpy(loading.padded_crop(image, self.rng))), label
        image = Image.fromarray(image) if self.work.task == "raw224" else Image.open(image).convert("RGB")
        return self.transform(image), label


def normalize(image: torch.Tensor) -> torch.Tensor:
    """Normalizes an image uint8 [h, w, 3] -> float32 [3, h, w], as ToTensor and Normalize do."""
    image = image.permute(2, 0, 1).contiguous().to(torch.float32).div_(255)
    return image.sub_(MEAN).div_(DEVIATION)


def to_gray_levels(batch: list[torch.Tensor]) -> np.ndarray:
    """Returns the images of a batch with values from 0 to 255, float32 [b, h, w, 3]."""
    return (255 * (batch[0] * DEVIATION + MEAN)).permute(0, 2, 3, 1).numpy()


def prepare(threads: int, folder: str):
    work = loading.read_work(folder)
    images = Images(work)
    loader = DataLoader(
        images,
        work.batch,
        sampler=RandomSampler(images, num_samples=EPOCH_IMAGES),
        num_workers=threads,
        drop_last=True,
        persistent_workers=True,
    )
    batches = iter(loader)
    work = loading.Work(work.task, work.folder, len(images))
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, Pillow {PIL.__version__}"
    about = f"{versions}, float32 out, {threads} worker processes"
    return loading.serve_batches(batches, work, about, to_gray_levels)
