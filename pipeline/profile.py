"""Where the input pipeline's time goes, stage by stage, what bounds training, and what would help most.

    report = profile(open_data(config), config, step_ms=35.0)
    print(report.sentence)

The chain is run truncated after each stage, and each stage alone on what the one before it made. As in Plumber (Kuchnik
et al. 2022, section 4) every resource then has a highest rate: the cores, the threads, the training step. The lowest
one bounds, and a change is worth what the next lowest allows.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline import build, cache, crop, reader
from pipeline.config import AugmentConfig, DataConfig, UsageError
from pipeline.cost import ROUNDS, Chain, cost
from pipeline.decode import cropped, decode, decode_whole, resize
from pipeline.index import JPEG, RAW
from pipeline.opening import Data
from pipeline.order import Share
from pipeline.tier import bounded

KINDS = {"read": "read", "plan": "read", "decode": "decode", "augment": "augment"}
TURNS = 5  # of comparing augmentations, which differ by little
KEPT = 1  # batches held in memory before a stage, to run it alone
TUNING_SECONDS = 1.0  # that autotuning gets to choose
HELD = 512  # images held in memory to try what that would gain
SAMPLE = 64  # images decoded for the decoder's floor and re-encoded for what a prepared tier would gain
QUALITY = 90
SIDE_MARGIN = 8 / 7  # of the stored shorter side over the random crop's: ImageNet's usual 256 for 224
WORTH = 1.05  # a smaller gain is not advised


@dataclasses.dataclass(frozen=True)
class Stage:
    """What one stage adds to an image. `images_per_second`: of the chain up to here, as it ran (wall time)."""

    name: str
    kind: str
    cpu_ms: float
    wait_ms: float
    share: float
    images_per_second: float
    bytes_per_image: float
    parallelism: int | None
    buffer: int | None


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """A change, how many times as fast training gets by it, and the options of `DataConfig` (or the tier) it means."""

    change: str
    gain: float
    options: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Report:
    """`thread_ms`: of CPU and waiting per image. `images_per_second`: what the threads make of that at most.

    `bound` is read, decode, augment or step; `suggestions` come best first, and there is none where the step bounds.
    """

    stages: tuple[Stage, ...]
    cores: int
    threads: int
    thread_ms: float
    images_per_second: float
    decoder_floor_ms: float
    host_to_device_bytes: int
    step_images_per_second: float | None
    bound: str
    suggestions: tuple[Suggestion, ...]
    sentence: str


@dataclasses.dataclass(frozen=True)
class _Machine:
    """The resources: a thread is taken by running and by waiting, a core by running, the step by every image."""

    threads: int
    cores: int
    step_rate: float

    def input_rate(self, cpu_ms: float, wait_ms: float) -> float:
        """Images/s of an input that takes so much per image."""
        cpu_ms = max(cpu_ms, 1e-6)
        return 1000 * min(self.threads / (cpu_ms + wait_ms), self.cores / cpu_ms)

    def rate(self, cpu_ms: float, wait_ms: float) -> float:
        """Images/s of training."""
        return min(self.input_rate(cpu_ms, wait_ms), self.step_rate)


@tf.autograph.experimental.do_not_convert
def profile(data: Data, config: DataConfig, seed: int = 0, step_ms: float | None = None) -> Report:
    """Runs the training chain of `config` in this process, for half a minute or so.

    `step_ms`: what the model takes for a global batch, in ms; without it the input is looked at alone.
    """
    config = dataclasses.replace(config, service="")
    cores = len(os.sched_getaffinity(0))
    step_rate = config.batch_size / step_ms * 1000 if step_ms else None
    machine = _Machine(config.threads or cores, cores, step_rate or float("inf"))
    stages = _stages(data, config, seed)
    cpu, wait = sum(stage.cpu_ms for stage in stages), sum(stage.wait_ms for stage in stages)
    rate = machine.input_rate(cpu, wait)
    floor, prepared = _decoding(data, config, seed)
    suggestions: list[Suggestion] = []
    if step_rate and step_rate < rate:
        bound = "step"
        sentence = (
            f"step bound: the model takes {step_rate:,.0f} images/s and the input can make {rate:,.0f},"
            f" {rate / step_rate:.1f} times as many: the input waits for the model, and nothing here needs a change."
        )
    else:
        bound = max(KINDS.values(), key=lambda kind: sum(stage.share for stage in stages if stage.kind == kind))
        gains = [
            Suggestion(each.change, machine.rate(cpu - each.cpu, wait - each.wait) / rate, each.options)
            for each in _savings(bound, stages, prepared, data, config, seed)
        ]
        all_cores = dataclasses.replace(machine, threads=cores).rate(cpu, wait)
        gains.append(Suggestion(f"all {cores} cores, --data.threads=0", all_cores / rate, {"threads": 0}))
        gains.sort(key=lambda suggestion: -suggestion.gain)
        # Last whatever it gains: it takes other machines.
        twice = dataclasses.replace(machine, threads=2 * machine.threads, cores=2 * cores).rate(cpu, wait)
        elsewhere = f"{cores} more cores elsewhere, python -m tools.data_service and --data.service"
        gains.append(Suggestion(elsewhere, twice / rate, {}))
        suggestions = [each for each in gains if each.gain >= WORTH]
        best = "no change to the input is worth much"
        if suggestions:
            best = f"best is {suggestions[0].change}: {suggestions[0].gain:.2f} times as fast"
        share = sum(stage.share for stage in stages if stage.kind == bound)
        sentence = (
            f"{bound} bound: {share:.0%} of the {cpu + wait:.3f} ms that a thread spends on an image,"
            f" {rate:,.0f} images/s; {best}."
        )
    return Report(
        stages=stages,
        cores=cores,
        threads=machine.threads,
        thread_ms=cpu + wait,
        images_per_second=rate,
        decoder_floor_ms=floor,
        host_to_device_bytes=config.image_size**2 * config.channels,
        step_images_per_second=step_rate,
        bound=bound,
        suggestions=tuple(suggestions),
        sentence=sentence,
    )


@dataclasses.dataclass(frozen=True)
class _Saving:
    """What a change takes away from an image's ms of CPU and of waiting."""

    change: str
    options: dict[str, Any]
    cpu: float
    wait: float = 0.0


