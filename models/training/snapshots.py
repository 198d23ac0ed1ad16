"""Copies of all that training changes, in memory: what a rollback puts back.

snapshots = Snapshots(model)
snapshots.take()
step = snapshots.restore(before=alarm.step)
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from evenkeel.models.training.stable_model import StableModel

KEEP = 6


class Snapshots:
    """`KEEP` copies of weights, BatchNorm's statistics, optimizer slots and step, loss scale and averages.

    The older, the farther apart: what is noticed late needs an old one. Not of `data_step`: what is trained on after a
    rollback are batches not yet seen. The model makes up for the steps that are undone, so that the learning rate's
    schedule, which goes back as well, comes to its end.
    """

    def __init__(self, model: StableModel) -> None:
        self._model = model
        self._variables = changing(model)
        self._taken: list[tuple[int, int, list[np.ndarray]]] = []  # step, trained steps, values

    @property
    def steps(self) -> list[int]:
        """The steps that are held, ascending."""
        return [step for step, _, _ in self._taken]

    def take(self) -> None:
        local = self._model.distribute_strategy.experimental_local_results
        # Copies: on a CPU, what .numpy() gives is the variable's own memory.
        values = [np.array(local(variable)[0].numpy()) for variable in self._variables]
        self._taken.append((self._model.step, self._model.trained_steps, values))
        if len(self._taken) > KEEP:
            steps = self.steps
            # Of the ones between, that whose neighbours are nearest to each other for its age.
            gaps = [(steps[at + 1] - steps[at - 1]) / (steps[-1] - steps[at] + 1) for at in range(1, len(steps) - 1)]
            del self._taken[1 + int(np.argmin(gaps))]

    def restore(self, before: int) -> int:
        """Puts the newest copy of a step up to `before` back, on every replica, and drops later ones; returns its step.

        Raises:
          ValueError: there is no such copy.
        """
        usable = [taken for taken in self._taken if taken[0] <= before]
        if not usable:
            raise ValueError(f"no snapshot of step {before} or before it; there are {self.steps}.")
        self._taken = usable
        step, trained, values = usable[-1]
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)
        self._model.undo(self._model.trained_steps - trained)
        return step


def changing(model: StableModel) -> list[tf.Variable]:
    """Every variable that a training step writes, but for metrics and clocks."""
    of_metrics = {id(variable) for metric in model.metrics for variable in metric.variables}
    own = [variable for variable in model.variables if id(variable) not in of_metrics]
    optimizer = model.optimizer
    scale = [optimizer._loss_scale._current_loss_scale, optimizer._loss_scale._counter] if optimizer.dynamic else []
    averages = model.averages.variables if model.averages is not None else []
    return [*own, *optimizer.inner_optimizer.variables(), *scale, *averages]
