"""Averages of the weights over training, evaluated in the weights' place.

averages = Averages(model.variables, ema(decay=0.999))
averages.update(step)                    # in the training step, on every replica
with averages.applied(): model.evaluate(...)
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf
import tf_keras as keras

from evenkeel.models.distribute.strategy import summed


@dataclasses.dataclass(frozen=True)
class Averaging:
    """The averages move after `first` steps and every `every` from there, the nth time by `share(n)`."""

    first: int
    every: int
    share: Callable[[tf.Tensor], tf.Tensor]
    recompute: bool = False  # BatchNorm's statistics are those of the averaged weights, not averages


def ema(decay: float) -> Averaging:
    """An exponential moving average; in the first steps it forgets faster, as (1 + n) / (10 + n)."""
    return Averaging(1, 1, lambda n: 1 - tf.minimum(decay, (1 + n) / (10 + n)))


def swa(first: int, every: int) -> Averaging:
    """The mean of the weights after `first` steps and every `every` from there (Izmailov et al. 2018)."""
    return Averaging(first, every, lambda n: 1 / (n + 1), recompute=True)


class Averages:
    """An average for each of `variables`. Create it inside the strategy's scope; checkpoints hold `variables`."""

    def __init__(self, variables: Sequence[tf.Variable], averaging: Averaging) -> None:
        self.of, self.averaging = list(variables), averaging
        self._strategy = tf.distribute.get_strategy()
        # A copy for each replica that it updates alone: all replicas hold the same weights.
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
        """After the update of the weights in `step` (int64 []); in a replica's context."""
        since = step + 1 - self.averaging.first
        due = (since >= 0) & (since % self.averaging.every == 0)
        share = self.averaging.share(tf.cast(since // self.averaging.every, tf.float32))

        def move() -> tf.Tensor:
            for average, variable in zip(self.variables, self.of, strict=True):
                average.assign_add(share * (variable - average))
            return tf.constant(True)

        if self.averaging.every == 1 and self.averaging.first <= 1:
            move()
        else:
            tf.cond(due, move, lambda: tf.constant(False))

    def ready(self, step: int) -> bool:
        """Whether anything has been averaged when `step` steps are done."""
        return step >= self.averaging.first

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The variables have the averages' values inside of the block and their own again after it."""
        kept = [self._first_copy(variable) for variable in self.of]
        try:
            for variable, average in zip(self.of, self.variables, strict=True):
                variable.assign(self._first_copy(average))
            yield
        finally:
            for variable, value in zip(self.of, kept, strict=True):
                variable.assign(value)

    def _first_copy(self, variable: tf.Variable) -> tf.Tensor:
        """The value on this process's first replica: exact, where the mean of equal copies is not always."""
        return tf.identity(self._strategy.experimental_local_results(variable)[0])


def recomputing(model: keras.Model) -> Callable[[tf.data.Dataset, int], None]:
    """A function that sets BatchNorm's moving means and variances to their means over the first steps of a data set."""
    norms = [
        layer
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    statistics = [(v, 1 - layer.momentum) for layer in norms for v in (layer.moving_mean, layer.moving_variance)]
    strategy = model.distribute_strategy

    def of_replica(images: tf.Tensor) -> list[tf.Tensor]:
        for variable, _ in statistics:  # from zero, a step leaves the batch's own times 1 - momentum
            variable.assign(tf.zeros(variable.shape))
        model(images, training=True)
        return summed([variable / share / strategy.num_replicas_in_sync for variable, share in statistics])

    @tf.function
    def of_batch(iterator: Iterator) -> list[tf.Tensor]:
        results = strategy.run(of_replica, args=(next(iterator)[0],))
        return [strategy.experimental_local_results(result)[0] for result in results]

    def recompute(batches: tf.data.Dataset, steps: int) -> None:
        iterator = iter(batches)
        totals = [tf.zeros(variable.shape) for variable, _ in statistics]
        for _ in range(steps if statistics else 0):
            totals = [total + mean for total, mean in zip(totals, of_batch(iterator), strict=True)]
        for (variable, _), total in zip(statistics, totals, strict=True):
            variable.assign(total / steps)

    return recompute