def _savings(
    bound: str, stages: tuple[Stage, ...], prepared: dict[str, float], data: Data, config: DataConfig, seed: int
) -> list[_Saving]:
    """The changes that a bound calls for."""
    own = {stage.name: stage for stage in stages}
    if bound == "augment":
        return [
            _Saving(
                f"doing without the dearest augmentation, --data.augment.{name}=0",
                {f"augment.{name}": 0},
                own["augment"].cpu_ms * part,
            )
            for name, part in _augmentations(data, config, seed).items()
        ]
    changes = []
    if bound == "read":
        change = "a faster disk, or a copy of the data set on one"
        changes.append(_Saving(change, {}, 0.0, own["read"].wait_ms))
    if bound == "decode":
        for tier, left in prepared.items():
            command = f"python -m tools.prepare --source={config.source} --tier={tier} --output=DIR"
            changes.append(_Saving(f"smaller files, {command}", {"tier": tier}, own["decode"].cpu_ms * (1 - left)))
    held = _from_memory(data, config, seed)
    if held is not None:
        cpu, wait = sum(stage.cpu_ms for stage in stages) - held, sum(stage.wait_ms for stage in stages)
        changes.append(_Saving("decoded images in memory, --data.cache=memory", {"cache": "memory"}, cpu, wait))
    return changes


def taken(data: Data, config: DataConfig, seed: int = 0) -> tuple[float, float]:
    """ms of CPU and of waiting that one image takes in the whole chain."""
    wait = 0.0 if build.cached(data.train, config) is not None else _waiting(data, config, seed)
    (_, read), *rest = build.training_stages(data, config, seed, Share(config.batch_size))
    chain: Chain = lambda n: read().take(n)  # noqa: E731
    for _, stage in rest:
        chain = _then(chain, stage)
    return cost(_with(chain, build.options(config)), 1, config.batch_size).cpu, wait


