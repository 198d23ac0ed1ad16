"""What changes to the input would take away from an image's cost, each of them tried on some images.

floor, prepared = decoding(data, config, seed=0)
savings("decode", {"decode": 1.2, ...}, 0.0, prepared, data, config, seed=0)
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from evenkeel.pipeline import build
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.images import crop
from evenkeel.pipeline.images.decode import (
    decode_crop,
    decode,
    decode_whole,
    resize,
)
from evenkeel.pipeline.index.index import JPEG, RAW, Index
from evenkeel.pipeline.index.shuffle import ReplicaShard
from evenkeel.pipeline.jpeg import seek_index
from evenkeel.pipeline.prepare.storage_format import shrink_to_side
from evenkeel.pipeline.profile.timing import Chain, time_per_image
from evenkeel.pipeline.profile.training_chain import (
    BATCHES_IN_MEMORY,
    time_chain,
    append_stage,
    with_options,
)
from evenkeel.pipeline.reading import cache, reader
from evenkeel.pipeline.reading.byte_source import mapped

TURNS = 5  # of comparing augmentations, which differ by little
HELD = 512  # images held in memory to try what that would gain
SAMPLE = 64  # images decoded for the decoder's floor, and re-encoded or entered for what that would gain
QUALITY = 90
SIDE_MARGIN = 8 / 7  # of the stored shorter side over the random crop's: ImageNet's usual 256 for 224


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What a change takes away from an image's ms of CPU and of waiting."""

    change: str
    options: dict[str, Any]
    cpu: float
    wait: float = 0.0


def candidate_changes(
    bound: str,
    cpu: dict[str, float],
    wait: float,
    prepared: dict[str, float],
    data: Dataset,
    config: DataConfig,
    seed: int,
) -> list[Candidate]:
    """The changes that a bound calls for; of the ms of `cpu` that each stage takes of an image, and of waiting.

    `prepared` as `decoding` found it.
    """
    may_enter, config = not config.service, dataclasses.replace(config, service="")
    if bound == "augment":
        return [
            Candidate(
                f"doing without the dearest augmentation, --data.augment.{name}=0",
                {f"augment.{name}": 0},
                cpu["augment"] * part,
            )
            for name, part in _augmentations(data, config, seed).items()
        ]
    changes, whole = [], sum(cpu.values())
    if bound == "read":
        changes.append(Candidate("a faster disk, or a copy of the data set on one", {}, 0.0, wait))
    if bound == "decode":
        for tier, left in prepared.items():
            command = f"python -m tools.prepare --source={config.source} --tier={tier} --output=DIR"
            changes.append(Candidate(f"smaller files, {command}", {"tier": tier}, cpu["decode"] * (1 - left)))
        entered = _entered(data, config, seed) if may_enter else None
        if entered is not None:
            change = "no more of each JPEG read than its crop needs, --data.entries"
            changes.append(Candidate(change, {"entries": True}, whole * (1 - entered)))
    held = _from_memory(data, config, seed)
    if held is not None:
        change = "decoded images in memory, --data.cache=memory"
        changes.append(Candidate(change, {"cache": "memory"}, whole - held, wait))
    return changes


def _entered(data: Dataset, config: DataConfig, seed: int) -> float | None:
    """The part of an image's CPU time that is left with `data.entries`, found and tried for a sample; None where they
    are there already or cannot be."""
    held = build.cached(data.train, config) is not None
    if held or data.train.entries is not None or not reader.use_mapping(config, data.train):
        return None
    # What all images have no room for, a few would have.
    few, config = dataclasses.replace(data, train=_sampled(data.train, seed)), dataclasses.replace(config, cache="none")
    with tempfile.TemporaryDirectory() as directory:
        index = seek_index.with_entries(few.train, directory, directory)
    if index.entries is None:
        return None
    after = time_chain(dataclasses.replace(few, train=index), config, seed)[0]
    return after / max(time_chain(few, config, seed)[0], 1e-9)


def _sampled(index: Index, seed: int) -> Index:
    return index.take(np.random.default_rng(seed).permutation(len(index))[:SAMPLE])


def _from_memory(data: Dataset, config: DataConfig, seed: int) -> float | None:
    """ms of CPU per image with decoded images in memory, tried on some; None where they are there or do not fit."""
    changed = dataclasses.replace(config, cache="memory", reader="auto")
    if build.cached(data.train, config) is not None:
        return None
    try:
        cache.plan(data.train, changed)
    except UsageError:
        return None
    few = dataclasses.replace(data, train=data.train.take(np.arange(min(len(data.train), HELD))))
    return time_chain(few, changed, seed)[0]


