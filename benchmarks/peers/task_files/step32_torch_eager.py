"""Runs step32 with PyTorch without torch.compile, in eager mode, which takes less CPU time here."""

from __future__ import annotations

import step32_torch
from step32_torch import parameters

__all__ = ["parameters", "prepare"]


def prepare(threads: int):
    return step32_torch.prepare(threads, compiled=False)