def _stages(data: Data, config: DataConfig, seed: int) -> tuple[Stage, ...]:
    """What the whole chain takes, divided among its stages as each of them alone takes."""
    batch, options = config.batch_size, build.options(config)
    (first, read), *rest = build.training_stages(data, config, seed, Share(batch))
    # Before all else, so that pages are as cold as training finds them.
    held = build.cached(data.train, config) is not None
    wait = 0.0 if held else _waiting(data, config, seed)
    chain: Chain = lambda n: read().take(n)  # noqa: E731
    costs = {first: cost(_with(chain, options), 1, batch)}
    own = {first: costs[first].cpu}
    for name, stage in rest:
        kept = chain(KEPT).cache()
        before = cost(_with(kept.repeat, options), KEPT, KEPT * batch).cpu
        if name == "decode" and not held:
            # The bytes are fetched in the stage that decodes them, and belong to reading.
            fetching = _fetching(kept, data, config, seed)
            own[first] += fetching
            before += fetching
        alone = cost(_with(_then(kept.repeat, stage), options), KEPT, KEPT * batch)
        own[name] = max(0.0, alone.cpu - before)
        chain = _then(chain, stage)
        last = name == rest[-1][0]
        costs[name] = cost(_with(chain, options), 1, batch, rounds=ROUNDS if last else 1)
    whole = costs[rest[-1][0]].cpu
    scale = whole / max(sum(own.values()), 1e-9)
    tuned = _tuned(build.training_batches(data, config, seed, Share(batch)))
    pixels, encoded = config.image_size**2 * config.channels, float(np.mean(data.train.columns["length"]))

    def measured(name: str) -> Stage:
        cpu, waited = own[name] * scale, wait if name == first else 0.0
        return Stage(
            name=name,
            kind=KINDS.get(name, "augment"),
            cpu_ms=cpu,
            wait_ms=waited,
            share=(cpu + waited)
            / max(whole + wait, 1e-9),  # of a few small images a round may take no time to speak of
            images_per_second=1000 / max(costs[name].wall, 1e-6),
            bytes_per_image=encoded if name in (first, "plan") else pixels,
            parallelism=tuned.get(name, {}).get("parallelism"),
            buffer=tuned.get(name, {}).get("buffer_size"),
        )

    return tuple(measured(name) for name in own)


def _then(chain: Chain, stage: Callable[[tf.data.Dataset], tf.data.Dataset]) -> Chain:
    return lambda n: stage(chain(n))


def _with(chain: Chain, options: tf.data.Options) -> Chain:
    return lambda n: chain(n).with_options(options)


def _waiting(data: Data, config: DataConfig, seed: int) -> float:
    """ms per image that a thread waits for its bytes."""
    payloads, fetch = reader.training_reader(config, data.train, seed, Share(config.batch_size), 0)
    # One thread, so that what neither runs nor queues for a core waits.
    options = build.options(dataclasses.replace(config, threads=1))
    options.autotune.enabled = False
    contents = lambda n: payloads.take(n).map(lambda *of: of[-1]).unbatch().map(fetch.encoded)  # noqa: E731
    return cost(_with(contents, options), config.batch_size, config.batch_size, rounds=1).wait


def _fetching(planned: tf.data.Dataset, data: Data, config: DataConfig, seed: int) -> float:
    """ms of CPU per image that its bytes take; of `planned` batches (..., payloads, regions)."""
    _, fetch = reader.training_reader(config, data.train, seed, Share(config.batch_size), 0)
    options, images = build.options(config), KEPT * config.batch_size

    def mapped(of: Callable[..., Any]) -> float:
        run = lambda n: planned.unbatch().repeat(n).map(lambda *row: of(*row[-2:]), num_parallel_calls=tf.data.AUTOTUNE)  # noqa: E731
        return cost(_with(run, options), images, images).cpu

    return max(0.0, mapped(fetch.encoded) - mapped(lambda payload, region: (payload, payload)))


def _from_memory(data: Data, config: DataConfig, seed: int) -> float | None:
    """ms of CPU per image with decoded images in memory, tried on some; None where they are there or do not fit."""
    changed = dataclasses.replace(config, cache="memory", reader="auto")
    if build.cached(data.train, config) is not None:
        return None
    try:
        cache.plan(data.train, changed)
    except UsageError:
        return None
    few = dataclasses.replace(data, train=data.train.take(np.arange(min(len(data.train), HELD))))
    return taken(few, changed, seed)[0]


def _tuned(ds: tf.data.Dataset) -> dict[str, dict[str, int]]:
    """{stage: {parallelism, buffer_size}} as autotuning chose them, out of its model of the running chain."""
    iterator, until = iter(ds), time.perf_counter() + TUNING_SECONDS
    next(iterator)
    while time.perf_counter() < until:
        next(iterator)
    model = tf.data.experimental.get_model_proto(iterator)
    # From the last stage to the first.
    expected = [("prefetch", ("Prefetch",)), ("augment", ("ParallelMap",)), ("decode", ("MapAndBatch", "ParallelMap"))]
    found: dict[str, dict[str, int]] = {}
    number = model.output
    while number and expected:
        node = model.nodes[number]
        stage, kinds = expected[0]
        if node.name.startswith(kinds):
            found[stage] = {of.name: int(of.value) for of in node.parameters}
            expected.pop(0)
        number = node.inputs[0] if node.inputs else 0
    return found


