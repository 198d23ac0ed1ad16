"""Averages of the weights over training steps (EMA, SWA), used in place of the weights in evaluation.

averages = WeightAverages(model.variables, ema(decay=0.999))
averages.update(step)                    # in the training step, on every replica
with averages.swap_in(): model.evaluate(...)
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf
import tf_keras as keras

from evenkeel.models.distribute.strategy import sum_over_replicas


@dataclasses.dataclass(frozen=True)
class AveragingRule:
    """At which steps the averages are updated, and how far each update moves them.

    Attributes:
      first_step: number of steps before the first update.
      every_steps: steps between updates.
      weight: n (float32 [], from 0) -> the weight of the new value in update n: average += weight * (value - average).
      recompute_statistics: whether evaluation recomputes BatchNorm's statistics for the averaged weights, instead of
        using the averages of the statistics.
    """

    first_step: int
    every_steps: int
    weight: Callable[[tf.Tensor], tf.Tensor]
    recompute_statistics: bool = False


def ema(decay: float) -> AveragingRule:
    """An exponential moving average; its decay in update n is the smaller of `decay` and (1 + n) / (10 + n)."""
    return AveragingRule(1, 1, lambda n: 1 - tf.minimum(decay, (1 + n) / (10 + n)))


def swa(first_step: int, every_steps: int) -> AveragingRule:
    """The mean of the weights after `first_step` steps and after every further `every_steps` (Izmailov et al. 2018)."""
    return AveragingRule(first_step, every_steps, lambda n: 1 / (n + 1), recompute_statistics=True)


class WeightAverages:
    """Keeps an average of each variable in a list. Create it inside the strategy's scope.

    Attributes:
      sources: the variables that are averaged.
      variables: their averages, in the same order; checkpoints save them.
      rule: the `AveragingRule`.
    """

    def __init__(self, variables: Sequence[tf.Variable], rule: AveragingRule) -> None:
        self.sources, self.rule = list(variables), rule
        self._strategy = tf.distribute.get_strategy()
        # Each replica updates its own copy without communication, because all replicas hold the same weights.
        self.variables = [
            tf.Variable(
                variable.read_value(),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                name=f"average/{variable.name.split(':')[0]}",
            )
            for variable in variables
        ]

    def update(self, step: tf.Tensor) -> None:
        """Updates the averages if they are due at `step`, int64 [], counted from 0.

        Call this in a replica context, after the weights have been updated.
        """
        since_first = step + 1 - self.rule.first_step
        due = (since_first >= 0) & (since_first % self.rule.every_steps == 0)
        weight = self.rule.weight(tf.cast(since_first // self.rule.every_steps, tf.float32))

        def move() -> tf.Tensor:
            for average, variable in zip(self.variables, self.sources, strict=True):
                average.assign_add(weight * (variable - average))
            return tf.constant(True)

        if self.rule.every_steps == 1 and self.rule.first_step <= 1:
            move()
        else:
            tf.cond(due, move, lambda: tf.constant(False))

    def is_ready(self, step: int) -> bool:
        """Whether the averages have been updated at least once after `step` steps."""
        return step >= self.rule.first_step

    @contextlib.contextmanager
    def swap_in(self) -> Iterator[None]:
        """Assigns the averages to the variables inside the `with` block, and restores their own values after it."""
        own_values = [self._first_copy(variable) for variable in self.sources]
        try:
            for variable, average in zip(self.sources, self.variables, strict=True):
                variable.assign(self._first_copy(average))
            yield
        finally:
            for variable, value in zip(self.sources, own_values, strict=True):
                variable.assign(value)

    def _first_copy(self, variable: tf.Variable) -> tf.Tensor:
        """The value on this process's first replica: exact, unlike the mean of equal copies, which may be rounded."""
        return tf.identity(self._strategy.experimental_local_results(variable)[0])


def make_batch_norm_update(model: keras.Model) -> Callable[[tf.data.Dataset, int], None]:
    """Returns a function (batches, steps) that recomputes BatchNorm's statistics for the current weights.

    The function sets each moving mean and variance to the average of the batch means and batch variances of the first
    `steps` batches.
    """
    norms = [
        layer
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    statistics = [(v, 1 - layer.momentum) for layer in norms for v in (layer.moving_mean, layer.moving_variance)]
    strategy = model.distribute_strategy

    def replica_statistics(images: tf.Tensor) -> list[tf.Tensor]:
        for variable, _ in statistics:  # starting at 0, one step leaves (1 - momentum) times the batch's statistic
            variable.assign(tf.zeros(variable.shape))
        model(images, training=True)
        return sum_over_replicas(
            [variable / batch_weight / strategy.num_replicas_in_sync for variable, batch_weight in statistics]
        )

    @tf.function
    def batch_statistics(iterator: Iterator) -> list[tf.Tensor]:
        results = strategy.run(replica_statistics, args=(next(iterator)[0],))
        return [strategy.experimental_local_results(result)[0] for result in results]

    def update(batches: tf.data.Dataset, steps: int) -> None:
        iterator = iter(batches)
        totals = [tf.zeros(variable.shape) for variable, _ in statistics]
        for _ in range(steps if statistics else 0):
            totals = [total + mean for total, mean in zip(totals, batch_statistics(iterator), strict=True)]
        for (variable, _), total in zip(statistics, totals, strict=True):
            variable.assign(total / steps)

    return update