def _augmentations(data: Dataset, config: DataConfig, seed: int) -> dict[str, float]:
    """{option: the part of the augmentations' CPU time that is gone without it}."""
    options, off = build.options(config), AugmentConfig()

    def alone(augment: AugmentConfig) -> tuple[Chain, Chain]:
        """What the stage gets, and what it makes of that."""
        changed = dataclasses.replace(config, augment=augment)
        (_, read), *rest = build.training_stages(data, changed, seed, ReplicaShard(config.batch_size))
        chain = read().take(BATCHES_IN_MEMORY)
        for name, stage in rest:
            if name == "augment":
                break
            chain = stage(chain)
        given = chain.cache().repeat
        return with_options(given, options), with_options(append_stage(given, stage), options)

    on = [
        field.name
        for field in dataclasses.fields(AugmentConfig)
        if getattr(config.augment, field.name) != getattr(off, field.name)
        and field.name not in ("random_resized_crop", "randaugment_magnitude")
    ]
    variants = {"": alone(config.augment)} | {
        name: alone(dataclasses.replace(config.augment, **{name: getattr(off, name)})) for name in on
    }
    runs: dict[str, list[float]] = {name: [] for name in variants}
    # In turns: what disturbs the machine for a while then disturbs all of them.
    for _ in range(TURNS):
        for name, (given, made) in variants.items():
            before, after = (time_per_image(chain, BATCHES_IN_MEMORY, BATCHES_IN_MEMORY * config.batch_size, rounds=1).cpu for chain in (given, made))
            runs[name].append(max(0.0, after - before))
    whole, *_ = middle = [statistics.median(of) for of in runs.values()]
    return {name: float(np.clip(1 - left / max(whole, 1e-9), 0, 1)) for name, left in zip(on, middle[1:], strict=True)}


def time_decoding(data: Dataset, config: DataConfig, seed: int) -> tuple[float, dict[str, float]]:
    """The bare decoder's ms of CPU per image of a sample, and {tier: decoding's part that is left with it}.

    The tiers are tried on the sample, re-encoded in memory.
    """
    size, channels, strength = config.image_size, config.channels, config.augment.random_resized_crop
    index = _sampled(data.train, seed)
    count, kinds = len(index), index.columns["kind"]
    if (kinds == RAW).any():
        return 0.0, {}  # pixels are stored: no decoder, and nothing smaller to store
    stored = list(reader.stored_images(index)(tf.range(count, dtype=tf.int64)).as_numpy_iterator())
    options = build.options(config)

    def windows(heights: np.ndarray, widths: np.ndarray) -> tf.Tensor:
        if not strength:
            return crop.central_windows(tf.constant(heights), tf.constant(widths))
        draws = tf.random.stateless_uniform([count, crop.DRAWS_PER_IMAGE], [seed, 0])
        return crop.random_windows(tf.constant(heights), tf.constant(widths), strength, draws)

    def taken(of: Callable[..., tf.Tensor], *columns: Any) -> float:
        kept = tf.data.Dataset.from_tensor_slices(columns).cache()
        run = lambda n: kept.repeat(n).map(of, num_parallel_calls=tf.data.AUTOTUNE)  # noqa: E731
        return time_per_image(with_options(run, options), count, count).cpu

    heights, widths = index.columns["height"], index.columns["width"]
    chosen, is_jpeg = windows(heights, widths), kinds == JPEG
    bare = lambda contents, window, jpeg: tf.cond(  # noqa: E731
        jpeg, lambda: decode_crop(contents, window, True, channels=3), lambda: decode_whole(contents, channels=3)
    )
    floor = time_chain(bare, stored, chosen, is_jpeg)
    side = round(size * SIDE_MARGIN) if strength else size
    if np.median(np.minimum(heights, widths)) <= side:
        return floor, {}
    now = time_chain(
        lambda contents, window, jpeg: decode(contents, window, jpeg, size, channels),
        *_as_read(index, stored, chosen),
        is_jpeg,
    )
    images = [shrink_to_side(decode_whole(contents, channels=3), side, "shorter").numpy() for contents in stored]
    shapes = np.array([image.shape for image in images], np.int32)
    chosen = windows(shapes[:, 0], shapes[:, 1])
    smaller = [tf.io.encode_jpeg(image, quality=QUALITY).numpy() for image in images]
    jpeg = time_chain(lambda contents, window: decode(contents, window, True, size, channels), smaller, chosen)

    def from_pixels(contents: tf.Tensor, shape: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
        y, x, height, width = tf.unstack(window)
        return resize(tf.reshape(tf.io.decode_raw(contents, tf.uint8), shape)[y : y + height, x : x + width], size)

    raw = time_chain(from_pixels, [image.tobytes() for image in images], shapes, chosen)
    return floor, {f"raw:{side}": raw / now, f"jpeg:{side}:{QUALITY}": jpeg / now}


def _as_read(index: Index, stored: list[bytes], windows: tf.Tensor) -> tuple[list[bytes], np.ndarray]:
    """What a decoder gets of each row's file, and the window in that: less than all of it where it can be entered."""
    if index.entries is None:
        return stored, windows.numpy()
    fetch, rows = mapped(index), tf.range(len(index), dtype=tf.int64)
    regions = fetch.planned(rows, tf.pad(windows, [[0, 0], [0, 1]]))
    contents = [fetch.encoded(row, region).numpy() for row, region in zip(rows, regions, strict=True)]
    return contents, tf.cast(regions[:, :4], tf.int32).numpy()