def _augmentations(data: Data, config: DataConfig, seed: int) -> dict[str, float]:
    """{option: the part of the augmentations' CPU time that is gone without it}."""
    options, off = build.options(config), AugmentConfig()

    def alone(augment: AugmentConfig) -> tuple[Chain, Chain]:
        """What the stage gets, and what it makes of that."""
        changed = dataclasses.replace(config, augment=augment)
        (_, read), *rest = build.training_stages(data, changed, seed, Share(config.batch_size))
        chain = read().take(KEPT)
        for name, stage in rest:
            if name == "augment":
                break
            chain = stage(chain)
        given = chain.cache().repeat
        return _with(given, options), _with(_then(given, stage), options)

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
            before, after = (cost(chain, KEPT, KEPT * config.batch_size, rounds=1).cpu for chain in (given, made))
            runs[name].append(max(0.0, after - before))
    whole, *_ = middle = [statistics.median(of) for of in runs.values()]
    return {name: float(np.clip(1 - left / max(whole, 1e-9), 0, 1)) for name, left in zip(on, middle[1:], strict=True)}


def _decoding(data: Data, config: DataConfig, seed: int) -> tuple[float, dict[str, float]]:
    """The bare decoder's ms of CPU per image of a sample, and {tier: decoding's part that is left with it}.

    The tiers are tried on the sample, re-encoded in memory.
    """
    size, channels, strength = config.image_size, config.channels, config.augment.random_resized_crop
    rows = np.random.default_rng(seed).permutation(len(data.train))[:SAMPLE]
    index, count = data.train.take(rows), len(rows)
    kinds = index.columns["kind"]
    if (kinds == RAW).any():
        return 0.0, {}  # pixels are stored: no decoder, and nothing smaller to store
    stored = list(reader.stored_images(index)(tf.range(count, dtype=tf.int64)).as_numpy_iterator())
    options = build.options(config)

    def windows(heights: np.ndarray, widths: np.ndarray) -> tf.Tensor:
        if not strength:
            return crop.central_windows(tf.constant(heights), tf.constant(widths))
        draws = tf.random.stateless_uniform([count, crop.COLUMNS], [seed, 0])
        return crop.random_windows(tf.constant(heights), tf.constant(widths), strength, draws)

    def taken(of: Callable[..., tf.Tensor], *columns: Any) -> float:
        kept = tf.data.Dataset.from_tensor_slices(columns).cache()
        run = lambda n: kept.repeat(n).map(of, num_parallel_calls=tf.data.AUTOTUNE)  # noqa: E731
        return cost(_with(run, options), count, count).cpu

    heights, widths = index.columns["height"], index.columns["width"]
    chosen, is_jpeg = windows(heights, widths), kinds == JPEG
    bare = lambda contents, window, jpeg: tf.cond(  # noqa: E731
        jpeg, lambda: cropped(contents, window, True, channels=3), lambda: decode_whole(contents, channels=3)
    )
    floor = taken(bare, stored, chosen, is_jpeg)
    side = round(size * SIDE_MARGIN) if strength else size
    if np.median(np.minimum(heights, widths)) <= side:
        return floor, {}
    now = taken(lambda contents, window, jpeg: decode(contents, window, jpeg, size, channels), stored, chosen, is_jpeg)
    images = [bounded(decode_whole(contents, channels=3), side, "shorter").numpy() for contents in stored]
    shapes = np.array([image.shape for image in images], np.int32)
    chosen = windows(shapes[:, 0], shapes[:, 1])
    smaller = [tf.io.encode_jpeg(image, quality=QUALITY).numpy() for image in images]
    jpeg = taken(lambda contents, window: decode(contents, window, True, size, channels), smaller, chosen)

    def from_pixels(contents: tf.Tensor, shape: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
        y, x, height, width = tf.unstack(window)
        return resize(tf.reshape(tf.io.decode_raw(contents, tf.uint8), shape)[y : y + height, x : x + width], size)

    raw = taken(from_pixels, [image.tobytes() for image in images], shapes, chosen)
    return floor, {f"raw:{side}": raw / now, f"jpeg:{side}:{QUALITY}": jpeg / now}
