"""THE chain: rows of the index -> batches, one line a stage, in run order. Read this first.

    data = open_data(config)
    share = Share(global_batch_size=128)
    for images, labels in training_batches(data, config, seed=0, share=share): ...    # for ever
    for images, labels, weights in evaluation_batches(data, config, share): ...       # every example once

Images are uint8 [batch, size, size, channels]; normalization is the model's first layer.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import tensorflow as tf

from evenkeel.pipeline import service
from evenkeel.pipeline.augment import chain
from evenkeel.pipeline.augment.geometry import CROP_X_COLUMN, CROP_Y_COLUMN, FLIP_COLUMN
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.images import crop
from evenkeel.pipeline.index import shuffle
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.shuffle import ReplicaShard
from evenkeel.pipeline.reading import cache, reader
from evenkeel.pipeline.reading import small_images as frames
from evenkeel.pipeline.reading.byte_source import Fetch
from evenkeel.pipeline.reading.cache import Images
from evenkeel.pipeline.reading.decoder import (
    decoder,
    regions_of,
    shown,
    whole,
)
from evenkeel.pipeline.reading.small_images import Frames
from evenkeel.pipeline.system.cpu import cores

# Distinct uses of randomness get distinct seeds.
ORDER, CROP, AUGMENT = range(USES := 3)
CACHING_BATCH = 256


# Not by AutoGraph: no stage has Python's `if` or `for` over tensors, and translating them all takes 3 CPU seconds.
@tf.autograph.experimental.do_not_convert
def training_batches(
    data: Dataset, config: DataConfig, seed: int, share: ReplicaShard, start_step: int = 0
) -> tf.data.Dataset:
    """Endless (images uint8 [b, s, s, c], labels int64 [b]), a batch for one replica at a time.

    Where the shards are mapped, a step's batch is a function of (seed, step) alone, whatever the parallelism, wherever
    the data set starts and whether images are cached (random resized crops of cached ones are blended in integers: one
    level in some pixels). Streaming gives the same tensors in an order of its own. A
    tf.data service makes the very batches that mapping does, as `service` says which, and they come as they are ready.
    """
    (_, read), *stages = training_stages(data, config, seed, share, start_step)
    ds = read()
    for _, stage in stages:
        ds = stage(ds)
    ds = ds.with_options(options(config))
    return service.distribute(ds, config) if config.service else ds


def training_stages(
    data: Dataset, config: DataConfig, seed: int, share: ReplicaShard, start_step: int = 0
) -> list[tuple[str, Callable[..., tf.data.Dataset]]]:
    """The training chain: each stage's name, and the function that goes on with the data set before it.

    The first takes none: it is the source.
    """
    # A cache is this process's; a service's workers read for themselves.
    index, held = data.train, None if config.service else cached(data.train, config)
    if isinstance(held, Frames):
        rows = reader.training_rows(config, index, _seed(seed, ORDER), share, start_step)
        copied = _copied(held, index, config, seed, share)
        return [("read", lambda: rows), *_last(_augmented(config, seed, share, copied))]
    if isinstance(held, Images):
        rows = reader.training_rows(config, index, _seed(seed, ORDER), share, start_step)
        payloads, index, fetch = rows.map(lambda element, rows: (element, rows, rows)), held.index, held.fetch
    else:
        payloads, fetch = reader.training_reader(config, index, _seed(seed, ORDER), share, start_step)
    planned = _planned(index, config, fetch, seed, share)
    return [
        ("read", lambda: payloads),
        ("plan", lambda ds: ds.map(planned)),
        ("decode", lambda ds: _decoded(ds, index, config, fetch, share)),
        *_last(_augmented(config, seed, share)),
    ]


def _decoded(
    ds: tf.data.Dataset, index: Index, config: DataConfig, fetch: Fetch, share: ReplicaShard
) -> tf.data.Dataset:
    """Batches as `_planned` makes them -> (element [b], images, labels)."""
    decode = decoder(index, config, fetch, _side_by_side(config, share))

    def decoded(
        element: tf.Tensor, mirrored: tf.Tensor | None, rows: tf.Tensor, payloads: tf.Tensor, regions: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        images, labels = decode(rows, payloads, regions, mirrored)
        return element, tf.ensure_shape(images, [share.batch_size, *images.shape[1:]]), labels

    return ds.map(decoded, num_parallel_calls=tf.data.AUTOTUNE)


def _side_by_side(config: DataConfig, share: ReplicaShard) -> int:
    """How many images of one batch are decoded at a time, so that all threads work.

    As many batches are at work as there are threads, if the budget has room for them four times: each is held image by
    image and then as a whole, and others wait. Where it has not, the images of each go in parallel instead.
    """
    threads = config.threads or cores()
    batch = share.batch_size * config.image_size**2 * config.channels
    batches = min(threads, max(1, (config.ram_budget_mb << 20) // (4 * batch)))
    return -(-threads // batches)


def _last(augmented: Callable) -> list[tuple[str, Callable[..., tf.data.Dataset]]]:
    # The last host operation is a map, so that its output lies in pinned memory where the target is a GPU.
    return [
        ("augment", lambda ds: ds.map(augmented, num_parallel_calls=tf.data.AUTOTUNE)),
        ("prefetch", lambda ds: ds.prefetch(tf.data.AUTOTUNE)),
    ]


@tf.autograph.experimental.do_not_convert
def evaluation_batches(index: Index, config: DataConfig, share: ReplicaShard) -> tf.data.Dataset:
    """(images uint8 [b, s, s, c], labels int64 [b], weights float32 [b]): every row once, in order.

    The last global batch is filled up with examples of weight 0; there are ceil(rows / global batch) steps.
    """
    ds, fetch = reader.evaluation_reader(config, index, share)
    windows, regions = _central(index, config.eval_crop), regions_of(index, config, fetch)
    ds = ds.map(lambda rows, payloads: (rows, None, rows, payloads, regions(rows, windows(rows))))
    ds = _decoded(ds, index, config, fetch, share)
    ds = ds.map(
        lambda _, images, labels: (images, tf.maximum(labels, 0), tf.cast(labels >= 0, tf.float32)),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    ds = ds.prefetch(tf.data.AUTOTUNE)
    return ds.with_options(options(config))


def _seed(seed: int, use: int) -> int:
    return seed * USES + use


def _central(index: Index, share: float = 1.0) -> Callable[[tf.Tensor], tf.Tensor]:
    """rows int64 [b] -> their central windows, int32 [b, 4]."""
    heights, widths = (tf.constant(index.columns[name]) for name in ("height", "width"))

    def windows(rows: tf.Tensor) -> tf.Tensor:
        rows = shown(rows)
        return crop.central_windows(tf.gather(heights, rows), tf.gather(widths, rows), share)

    return windows


def _planned(index: Index, config: DataConfig, fetch: Fetch, seed: int, share: ReplicaShard) -> Callable:
    """(element, rows, payloads) -> (element [b], mirrored bool [b] or None, rows, payloads, `regions_of`)."""
    heights, widths = (tf.constant(index.columns[name]) for name in ("height", "width"))
    strength, central, regions = config.augment.random_resized_crop, _central(index), regions_of(index, config, fetch)

    def planned(element: tf.Tensor, rows: tf.Tensor, payloads: tf.Tensor) -> tuple[tf.Tensor, ...]:
        if strength == 0:
            windows = central(rows)
        else:
            draws = shuffle.uniforms(_seed(seed, CROP), element, share, crop.DRAWS_PER_IMAGE)
            windows = crop.random_windows(tf.gather(heights, rows), tf.gather(widths, rows), strength, draws)
        mirrored = None
        if chain.only_flips(config.augment):
            mirrored = augmentation_draws(config, _seed(seed, AUGMENT), element, share)[:, FLIP_COLUMN] < config.augment.flip
        return tf.fill(tf.shape(rows), element), mirrored, rows, payloads, regions(rows, windows)

    return planned


def _augmented(config: DataConfig, seed: int, share: ReplicaShard, copied: Callable | None = None) -> Callable:
    """(elements, images, labels) -> (images, labels), changed as `config.augment` says.

    The batch may also be (element, rows), which `copied` makes images and labels of, flips and crops done.
    """
    own = _seed(seed, AUGMENT)
    moved = chain.moves_whole_pixels(config.augment) if copied else chain.only_flips(config.augment)
    change = chain.build_augmentation(config.augment, moved)

    def augmented(elements: tf.Tensor, *batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        element = elements if copied else elements[0]
        draws = augmentation_draws(config, own, element, share)
        images, labels = copied(element, *batch, draws) if copied else batch
        if change is None:
            return images, labels
        # A value that no step has, so that the key is not that of the uniforms.
        key = shuffle.hashed(own, -1 - share.step(element), words=2)
        return change(images, draws, key), labels

    return augmented


def _copied(frames: Frames, index: Index, config: DataConfig, seed: int, share: ReplicaShard) -> Callable:
    """(element, rows, draws) -> (images, labels): held frames, flipped and cropped on the way."""
    labels, cells = tf.constant(index.columns["label"]), 2 * frames.border + 1

    def copied(element: tf.Tensor, rows: tf.Tensor, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mirrored = draws[:, FLIP_COLUMN] < config.augment.flip if frames.mirrored else tf.zeros_like(rows, tf.bool)
        down = (
            tf.cast(tf.cast(draws[:, CROP_Y_COLUMN], tf.float64) * cells, tf.int64) if frames.border else tf.zeros_like(rows)
        )
        starts = shuffle.cell_starts(element, share, cells)
        right = shuffle.permutation(_seed(seed, AUGMENT), element, share, cells)
        return frames.batch(rows, mirrored, down, starts, right), tf.gather(labels, rows)

    return copied


def augmentation_draws(config: DataConfig, seed: int, element: tf.Tensor, share: ReplicaShard) -> tf.Tensor:
    """float32 [batch_size, columns] in [0, 1) for `augment.augmentation`.

    Horizontal crops are stratified: the global batch is split into as many cells as there are offsets, all images of a
    cell get the same one, and which cell gets which is drawn anew in every step. So lines of images can be copied.
    """
    change = chain.build_augmentation(config.augment)
    draws = shuffle.uniforms(seed, element, share, change.draw_columns if change else 1)
    if config.augment.pad_crop:
        cells = 2 * config.augment.pad_crop + 1
        offsets = tf.gather(shuffle.permutation(seed, element, share, cells), shuffle.cells(element, share, cells))
        across = (tf.cast(offsets, tf.float32) + 0.5) / cells
        draws = tf.concat([draws[:, :CROP_X_COLUMN], across[:, None], draws[:, CROP_X_COLUMN + 1 :]], axis=1)
    return draws


def cached(index: Index, config: DataConfig) -> Frames | Images | None:
    """The decoded images of `index` in memory, as `config.cache` says; None where they are decoded as they are used.

    Raises:
      UsageError: they do not fit.
    """
    plan = cache.plan(index, config)
    if not plan:
        return None
    # What becomes of an image once it is held is no reason to hold it twice.
    return _held(index, plan, dataclasses.replace(config, batch_size=1, eval_crop=1.0, augment=AugmentConfig()))


@functools.lru_cache(maxsize=1)  # a data set that starts again, or at another step, finds it there
def _held(index: Index, plan: cache.Plan, config: DataConfig) -> Frames | Images:
    share = ReplicaShard(min(len(index), CACHING_BATCH))
    if plan.frames:
        batches = evaluation_batches(index, config, share)
        shown = (images[weights > 0] for images, _, weights in batches.as_numpy_iterator())
        return frames.hold(shown, len(index), plan.border, plan.mirror)
    ds, fetch = reader.evaluation_reader(config, index, share)
    ds = ds.unbatch().take(len(index)).map(whole(index, config, fetch), num_parallel_calls=tf.data.AUTOTUNE)
    return cache.hold(ds.with_options(options(config)).as_numpy_iterator(), index, config.channels)


def options(config: DataConfig) -> tf.data.Options:
    """Of every data set made here: exact order, bounded memory, a thread pool of its own."""
    options = tf.data.Options()
    options.deterministic = True
    # Rewriting the graph of a data set copies every tensor it holds: all of the mapped shards, into each iterator.
    options.experimental_optimization.apply_default_optimizations = False
    options.autotune.ram_budget = config.ram_budget_mb << 20
    options.threading.max_intra_op_parallelism = 1
    # A service worker's own number of cores is the default there.
    options.threading.private_threadpool_size = config.threads or (0 if config.service else cores())
    return options
