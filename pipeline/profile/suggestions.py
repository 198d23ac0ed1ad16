"""Changes to the input that would save time, each of them tried on a few images.

floor_ms, tier_fractions = time_decoding(data, config, seed=0)
candidate_changes("decode", {"decode": 1.2, ...}, 0.0, tier_fractions, data, config, seed=0)
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from typing import Any

import numpy as np

from evenkeel.pipeline import build
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.jpeg import seek_index
from evenkeel.pipeline.profile.chain_timing import BATCHES_IN_MEMORY, append_stage, time_chain, with_options
from evenkeel.pipeline.profile.decode_timing import sample_rows
from evenkeel.pipeline.profile.timing import Chain, time_per_image
from evenkeel.pipeline.reading import cache, reader
from evenkeel.pipeline.reading.tf_data_options import tf_data_options

AUGMENTATION_ROUNDS = 5  # rounds of comparing augmentations, because their times differ little
CACHED_IMAGES = 512  # images on which the memory cache is tried


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A change to the input, and what it saves.

    Attributes:
      change: a description, with the flag or the command.
      options: {name: value} of `DataConfig`, or {"tier": tier}; empty if no option makes the change.
      saved_cpu_ms: ms of CPU per image that the change saves.
      saved_wait_ms: ms of waiting per image that the change saves.
    """

    change: str
    options: dict[str, Any]
    saved_cpu_ms: float
    saved_wait_ms: float = 0.0


def candidate_changes(
    bound: str,
    stage_ms: dict[str, float],
    wait_ms: float,
    tier_fractions: dict[str, float],
    data: Dataset,
    config: DataConfig,
    seed: int,
) -> list[Candidate]:
    """The changes worth trying for a bound, with the time that each of them saves.

    Args:
      bound: read, decode or augment.
      stage_ms: {stage: ms of CPU per image}.
      wait_ms: ms of waiting per image.
      tier_fractions: as `time_decoding` returns them.
      data: the data set.
      config: the configuration of the data set.
      seed: seed of the sampled images and their crops.
    """
    is_local, config = not config.service, dataclasses.replace(config, service="")
    if bound == "augment":
        return [
            Candidate(
                f"no {name} augmentation (--data.augment.{name}=0)",
                {f"augment.{name}": 0},
                stage_ms["augment"] * fraction,
            )
            for name, fraction in _augmentation_fractions(data, config, seed).items()
        ]
    candidates, total_ms = [], sum(stage_ms.values())
    if bound == "read":
        candidates.append(Candidate("a faster disk, or the data set copied to one", {}, 0.0, wait_ms))
    if bound == "decode":
        for tier, fraction in tier_fractions.items():
            command = f"evenkeel prepare --source={config.source} --tier={tier} --output=DIR"
            candidates.append(
                Candidate(f"smaller files ({command})", {"tier": tier}, stage_ms["decode"] * (1 - fraction))
            )
        remaining = _fraction_with_seek_index(data, config, seed) if is_local else None
        if remaining is not None:
            change = "reading only the part of each JPEG that its crop needs (--data.entries)"
            candidates.append(Candidate(change, {"entries": True}, total_ms * (1 - remaining)))
    cached_ms = _time_with_memory_cache(data, config, seed)
    if cached_ms is not None:
        change = "decoded images cached in memory (--data.cache=memory)"
        candidates.append(Candidate(change, {"cache": "memory"}, total_ms - cached_ms, wait_ms))
    return candidates


def _fraction_with_seek_index(data: Dataset, config: DataConfig, seed: int) -> float | None:
    """The fraction of an image's CPU time that remains with `data.entries`, measured on a sample.

    None if the data set has a seek index already or cannot have one.
    """
    is_cached = cache.cached_images(data.train, config) is not None
    if is_cached or data.train.seek_arrays is not None or not reader.use_memory_map(config, data.train):
        return None
    # The cache is off, because a sample would fit into memory even if the data set does not.
    config = dataclasses.replace(config, cache="none")
    sample = dataclasses.replace(data, train=sample_rows(data.train, seed))
    with tempfile.TemporaryDirectory() as directory:
        index = seek_index.open_seek_index(sample.train, directory, directory)
    if index.seek_arrays is None:
        return None
    after = time_chain(dataclasses.replace(sample, train=index), config, seed)[0]
    return after / max(time_chain(sample, config, seed)[0], 1e-9)


def _time_with_memory_cache(data: Dataset, config: DataConfig, seed: int) -> float | None:
    """Measures ms of CPU per image with decoded images in memory, on `CACHED_IMAGES` images.

    Returns None if the images are in memory already or do not fit into it.
    """
    cached_config = dataclasses.replace(config, cache="memory", reader="auto")
    if cache.cached_images(data.train, config) is not None:
        return None
    try:
        cache.plan_cache(data.train, cached_config)
    except UsageError:
        return None
    few = dataclasses.replace(data, train=data.train.take(np.arange(min(len(data.train), CACHED_IMAGES))))
    return time_chain(few, cached_config, seed)[0]


def _augmentation_fractions(data: Dataset, config: DataConfig, seed: int) -> dict[str, float]:
    """Returns {option: fraction of the CPU time of all augmentations that turning the option off saves}."""
    options, off = tf_data_options(config), AugmentConfig()

    def augment_stage_alone(augment: AugmentConfig) -> tuple[Chain, Chain]:
        """Two chains: the input of the augment stage, and the stage on this input."""
        changed = dataclasses.replace(config, augment=augment)
        training = build.training_chain(data.train, changed, seed, ReplicaShard(config.batch_size))
        ds = training.read.take(BATCHES_IN_MEMORY)
        for name, stage in training.stages.items():
            if name == "augment":
                break
            ds = stage(ds)
        batches = ds.cache().repeat
        return with_options(batches, options), with_options(append_stage(batches, stage), options)

    active = [
        field.name
        for field in dataclasses.fields(AugmentConfig)
        if getattr(config.augment, field.name) != getattr(off, field.name)
        and field.name not in ("random_resized_crop", "randaugment_magnitude")
    ]
    variants = {"": augment_stage_alone(config.augment)} | {
        name: augment_stage_alone(dataclasses.replace(config.augment, **{name: getattr(off, name)})) for name in active
    }
    samples: dict[str, list[float]] = {name: [] for name in variants}
    # The variants take turns, so that a temporary disturbance of the machine affects all of them.
    for _ in range(AUGMENTATION_ROUNDS):
        for name, chains in variants.items():
            before, after = (
                time_per_image(chain, BATCHES_IN_MEMORY, BATCHES_IN_MEMORY * config.batch_size, rounds=1).cpu
                for chain in chains
            )
            samples[name].append(max(0.0, after - before))
    whole, *without = [statistics.median(values) for values in samples.values()]
    return {
        name: float(np.clip(1 - remaining / max(whole, 1e-9), 0, 1))
        for name, remaining in zip(active, without, strict=True)
    }
