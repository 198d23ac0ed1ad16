"""Short measurements of the input pipeline, for tests whose cases differ by more than the noise of these."""

from __future__ import annotations

import functools

import tensorflow as tf

from evenkeel.pipeline.profile import stage_timing, suggestions, timing


@functools.cache
def draining_overhead() -> float:
    """What `timing._draining_overhead` measures, on a hundredth of the elements, which take 8 s."""
    elements = 1000
    timing._time_draining(tf.data.Dataset.range(elements), elements)
    return float(timing._time_draining(tf.data.Dataset.range(elements), elements)[0] / elements)


CHANGES = (
    (timing, "TARGET_SECONDS", 0.05),
    (timing, "_draining_overhead", draining_overhead),
    (timing.time_per_image, "__defaults__", (1,)),  # rounds
    (stage_timing, "ROUNDS", 1),
    (stage_timing, "AUTOTUNE_SECONDS", 0.1),
    (suggestions, "AUGMENTATION_ROUNDS", 1),
)


def shorten() -> None:
    """Makes all measurements of this process short."""
    for owner, name, value in CHANGES:
        setattr(owner, name, value)
