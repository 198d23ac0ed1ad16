"""The cache of decoded images in memory: whether to cache, and the cached images.

cache = cached_images(index, config)    # None: images are decoded for every batch

Images are cached at the model's size, or whole if a random resized crop needs all their pixels.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.augment import chain
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.images.exif import UPRIGHT
from evenkeel.pipeline.index.index import RAW, Index
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.reading import small_images
from evenkeel.pipeline.reading.byte_source import ByteSource, pixel_source
from evenkeel.pipeline.reading.crop_plan import make_evaluation_planner
from evenkeel.pipeline.reading.decoded_file import decoded_file, read_decoded, write_decoded
from evenkeel.pipeline.reading.decoder import make_batch_decoder, make_whole_decoder
from evenkeel.pipeline.reading.reader import evaluation_reader
from evenkeel.pipeline.reading.small_images import SmallImages
from evenkeel.pipeline.reading.tf_data_options import tf_data_options
from evenkeel.pipeline.system import memory_budget
from evenkeel.pipeline.system.tensor_memory import allocate_bytes, share_as_tensor

# `data.cache=auto` caches images only if their side is at most AUTO_MAX_SIDE (pixels) and all of them take at most
# AUTO_MAX_BYTES; no more bytes than these are also kept on disk. The 50,000 images of CIFAR, with borders and mirrored
# copies, take 480 MB.
AUTO_MAX_SIDE, AUTO_MAX_BYTES = 64, 1 << 30
BATCH_IMAGES = 256  # images decoded at a time to fill the cache


@dataclasses.dataclass(frozen=True)
class CachePlan:
    """The contents of a cache.

    Attributes:
      small: whether images are cached at the model's size; if not, they are cached whole.
      border: width of a reflected border around small images, in pixels.
      mirror: whether small images are also stored mirrored.
    """

    small: bool
    border: int = 0
    mirror: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class WholeImages:
    """Whole decoded images in memory.

    Attributes:
      index: the cached rows; their kind is RAW.
      source: reads the pixels of the rows; payloads are row numbers.
    """

    index: Index
    source: ByteSource


def cached_images(index: Index, config: DataConfig) -> SmallImages | WholeImages | None:
    """The decoded images of `index` in memory, if `config.cache` asks for them; None if every batch decodes its images.

    The first call decodes all images, or reads what an earlier process has decoded. The cache is kept for the next call
    with the same arguments.

    Raises:
      UsageError: `data.cache=memory`, and the images do not fit into the budget.
    """
    plan = plan_cache(index, config)
    if not plan:
        return None
    # Fields that do not affect decoding are reset, so that a change of these fields does not fill the cache again.
    return _decode_all(index, plan, dataclasses.replace(config, batch_size=1, eval_crop=1.0, augment=AugmentConfig()))


def plan_cache(index: Index, config: DataConfig) -> CachePlan | None:
    """Decides how to cache the images of `index`; None if they are not cached.

    Raises:
      UsageError: `data.cache=memory`, and the images do not fit into the budget.
    """
    if config.cache not in ("memory", "auto"):
        return None
    if config.cache == "auto" and (config.reader == "streaming" or config.service):
        return None
    augment = config.augment
    if augment.random_resized_crop:
        plan, needed = CachePlan(small=False), int(_image_bytes(index, config.channels).sum())
    else:
        by_copying = chain.moves_whole_pixels(augment)
        plan = CachePlan(True, augment.pad_crop if by_copying else 0, by_copying and augment.flip > 0)
        needed = small_images.size_in_bytes(len(index), config.image_shape, config.channels, plan.border, plan.mirror)
    budget = memory_budget.budget_bytes(config.cache_budget_mb)
    if config.cache == "auto":
        cacheable = plan.small and max(config.image_shape) <= AUTO_MAX_SIDE and needed <= min(budget, AUTO_MAX_BYTES)
        return plan if cacheable else None
    memory_budget.require_fit(needed, budget, f"{len(index)} decoded images")
    return plan


@functools.lru_cache(maxsize=1)  # a data set that is built again, also from another step on, reuses the images
def _decode_all(index: Index, plan: CachePlan, config: DataConfig) -> SmallImages | WholeImages:
    replica_shard = ReplicaShard(min(len(index), BATCH_IMAGES))
    if plan.small:
        return _small_images(index, plan, config, replica_shard)
    ds, source = evaluation_reader(config, index, replica_shard)
    ds = ds.unbatch().take(len(index))
    ds = ds.map(make_whole_decoder(index, config, source), num_parallel_calls=tf.data.AUTOTUNE)
    return store_whole_images(ds.with_options(tf_data_options(config)).as_numpy_iterator(), index, config.channels)


def _small_images(index: Index, plan: CachePlan, config: DataConfig, replica_shard: ReplicaShard) -> SmallImages:
    file = decoded_file(index, config)
    stored = read_decoded(file)
    if stored is not None:
        return small_images.store_small_images(stored, len(index), plan.border, plan.mirror)
    ds, source = evaluation_reader(config, index, replica_shard)
    ds = ds.map(make_evaluation_planner(index, config, source))
    ds = ds.map(make_batch_decoder(index, config, source, replica_shard), num_parallel_calls=tf.data.AUTOTUNE)
    ds = ds.prefetch(tf.data.AUTOTUNE).with_options(tf_data_options(config))
    batches = (images[labels >= 0] for _, images, labels in ds.as_numpy_iterator())
    small = small_images.store_small_images(batches, len(index), plan.border, plan.mirror)
    if np.prod(file.shape) <= AUTO_MAX_BYTES:
        write_decoded(file, small.batches())
    return small


def store_whole_images(images: Iterable[np.ndarray], index: Index, channels: int) -> WholeImages:
    """Stores all images of `index` one after another; `images` are uint8 [h, w, channels] in the order of its rows."""
    sizes = _image_bytes(index, channels)
    offsets = np.cumsum(sizes) - sizes
    memory = allocate_bytes(int(sizes.sum()))
    for image, offset, size in zip(images, offsets, sizes, strict=True):
        memory[offset : offset + size] = image.reshape(-1)
    height, width = index.upright_sizes
    columns = {**index.columns, "height": height, "width": width}
    columns["kind"], columns["orientation"] = (np.full(len(index), value, np.int8) for value in (RAW, UPRIGHT))
    source = pixel_source(share_as_tensor(memory), offsets, channels)
    return WholeImages(dataclasses.replace(index, columns=columns), source)


def _image_bytes(index: Index, channels: int) -> np.ndarray:
    """The size of each decoded image in bytes, int64 [rows]."""
    return index.columns["height"].astype(np.int64) * index.columns["width"] * channels
