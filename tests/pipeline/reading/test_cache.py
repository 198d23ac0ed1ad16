"""The cache changes the cost of a batch and nothing else."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest

from evenkeel.pipeline import dataset
from evenkeel.pipeline.build import training_batches
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.index import JPEG, RAW
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.reading import cache
from evenkeel.pipeline.reading.small_images import SmallImages


def read_batches(
    data: Dataset, config: DataConfig, replica_shard: ReplicaShard, step: int = 3, count: int = 4
) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(training_batches(data, config, 1, replica_shard, step).take(count).as_numpy_iterator())


@pytest.mark.slow
@pytest.mark.parametrize(
    "augment",
    [
        AugmentConfig(),
        AugmentConfig(flip=0.5),
        AugmentConfig(pad_crop=3, cutout=0.4),
        AugmentConfig(pad_crop=2, flip=0.5, brightness=0.2),
        AugmentConfig(pad_crop=2, flip=0.5, rotation=20),
        AugmentConfig(random_resized_crop=0.7, flip=0.5),
        AugmentConfig(random_resized_crop=0.7, pad_crop=2),
    ],
    ids=lambda augment: "+".join(name for name, on in dataclasses.asdict(augment).items() if on) or "nothing",
)
@pytest.mark.parametrize("channels", [1, 3])
def test_cached_batches_equal_those_decoded_for_every_batch(
    small: DataConfig, data: Dataset, augment: AugmentConfig, channels: int
) -> None:
    none, memory = (
        dataclasses.replace(small, augment=augment, channels=channels, cache=kind) for kind in ("none", "memory")
    )
    cached = cache.cached_images(data.train, memory)
    assert isinstance(cached, cache.WholeImages if augment.random_resized_crop else SmallImages)
    # What a replica reads without a cache is its part of the global batch: test_build shows that.
    whole = [np.concatenate(column) for column in zip(*read_batches(data, none, ReplicaShard(20)), strict=True)]
    if channels == 3:
        replica_shards = [(ReplicaShard(20), slice(20)), (ReplicaShard(20, replicas=2, local_replicas=2), slice(20))]
    else:
        replica_shards = [(ReplicaShard(20, 4, 2, 1), slice(10, 15))]
    for replica_shard, part in replica_shards:
        count = 4 * replica_shard.local_replicas
        batches = read_batches(data, memory, replica_shard, count=count)
        assert {len(labels) for _, labels in batches} == {20 // replica_shard.replicas}
        for column, expected in zip(zip(*batches, strict=True), whole, strict=True):
            parts = expected.reshape(4, 20, *expected.shape[1:])[:, part]
            np.testing.assert_array_equal(np.concatenate(column), parts.reshape(-1, *expected.shape[1:]))


def test_a_cached_data_set_has_the_exact_order_even_if_it_was_streamed(small: DataConfig, data: Dataset) -> None:
    replica_shard = ReplicaShard(20)
    exact = read_batches(data, dataclasses.replace(small, cache="none"), replica_shard)
    cached = read_batches(data, dataclasses.replace(small, cache="memory", reader="streaming"), replica_shard)
    for (images, labels), (expected, expected_labels) in zip(cached, exact, strict=True):
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(labels, expected_labels)


def test_auto_caches_small_images_that_fit_and_no_others(small: DataConfig, data: Dataset) -> None:
    plan = lambda **changes: cache.plan_cache(data.train, dataclasses.replace(small, **changes))  # noqa: E731
    assert plan() == cache.CachePlan(small=True)
    assert plan(augment=AugmentConfig(flip=0.5, pad_crop=4)) == cache.CachePlan(True, border=4, mirror=True)
    assert plan(image_size=cache.AUTO_MAX_SIDE + 1) is None
    assert plan(augment=AugmentConfig(random_resized_crop=0.5)) is None
    assert plan(reader="streaming") is None
    assert plan(cache="none") is None


def test_auto_does_not_cache_images_that_do_not_fit(small: DataConfig, data: Dataset) -> None:
    large = dataclasses.replace(small, image_size=64, cache_budget_mb=1)  # 300 x 12 kB
    assert cache.plan_cache(data.train, large) is None
    with pytest.raises(UsageError, match=r"data\.cache=memory: 300 decoded images take 3 MiB, but the budget is 1 MiB"):
        cache.plan_cache(data.train, dataclasses.replace(large, cache="memory"))


def test_the_cache_is_kept_for_the_same_data_set(small: DataConfig, data: Dataset) -> None:
    config = dataclasses.replace(small, cache="memory")
    assert cache.cached_images(data.train, config) is cache.cached_images(data.train, config)


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["raw:16", "jpeg:16:95"])
def test_a_storage_tier_is_prepared_once_and_replaces_the_source(small: DataConfig, tier: str) -> None:
    config = dataclasses.replace(small, cache=tier, shapes=dataclasses.replace(small.shapes, size=24, count=40))
    prepared = dataset.prepare_storage_tier(config)
    stored = dataset.load_dataset(config).train
    assert stored.shards[0].startswith(prepared.source)
    assert set(stored.columns["kind"]) == {RAW if tier.startswith("raw") else JPEG}
    assert set(stored.columns["height"]) == {16}
    written = {path: path.stat().st_mtime_ns for path in pathlib.Path(prepared.source).iterdir()}
    assert dataset.prepare_storage_tier(config) == prepared
    assert {path: path.stat().st_mtime_ns for path in pathlib.Path(prepared.source).iterdir()} == written
    images, _ = next(iter(training_batches(dataset.load_dataset(config), config, 0, ReplicaShard(20))))
    # The same images, stored smaller.
    whole = dataclasses.replace(config, cache="none")
    plain, _ = next(iter(training_batches(dataset.load_dataset(whole), whole, 0, ReplicaShard(20))))
    assert images.shape == plain.shape
    assert abs(images.numpy().mean() - plain.numpy().mean()) < 30


def test_an_unknown_cache_is_refused() -> None:
    with pytest.raises(UsageError, match=r"data\.cache \('disk'\) must be one of none, memory, auto"):
        DataConfig(cache="disk")
    with pytest.raises(UsageError, match="raw:x"):
        DataConfig(cache="raw:x")
