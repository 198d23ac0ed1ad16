"""Decoded images in memory: whether they fit, and where they lie.

chosen = plan(index, config)    # None: images are decoded as they are used
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from evenkeel.pipeline.augment import chain
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.index.index import RAW, Index
from evenkeel.pipeline.reading import small_images as frames
from evenkeel.pipeline.reading.byte_source import Fetch, pixels_in
from evenkeel.pipeline.system import memory_budget, tensor_memory

# What `auto` holds without being asked: CIFAR's 50,000 images, bordered and mirrored, are 480 MB.
SMALL, SMALL_BYTES = 64, 1 << 30


@dataclasses.dataclass(frozen=True)
class Plan:
    """`frames`: images at the size that the model sees, with a `border` and `mirror`ed; else whole images."""

    frames: bool
    border: int = 0
    mirror: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Whole decoded images: rows of the kind RAW, whose payloads are these rows, and what fetches them."""

    index: Index
    fetch: Fetch


def plan(index: Index, config: DataConfig) -> Plan | None:
    """What to hold of `index`; None for nothing.

    Raises:
      UsageError: `data.cache=memory`, and it does not fit.
    """
    if config.cache not in ("memory", "auto"):
        return None
    if config.cache == "auto" and (config.reader == "streaming" or config.service):
        return None
    changes = config.augment
    if changes.random_resized_crop:
        chosen, needed = Plan(frames=False), int(_sizes(index, config.channels).sum())
    else:
        by_copying = chain.moves_whole_pixels(changes)
        chosen = Plan(True, changes.pad_crop if by_copying else 0, by_copying and changes.flip > 0)
        needed = frames.size_in_bytes(len(index), config.image_size, config.channels, chosen.border, chosen.mirror)
    allowed = memory_budget.budget_bytes(config.cache_budget_mb)
    if config.cache == "auto":
        small = chosen.frames and config.image_size <= SMALL and needed <= min(allowed, SMALL_BYTES)
        return chosen if small else None
    memory_budget.require_fit(needed, allowed, f"{len(index)} decoded images")
    return chosen


def hold(images: Iterable[np.ndarray], index: Index, channels: int) -> Images:
    """All of `index`'s images, uint8 [h, w, channels] each, in the order of its rows, one behind the other."""
    sizes = _sizes(index, channels)
    offsets = np.cumsum(sizes) - sizes
    held = tensor_memory.allocate_bytes(int(sizes.sum()))
    for image, offset, size in zip(images, offsets, sizes, strict=True):
        held[offset : offset + size] = image.reshape(-1)
    columns = {**index.columns, "kind": np.full(len(index), RAW, index.columns["kind"].dtype)}
    return Images(
        dataclasses.replace(index, columns=columns), pixels_in(tensor_memory.share_as_tensor(held), offsets, channels)
    )


def _sizes(index: Index, channels: int) -> np.ndarray:
    return index.columns["height"].astype(np.int64) * index.columns["width"] * channels
