"""What can be known before training: every check of configuration, data and a throw-away network.

    for finding in preflight(config, data, devices):
        print(finding.line)
    tell(findings, incidents)          # those that are not ok: a line of the log and an incident each

The quick checks take about eight CPU seconds (7.7 with `--preset=quick`, two runs on 2 cores of an EPYC): the network's
making and its two passes and, in a thread beside, the labels and, of 2,500 images or more, what augmentation leaves of
them. `train` begins before these have ended.
`--preflight=full` adds those that take longer: one batch learnt by heart (1 to 3), a learning-rate range test (20 with
`--preset=quick`: 120 steps of the run's own batches).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from absl import logging

from models import config_checks, data_checks, network_checks, range_test
from models.config import TrainConfig
from models.diagnosis import Finding
from models.incidents import Incidents
from models.look import Look
from models.range_test import RangeTest
from pipeline.opening import Data


def preflight(
    config: TrainConfig,
    data: Data,
    devices: tf.distribute.Strategy,
    shown: Callable[[RangeTest], None] | None = None,
) -> list[Finding]:
    """A finding of every check, ok or not: those of `begun`, and what becomes of them."""
    findings, images = begun(config, data, devices, shown)
    return [*findings, *images.result()]


def begun(
    config: TrainConfig,
    data: Data,
    devices: tf.distribute.Strategy,
    shown: Callable[[RangeTest], None] | None = None,
) -> tuple[list[Finding], Future[list[Finding]]]:
    """(findings of settings, index and network, those of the images); with `config.preflight` "full" slow ones, too.

    Those of the images, five of the eight seconds, come from a thread of their own: training may begin meanwhile.
    Call it when the process has been seeded (`train.set_up`) and nothing been made of that: it leaves seeds and names
    of layers as it found them, so that a run after it is bit for bit the one without. The network is one device's; on
    several workers none is made and no image read, as what one of them does alone the others would wait for.
    `shown` gets the range test.

    Raises:
      UsageError: the network cannot be made.
    """
    replicas, available = devices.num_replicas_in_sync, len(data.train)
    findings = config_checks.checks(config, available, replicas)
    with thrown_away(config.seed):
        findings += data_checks.checks(config, data)
        if isinstance(devices, tf.distribute.MultiWorkerMirroredStrategy):
            rule = "on several workers only settings and the index are checked"
            nothing: Future[list[Finding]] = Future()
            nothing.set_result([])
            untouched = Finding("network", True, "neither network nor augmentation has been looked at", rule)
            return [*findings, untouched], nothing
        images, labels = data_checks.first_batch(config, data)
        of_images = looked_at(config, data, images)
        look = Look(config, data, images, labels)
        findings += network_checks.checks(config, look, config_checks.steps_in_run(config, available), replicas)
        if config.preflight == "full":
            findings.append(network_checks.overfits(look))
            found = range_test.range_test(config, data)
            findings.append(range_test.finding(config, found))
            if shown:
                shown(found)
    return findings, of_images


def looked_at(config: TrainConfig, data: Data, images: np.ndarray | None = None) -> Future[list[Finding]]:
    """Findings of the images, in a thread of their own; `images` are the run's first, where they have been read."""
    if images is None:
        images, _ = data_checks.first_batch(config, data)
    beside = ThreadPoolExecutor(1, "preflight")
    found = beside.submit(data_checks.of_images, config, data, images)
    beside.shutdown(wait=False)
    return found


def is_pending(state: dict[str, Any]) -> bool:
    """Whether the run that left this `state` in a checkpoint was not told what the images show."""
    return not state.get("preflight", {"told": True})["told"]


class Telling(keras.callbacks.Callback):
    """Tells what the checks of the images found as soon as they have ended, and waits for them before a checkpoint.

    `in_haste`, as after a signal, it does not wait: `state` says so, and a run that goes on checks the images anew.
    """

    def __init__(self, of_images: Future[list[Finding]], incidents: Incidents) -> None:
        super().__init__()
        self._of_images, self._incidents = of_images, incidents
        self._told = self.in_haste = False

    def state(self) -> dict[str, Any]:
        return {"told": self._told}

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._of_images.done():
            self.finish()

    def finish(self) -> None:
        """Waits for them. What breaks a check stops no run: that is an error in the log."""
        if self._told or (self.in_haste and not self._of_images.done()):
            return
        self._told = True
        if error := self._of_images.exception():
            logging.error("preflight: the images could not be checked: %s: %s", type(error).__name__, error)
        else:
            tell(self._of_images.result(), self._incidents)


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
