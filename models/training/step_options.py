"""The settings of a StableModel's steps that Keras's own `compile` does not have.

model.compile(optimizer, loss, StepOptions(guarded=True, layer_stats_every=20), steps_per_execution=20)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from evenkeel.models.config import MixingConfig
from evenkeel.models.optim.averaging import AveragingRule
from evenkeel.models.optim.clipping import Clipping

OUTLIER_NORM_FACTOR = 10.0  # times the median gradient norm; a guarded step shortens longer gradients to the median


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """How a StableModel computes, observes and evaluates its steps.

        model.compile(optimizer, loss, evenkeel.StepOptions(guarded=True, layer_stats_every=20))

    Attributes:
      xla: compile the forward and backward pass with XLA.
      clipping: limits of the gradients; no limits by default.
      accumulate: parts into which each replica's batch is divided; their gradients add up to one update.
      class_weights: one weight per class for the training loss; None weighs all examples equally.
      mixing: mixup and CutMix of each replica's batch; None turns both off.
      guarded: shorten outlier gradients to the median norm (see `OUTLIER_NORM_FACTOR`) and make the learning rate
        scalable (see `StableModel.scale_learning_rate`), as `guard.StabilityGuard` needs.
      histograms_every: steps between histograms of all weights and gradients; 0 turns them off.
      layer_stats_every: steps between statistics of each layer (see `layer_stats.LayerStats`); 0 turns them off.
      averaging: which average of the weights `evaluate` uses; None evaluates the weights themselves.
      evaluate_flipped: evaluate the mean of the logits of each image and of its mirror image.
    """

    xla: bool = False
    clipping: Clipping = dataclasses.field(default_factory=Clipping)
    accumulate: int = 1
    class_weights: Sequence[float] | None = None
    mixing: MixingConfig | None = None
    guarded: bool = False
    histograms_every: int = 0
    layer_stats_every: int = 0
    averaging: AveragingRule | None = None
    evaluate_flipped: bool = False
