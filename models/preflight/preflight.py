"""Checks the configuration, the data, and a throw-away copy of the network before training.

    for finding in run_checks(config, data, devices):
        print(finding.line)
    report_findings(findings, incidents)          # a warning and an incident for each failed check

The checks take about eight CPU seconds (7.7 with `--preset=quick`, two runs on 2 cores of an EPYC). Three are spent on
the network: its creation and two passes. Five are spent on images: on their labels and, from 2,500 images on, on their
augmentation; `train` runs these checks in a thread during training, after the first compiled call.
`--preflight=full` adds slower checks: overfitting one batch (1 to 3 CPU seconds) and a learning-rate range test (20
CPU seconds with `--preset=quick`: 120 steps of the run's own batches).
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
    image_checks,
    lr_range_test,
    network_checks,
    overfit_check,
)
from evenkeel.models.preflight.first_batch import FirstBatchPass
from evenkeel.models.preflight.lr_range_test import RangeTestResult
from evenkeel.models.stability.diagnosis import Finding
from evenkeel.models.telemetry.incidents import Incidents
from evenkeel.pipeline.dataset import Dataset

ImageChecks = Callable[[], list[Finding]]


def run_checks(
    config: TrainConfig,
    data: Dataset,
    devices: tf.distribute.Strategy,
    on_range_test: Callable[[RangeTestResult], None] | None = None,
) -> list[Finding]:
    """Returns the findings of all checks. `on_range_test` receives the result of `--preflight=full`'s range test."""
    findings, check_images = run_early_checks(config, data, devices, on_range_test)
    return [*findings, *check_images()]


def run_early_checks(
    config: TrainConfig,
    data: Dataset,
    devices: tf.distribute.Strategy,
    on_range_test: Callable[[RangeTestResult], None] | None = None,
) -> tuple[list[Finding], ImageChecks]:
    """Returns the findings of all checks except the image checks, and a function that runs the image checks.

    Call this after `build_model.configure_process` has seeded the process and before anything uses the seed: seeds and
    Keras's layer names are restored, so that the following run is bit for bit the same as without these checks. The
    network runs on one device. On several workers neither the network nor images are checked: the other workers would
    have to wait for the worker that checks.

    Raises:
      UsageError: the network cannot be created.
    """
    replicas, train_images = devices.num_replicas_in_sync, len(data.train)
    findings = config_checks.check_config(config, train_images, replicas)
    with isolate_keras_state(config.seed):
        findings += data_checks.check_index(config, data)
        if isinstance(devices, tf.distribute.MultiWorkerMirroredStrategy):
            rule = "on several workers only the configuration and the index are checked"
            return [*findings, Finding("network", True, "network, images and labels were not checked", rule)], list
        images, labels = image_checks.read_first_batch(config, data)
        batch_pass = FirstBatchPass(config, data, images, labels)
        steps = config_checks.steps_in_run(config, train_images)
        findings += network_checks.check_network(config, batch_pass, steps, replicas)
        if config.preflight == "full":
            findings.append(overfit_check.check_one_batch(batch_pass))
            range_test = lr_range_test.run_range_test(config, data)
            findings.append(lr_range_test.check_learning_rate_range(config, range_test))
            if on_range_test:
                on_range_test(range_test)
    return findings, functools.partial(image_checks.check_images, config, data, images)


def defer_image_checks(config: TrainConfig, data: Dataset) -> ImageChecks:
    """Returns a function that runs the image checks, for a resumed run if its checkpoint lacks their findings."""
    images, _ = image_checks.read_first_batch(config, data)
    return functools.partial(image_checks.check_images, config, data, images)


def is_pending(state: dict[str, Any]) -> bool:
    """Whether the run had not yet reported the image checks when it saved this checkpoint `state`."""
    return not state.get("preflight", {"told": True})["told"]


class BackgroundPreflight(keras.callbacks.Callback):
    """Runs the image checks in a thread during training, and reports their findings when they end.

    The thread starts after the first compiled call: tracing and compiling need the cores themselves. Before a
    checkpoint, `finish` waits for the thread.

    Attributes:
      no_wait: whether `finish` no longer waits, as after a signal; `state` then says that the checks are pending, and a
        resumed run repeats them.
    """

    def __init__(self, check_images: ImageChecks, incidents: Incidents) -> None:
        super().__init__()
        self._check_images, self._incidents = check_images, incidents
        self._future: Future[list[Finding]] | None = None
        self._reported = self.no_wait = False

    def state(self) -> dict[str, Any]:
        return {"told": self._reported}

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._start().done():
            self.finish()

    def finish(self) -> None:
        """Waits for the checks and reports them. If a check raises, an error is logged and the run continues."""
        if self._reported or (self.no_wait and not (self._future and self._future.done())):
            return
        future, self._reported = self._start(), True
        if error := future.exception():
            logging.error("preflight: the images could not be checked: %s: %s", type(error).__name__, error)
        else:
            report_findings(future.result(), self._incidents)

    def _start(self) -> Future[list[Finding]]:
        if self._future is None:
            executor = ThreadPoolExecutor(1, "preflight")
            self._future = executor.submit(self._check_images)
            executor.shutdown(wait=False)
        return self._future


@contextlib.contextmanager
def isolate_keras_state(seed: int) -> Iterator[None]:
    """Restores Keras's layer names on exit, and sets the seed on entry and on exit.

    TensorFlow's warnings inside the block, about retraced graphs or deprecated names, are suppressed: users would take
    them for warnings about the run.
    """
    names, logger = keras.src.backend.get_default_graph_uid_map(), tf.get_logger()
    saved_names, level = dict(names), logger.level
    keras.utils.set_random_seed(seed)
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        names.clear()
        names.update(saved_names)
        logger.setLevel(level)
        keras.utils.set_random_seed(seed)


def report_findings(findings: Sequence[Finding], incidents: Incidents) -> None:
    """Logs a warning and records an incident for each failed check."""
    for finding in findings:
        if not finding.ok:
            logging.warning("preflight: %s", finding.line)
            incidents.record(0, f"preflight_{finding.check}", finding.evidence, "none")
