"""Profiles the input pipeline: the time of each stage, what bounds training, and which changes would help most.

    report = profile(load_dataset(config), config, step_ms=35.0)
    print(report.sentence)

As in Plumber (Kuchnik et al. 2022, section 4), every resource (the cores, the threads, the training step) limits the
rate. The lowest limit is the bound, and a change can raise the rate only to the next lowest limit.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import tensorflow as tf

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.profile.decode_timing import time_decoding
from evenkeel.pipeline.profile.stage_timing import STAGE_KINDS, StageTiming, time_stages
from evenkeel.pipeline.profile.suggestions import candidate_changes
from evenkeel.pipeline.system.cpu import cores as cpu_cores

MIN_GAIN = 1.05  # smaller gains are not suggested


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """A change that makes training faster.

    Attributes:
      change: a description, with the flag or the command.
      gain: how many times as fast training becomes.
      options: {name: value} of `DataConfig`, or {"tier": tier}; empty if no option makes the change.
    """

    change: str
    gain: float
    options: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of `profile`.

    Attributes:
      stages: the timings of the stages, in the order of the chain.
      cores: CPU cores of this machine that the process may use.
      threads: threads of the input pipeline.
      thread_ms: ms of CPU and waiting per image.
      images_per_second: the highest rate of the input with these threads and cores.
      decoder_floor_ms: ms of CPU per image of the bare decoder; 0 if pixels are stored.
      host_to_device_bytes: bytes per image that are copied to the device.
      step_images_per_second: the rate of the training step; None if unknown.
      bound: read, decode, augment or step.
      suggestions: best first; none if the step is the bound.
      sentence: the result in one sentence.
    """

    stages: tuple[StageTiming, ...]
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
class _Resources:
    """Resources that training needs. Running occupies a thread and a core, waiting only a thread.

    Attributes:
      threads: threads of the input pipeline.
      cores: CPU cores that can run the threads.
      step_rate: images/s of the training step.
    """

    threads: int
    cores: int
    step_rate: float

    def input_rate(self, cpu_ms: float, wait_ms: float) -> float:
        """Images/s of an input that takes these times per image."""
        cpu_ms = max(cpu_ms, 1e-6)
        return 1000 * min(self.threads / (cpu_ms + wait_ms), self.cores / cpu_ms)

    def training_rate(self, cpu_ms: float, wait_ms: float) -> float:
        """Images/s of training with such an input."""
        return min(self.input_rate(cpu_ms, wait_ms), self.step_rate)


@tf.autograph.experimental.do_not_convert
def profile(data: Dataset, config: DataConfig, seed: int = 0, step_ms: float | None = None) -> Report:
    """Profiles the training input of `config` in this process, in about half a minute.

    `step_ms` is the time of a training step on a global batch, in ms; without it only the input is considered.
    """
    local = dataclasses.replace(config, service="")
    cores = cpu_cores()
    step_rate = config.batch_size / step_ms * 1000 if step_ms else None
    resources = _Resources(config.threads or cores, cores, step_rate or float("inf"))
    stages = time_stages(data, local, seed)
    cpu_ms, wait_ms = sum(stage.cpu_ms for stage in stages), sum(stage.wait_ms for stage in stages)
    rate = resources.input_rate(cpu_ms, wait_ms)
    floor_ms, tier_fractions = time_decoding(data, local, seed)
    suggestions: list[Suggestion] = []
    if step_rate and step_rate < rate:
        bound = "step"
        sentence = (
            f"step bound: the training step takes {step_rate:,.0f} images/s and the input can deliver {rate:,.0f},"
            f" {rate / step_rate:.1f} times as many; the input needs no change."
        )
    else:
        bound = max(STAGE_KINDS.values(), key=lambda kind: sum(s.share for s in stages if s.kind == kind))
        stage_ms = {stage.name: stage.cpu_ms for stage in stages}
        candidates = [
            Suggestion(
                each.change,
                resources.training_rate(cpu_ms - each.saved_cpu_ms, wait_ms - each.saved_wait_ms) / rate,
                each.options,
            )
            for each in candidate_changes(bound, stage_ms, wait_ms, tier_fractions, data, config, seed)
        ]
        suggestions = _rank_suggestions(candidates, resources, cpu_ms, wait_ms)
        best = f"no change gains {MIN_GAIN - 1:.0%}"
        if suggestions:
            best = f"best change: {suggestions[0].change}, {suggestions[0].gain:.2f} times as fast"
        share = sum(stage.share for stage in stages if stage.kind == bound)
        sentence = (
            f"{bound} bound: {share:.0%} of the {cpu_ms + wait_ms:.3f} ms of thread time per image,"
            f" {rate:,.0f} images/s; {best}."
        )
    return Report(
        stages=stages,
        cores=cores,
        threads=resources.threads,
        thread_ms=cpu_ms + wait_ms,
        images_per_second=rate,
        decoder_floor_ms=floor_ms,
        host_to_device_bytes=math.prod(config.image_shape) * config.channels,
        step_images_per_second=step_rate,
        bound=bound,
        suggestions=tuple(suggestions),
        sentence=sentence,
    )


def _rank_suggestions(
    candidates: list[Suggestion], resources: _Resources, cpu_ms: float, wait_ms: float
) -> list[Suggestion]:
    """Ranks `candidates` and the use of more cores, best first; drops gains below `MIN_GAIN`."""
    rate, cores = resources.input_rate(cpu_ms, wait_ms), resources.cores
    all_cores = dataclasses.replace(resources, threads=cores).training_rate(cpu_ms, wait_ms)
    ranked = [*candidates, Suggestion(f"all {cores} cores (--data.threads=0)", all_cores / rate, {"threads": 0})]
    ranked.sort(key=lambda suggestion: -suggestion.gain)
    # This suggestion is last, whatever its gain, because it needs other machines.
    twice = dataclasses.replace(resources, threads=2 * resources.threads, cores=2 * cores)
    elsewhere = f"{cores} more cores on other machines (evenkeel data-service and --data.service)"
    ranked.append(Suggestion(elsewhere, twice.training_rate(cpu_ms, wait_ms) / rate, {}))
    return [suggestion for suggestion in ranked if suggestion.gain >= MIN_GAIN]
