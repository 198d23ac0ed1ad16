"""Where the input pipeline's time goes, stage by stage, what bounds training, and what would help most.

    report = profile(open_data(config), config, step_ms=35.0)
    print(report.sentence)

The chain is run truncated after each stage, and each stage alone on what the one before it made. As in Plumber (Kuchnik
et al. 2022, section 4) every resource then has a highest rate: the cores, the threads, the training step. The lowest
one bounds, and a change is worth what the next lowest allows.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from evenkeel.pipeline import build
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.index.shuffle import ReplicaShard
from evenkeel.pipeline.profile.cost import ROUNDS, Chain, cost
from evenkeel.pipeline.profile.stages import (
    KEPT,
    then,
    under,
    waiting,
)
from evenkeel.pipeline.profile.suggestions import decoding, savings
from evenkeel.pipeline.reading import reader
from evenkeel.pipeline.system.cpu import cores as cpu_cores

KINDS = {"read": "read", "plan": "read", "decode": "decode", "augment": "augment"}
TUNING_SECONDS = 1.0  # that autotuning gets to choose
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
def profile(data: Dataset, config: DataConfig, seed: int = 0, step_ms: float | None = None) -> Report:
    """Runs the training chain of `config` in this process, for half a minute or so.

    `step_ms`: what the model takes for a global batch, in ms; without it the input is looked at alone.
    """
    given, config = config, dataclasses.replace(config, service="")
    cores = cpu_cores()
    step_rate = config.batch_size / step_ms * 1000 if step_ms else None
    machine = _Machine(config.threads or cores, cores, step_rate or float("inf"))
    stages = _stages(data, config, seed)
    cpu, wait = sum(stage.cpu_ms for stage in stages), sum(stage.wait_ms for stage in stages)
    rate = machine.input_rate(cpu, wait)
    floor, prepared = decoding(data, config, seed)
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
            for each in savings(
                bound, {stage.name: stage.cpu_ms for stage in stages}, wait, prepared, data, given, seed
            )
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


def _stages(data: Dataset, config: DataConfig, seed: int) -> tuple[Stage, ...]:
    """What the whole chain takes, divided among its stages as each of them alone takes."""
    batch, options = config.batch_size, build.options(config)
    (first, read), *rest = build.training_stages(data, config, seed, ReplicaShard(batch))
    # Before all else, so that pages are as cold as training finds them.
    held = build.cached(data.train, config) is not None
    wait = 0.0 if held else waiting(data, config, seed)
    chain: Chain = lambda n: read().take(n)  # noqa: E731
    costs = {first: cost(under(chain, options), 1, batch)}
    own = {first: costs[first].cpu}
    for name, stage in rest:
        kept = chain(KEPT).cache()
        before = cost(under(kept.repeat, options), KEPT, KEPT * batch).cpu
        if name == "decode" and not held:
            # The bytes are fetched in the stage that decodes them, and belong to reading.
            fetching = _fetching(kept, data, config, seed)
            own[first] += fetching
            before += fetching
        alone = cost(under(then(kept.repeat, stage), options), KEPT, KEPT * batch)
        own[name] = max(0.0, alone.cpu - before)
        chain = then(chain, stage)
        last = name == rest[-1][0]
        costs[name] = cost(under(chain, options), 1, batch, rounds=ROUNDS if last else 1)
    whole = costs[rest[-1][0]].cpu
    scale = whole / max(sum(own.values()), 1e-9)
    tuned = _tuned(build.training_batches(data, config, seed, ReplicaShard(batch)))
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


def _fetching(planned: tf.data.Dataset, data: Dataset, config: DataConfig, seed: int) -> float:
    """ms of CPU per image that its bytes take; of `planned` batches (..., payloads, regions)."""
    _, fetch = reader.training_reader(config, data.train, seed, ReplicaShard(config.batch_size), 0)
    options, images = build.options(config), KEPT * config.batch_size

    def mapped(of: Callable[..., Any]) -> float:
        run = lambda n: planned.unbatch().repeat(n).map(lambda *row: of(*row[-2:]), num_parallel_calls=tf.data.AUTOTUNE)  # noqa: E731
        return cost(under(run, options), images, images).cpu

    return max(0.0, mapped(fetch.encoded) - mapped(lambda payload, region: (payload, payload)))


def _tuned(ds: tf.data.Dataset) -> dict[str, dict[str, int]]:
    """{stage: {parallelism, buffer_size}} as autotuning chose them, out of its model of the running chain."""
    iterator, until = iter(ds), time.perf_counter() + TUNING_SECONDS
    next(iterator)
    while time.perf_counter() < until:
        next(iterator)
    model = tf.data.experimental.get_model_proto(iterator)
    # From the last stage to the first.
    expected = [("prefetch", "Prefetch"), ("augment", "ParallelMap"), ("decode", "ParallelMap")]
    found: dict[str, dict[str, int]] = {}
    number = model.output
    while number and expected:
        node = model.nodes[number]
        stage, kind = expected[0]
        if node.name.startswith(kind):
            found[stage] = {of.name: int(of.value) for of in node.parameters}
            expected.pop(0)
        number = node.inputs[0] if node.inputs else 0
    return found
