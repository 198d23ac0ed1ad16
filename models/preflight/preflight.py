"""What can be known before training: every check of configuration, data and a throw-away network.

    for finding in preflight(config, data, devices):
        print(finding.line)
    tell(findings, incidents)          # those that are not ok: a line of the log and an incident each

The quick checks take about eight CPU seconds (7.7 with `--preset=quick`, two runs on 2 cores of an EPYC): the network's
making and its two passes; the labels and, of 2,500 images or more, what augmentation leaves of them. Those of the
images are five of the eight seconds: `train` makes them in a thread, beside the steps that follow the first ones.
`--preflight=full` adds those that take longer: one batch learnt by heart (1 to 3), a learning-rate range test (20 with
`--preset=quick`: 120 steps of the run's own batches).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import tensorflow as tf
import tf_keras as keras
from absl import logging

from evenkeel.models.config import TrainConfig
from evenkeel.models.preflight import (
    config_checks,
    data_checks,
    lr_range_test,
    network_checks,
)
from evenkeel.models.preflight.first_batch import Look
from evenkeel.models.preflight.lr_range_test import RangeTest
from evenkeel.models.stability.diagnosis import Finding
from evenkeel.models.telemetry.incidents import Incidents
from evenkeel.pipeline.dataset import Dataset

OfImages = Callable[[], list[Finding]]


def preflight(
    config: TrainConfig,
    data: Dataset,
    devices: tf.distribute.Strategy,
    shown: Callable[[RangeTest], None] | None = None,
) -> list[Finding]:
    """A finding of every check, ok or not."""
    findings, of_images = before(config, data, devices, shown)
    return [*findings, *of_images()]


def before(
    config: TrainConfig,
    data: Dataset,
    devices: tf.distribute.Strategy,
    shown: Callable[[RangeTest], None] | None = None,
) -> tuple[list[Finding], OfImages]:
    """(findings of settings, index and network, what finds those of the images); with "full" slow ones, too.

    Call it when the process has been seeded (`creation.set_up`) and nothing been made of that: it leaves seeds and
    names of layers as it found them, so that a run after it is bit for bit the one without. The network is one
    device's; on several workers none is made and no image read, as what one of them does alone the others would wait
    for. `shown` gets the range test.

    Raises:
      UsageError: the network cannot be made.
    """
    replicas, available = devices.num_replicas_in_sync, len(data.train)
    findings = config_checks.checks(config, available, replicas)
    with thrown_away(config.seed):
        findings += data_checks.checks(config, data)
        if isinstance(devices, tf.distribute.MultiWorkerMirroredStrategy):
            rule = "on several workers only settings and the index are checked"
            untouched = Finding("network", True, "neither network nor augmentation has been looked at", rule)
            return [*findings, untouched], list
        images, labels = data_checks.first_batch(config, data)
        look = Look(config, data, images, labels)
        findings += network_checks.checks(config, look, config_checks.steps_in_run(config, available), replicas)
        if config.preflight == "full":
            findings.append(network_checks.overfits(look))
            found = lr_range_test.range_test(config, data)
            findings.append(lr_range_test.finding(config, found))
            if shown:
                shown(found)
    return findings, functools.partial(data_checks.of_images, config, data, images)


def of_images(config: TrainConfig, data: Dataset) -> OfImages:
    """What finds those of the images, for a run that goes on."""
    images, _ = data_checks.first_batch(config, data)
    return functools.partial(data_checks.of_images, config, data, images)


def is_pending(state: dict[str, Any]) -> bool:
    """Whether the run that left this `state` in a checkpoint was not told what the images show."""
    return not state.get("preflight", {"told": True})["told"]


class Telling(keras.callbacks.Callback):
    """Checks the images beside training, from its first call on, and tells what that found as soon as it has ended.

    Not before: tracing and compiling want the cores themselves. Before a checkpoint it waits for them. `in_haste`, as
    after a signal, it does not: `state` says so, and a run that goes on checks the images anew.
    """

    def __init__(self, of_images: OfImages, incidents: Incidents) -> None:
        super().__init__()
        self._of_images, self._incidents = of_images, incidents
        self._found: Future[list[Finding]] | None = None
        self._told = self.in_haste = False

    def state(self) -> dict[str, Any]:
        return {"told": self._told}

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._begun().done():
            self.finish()

    def finish(self) -> None:
        """Waits for them. What breaks a check stops no run: that is an error in the log."""
        if self._told or (self.in_haste and not (self._found and self._found.done())):
            return
        found, self._told = self._begun(), True
        if error := found.exception():
            logging.error("preflight: the images could not be checked: %s: %s", type(error).__name__, error)
        else:
            tell(found.result(), self._incidents)

    def _begun(self) -> Future[list[Finding]]:
        if self._found is None:
            beside = ThreadPoolExecutor(1, "preflight")
            self._found = beside.submit(self._of_images)
            beside.shutdown(wait=False)
        return self._found


@contextlib.contextmanager
def thrown_away(seed: int) -> Iterator[None]:
    """What is made here leaves no trace: Keras names later layers as if it had not been, and seeds start anew.

    TensorFlow's warnings, of graphs traced again or of its old names, would be read as the run's: they are not shown.
    """
    names, logger = keras.src.backend.get_default_graph_uid_map(), tf.get_logger()
    before, level = dict(names), logger.level
    keras.utils.set_random_seed(seed)
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        names.clear()
        names.update(before)
        logger.setLevel(level)
        keras.utils.set_random_seed(seed)


def tell(findings: Sequence[Finding], incidents: Incidents) -> None:
    """Those that are not ok."""
    for finding in findings:
        if not finding.ok:
            logging.warning("preflight: %s", finding.line)
            incidents.tell(0, f"preflight_{finding.check}", finding.evidence, "none")
