"""Runs step32 with PyTorch: channels last, bfloat16 autocast if the processor has it, fused SGD, torch.compile."""

from __future__ import annotations

import math
import random

import step_precision
import torch
import torch.nn.functional as F
from torch import nn

BATCH = 128


class Conv(nn.Sequential):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.1),
            nn.ReLU(inplace=True),
        )


class Network(nn.Module):
    """A network of four convolutions and two poolings: images uint8 [b, h, w, 3] -> logits [b, 10]."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        w = width
        self.body = nn.Sequential(
            Conv(3, w),
            Conv(w, 2 * w),
            nn.MaxPool2d(2),
            Conv(2 * w, 4 * w),
            nn.MaxPool2d(2),
            Conv(4 * w, 8 * w),
        )
        self.logits = nn.Linear(8 * w, 10)
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 127.5))
        self.register_buffer("std", torch.full((1, 3, 1, 1), 73.9))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        return self.logits(self.body(x).mean((2, 3)))


def parameters() -> int:
    return sum(p.numel() for p in Network().parameters() if p.requires_grad)


def prepare(threads: int, compiled: bool = True):
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    images = torch.frombuffer(bytearray(random.Random(0).randbytes(BATCH * 32 * 32 * 3)), dtype=torch.uint8)
    images, labels = images.view(BATCH, 32, 32, 3), torch.arange(BATCH) % 10

    network = Network().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, fused=True)

    def compute_loss(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=step_precision.has_bfloat16()):
            logits = network(images)
        return F.cross_entropy(logits.float(), labels)

    if compiled:
        compute_loss = torch.compile(compute_loss)

    def run(count: int) -> dict[str, float]:
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            loss = compute_loss(images, labels)
            loss.backward()
            optimizer.step()
        return {"loss": check_finite(loss.item())}

    run(4)
    kind = "torch.compile" if compiled else "eager"
    return {
        "same": {"trainable parameters": parameters(), "images a step": BATCH},
        "images_per_step": BATCH,
        "about": f"torch {torch.__version__}, {kind}, {step_precision.name_precision()},"
        f" {torch.get_num_threads()} threads",
    }, run


def check_finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise ValueError(f"the loss is {loss}")
    return loss
