"""Copies of the training state in memory, for rollbacks.

snapshots = Snapshots(model)
snapshots.take()
step = snapshots.restore(max_step=alarm.step)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from evenkeel.models.training.stable_model import StableModel

MAX_SNAPSHOTS = 6


class _Snapshot(NamedTuple):
    step: int
    trained_steps: int
    values: list[np.ndarray]


class Snapshots:
    """Up to `MAX_SNAPSHOTS` copies of weights, BatchNorm's statistics, optimizer slots and step, loss scale, averages.

    Older copies are farther apart: trouble that is noticed late needs an old copy. `data_step` is not copied: after a
    rollback the run trains on batches that it has not seen. The model makes up for the undone steps, so that the
    learning-rate schedule, which the rollback also sets back, still reaches its end.
    """

    def __init__(self, model: StableModel) -> None:
        self._model = model
        self._variables = state_variables(model)
        self._snapshots: list[_Snapshot] = []

    @property
    def steps(self) -> list[int]:
        """The steps of the copies, ascending."""
        return [snapshot.step for snapshot in self._snapshots]

    def take(self) -> None:
        """Copies the present state. If there are too many copies, drops one, so that older copies are further apart."""
        local = self._model.distribute_strategy.experimental_local_results
        # np.array copies: on a CPU .numpy() returns the variable's own memory.
        values = [np.array(local(variable)[0].numpy()) for variable in self._variables]
        self._snapshots.append(_Snapshot(self._model.step, self._model.trained_steps, values))
        if len(self._snapshots) > MAX_SNAPSHOTS:
            steps = self.steps
            # Drops a copy between the first and the last: the one with the smallest gap between its neighbours,
            # relative to its age.
            gaps = [(steps[i + 1] - steps[i - 1]) / (steps[-1] - steps[i] + 1) for i in range(1, len(steps) - 1)]
            del self._snapshots[1 + int(np.argmin(gaps))]

    def restore(self, max_step: int) -> int:
        """Restores the newest copy with a step up to `max_step`, drops newer copies, and returns the step.

        Raises:
          ValueError: there is no such copy.
        """
        usable = [snapshot for snapshot in self._snapshots if snapshot.step <= max_step]
        if not usable:
            raise ValueError(
                f"no snapshot of step {max_step} or before it; there are {self.steps}: take one before training."
            )
        self._snapshots = usable
        newest = usable[-1]
        for variable, value in zip(self._variables, newest.values, strict=True):
            variable.assign(value)
        self._model.record_rollback(self._model.trained_steps - newest.trained_steps)
        return newest.step


def state_variables(model: StableModel) -> list[tf.Variable]:
    """Every variable that a training step writes, except metrics, `data_step` and `lost_steps`."""
    metric_variables = {id(variable) for metric in model.metrics for variable in metric.variables}
    own = [variable for variable in model.variables if id(variable) not in metric_variables]
    optimizer = model.optimizer
    scale = [optimizer._loss_scale._current_loss_scale, optimizer._loss_scale._counter] if optimizer.dynamic else []
    averages = model.averages.variables if model.averages is not None else []
    return [*own, *optimizer.inner_optimizer.variables(), *scale, *averages]
