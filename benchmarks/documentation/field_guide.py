"""Draws the pictures of docs/unstable.md: TensorBoard's charts of a faulty run and the same run without the fault.

python -m benchmarks.documentation.field_guide docs/unstable   # 38 faults, about half an hour on two cores
python -m benchmarks.documentation.field_guide docs/unstable momentum,dropout

The faults come from the stability suite and run on four classes of `shapes`. The runs are kept below `RUNS` and reused.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pathlib
import sys
import tempfile
from typing import NamedTuple

import numpy as np
import tf_keras as keras
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from evenkeel.benchmarks.documentation.browser import TIMEOUT_SECONDS, open_chromium, run_tensorboard
from evenkeel.benchmarks.stability import faults
from evenkeel.benchmarks.stability.cases import Case, CaseRunner
from evenkeel.models import train as training
from evenkeel.models.config import TrainConfig, config_hash

RUNS = os.path.join(tempfile.gettempdir(), "field_guide")
# A chart with one point per epoch needs enough points: runs of fewer than ten epochs get three times as many.
EPOCH_FACTOR, MAX_EPOCHS_TO_EXTEND = 3, 10
GAP_PIXELS = 12  # gap between two charts
PALETTE_SIZE = 128  # number of colors in a picture
MIN_LINE_SATURATION = 25  # largest minus smallest channel; every line exceeds this, and the rest of a chart is gray


class Example(NamedTuple):
    """A fault, and the two charts that show it.

    Attributes:
      fault: name of the fault in `faults.FAULTS`.
      network: name of the network in the stability suite.
      tags: tags of the two charts in TensorBoard, as regular expressions.
    """

    fault: str
    network: str
    tags: tuple[str, str]


LOSS, NORM, EPOCH_LOSS, ACCURACY = "^step/loss$", "^step/gradient_norm$", "^epoch/loss$", "^epoch/accuracy$"
EXAMPLES = {
    "input_scale": Example("raw_pixels", "plain", (LOSS, NORM)),
    "outlier_images": Example("outliers_60", "cnn", (LOSS, ACCURACY)),
    "empty_images": Example("blank_95", "plain", (LOSS, ACCURACY)),
    "label_noise": Example("label_noise_40", "cnn", (EPOCH_LOSS, ACCURACY)),
    "too_few_images": Example("few_images", "plain", (EPOCH_LOSS, ACCURACY)),
    "labels_unrelated": Example("shuffled_labels", "plain", (LOSS, ACCURACY)),
    "split_labels": Example("rotated_labels", "plain", (EPOCH_LOSS, ACCURACY)),
    "class_imbalance": Example("imbalance_50", "plain", (ACCURACY, "^epoch/macro_f1$")),
    "class_weights": Example("balanced_twice", "plain", (LOSS, ACCURACY)),
    "train_validation_skew": Example("darkened_training", "cnn", (EPOCH_LOSS, ACCURACY)),
    "overfitting": Example("learnt_by_heart", "cnn", (EPOCH_LOSS, ACCURACY)),
    "too_much_augmentation": Example("distorted", "cnn", (LOSS, ACCURACY)),
    "learning_rate_high": Example("rate_x30", "resnet9", (LOSS, "^layers/update_norm/.*1")),
    "learning_rate_low": Example("rate_1_100", "plain", (LOSS, "^layers/update_norm/.*1")),
    "no_warmup": Example("no_warmup", "cnn", (LOSS, NORM)),
    "batch_small": Example("batch_2", "plain", (LOSS, NORM)),
    "batch_large": Example("batch_1000", "cnn", (LOSS, ACCURACY)),
    "schedule": Example("early_decay", "plain", (LOSS, "^step/learning_rate$")),
    "clipping": Example("clipped", "plain", (LOSS, NORM)),
    "momentum": Example("momentum_999", "plain", (LOSS, NORM)),
    "epsilon": Example("epsilon_1", "cnn", (LOSS, NORM)),
    "optimizer": Example("adam_at_sgds_rate", "plain", (LOSS, NORM)),
    "too_few_steps": Example("one_epoch", "cnn", (LOSS, ACCURACY)),
    "dropout": Example("dropout_90", "cnn", ("^layers/training_loss$", "^layers/inference_loss$")),
    "penalty": Example("weight_decay", "plain", (LOSS, "^layers/weight_norm/.*1")),
    "no_normalization": Example("unnormalized", "resnet9", (LOSS, NORM)),
    "batch_norm_batch": Example("batch_2_norm", "cnn", ("^layers/training_loss$", "^layers/inference_loss$")),
    "batch_norm_momentum": Example("slow_norm_4", "cnn", ("^layers/training_loss$", "^layers/inference_loss$")),
    "initialization": Example("huge_weights", "plain", (LOSS, NORM)),
    "saturating_activation": Example("sigmoid", "plain", (LOSS, NORM)),
    "unbounded_activation": Example("exponential", "plain", (LOSS, NORM)),
    "missing_activation": Example("linear", "plain", (LOSS, ACCURACY)),
    "dying_activation": Example("dying_relu", "cnn", (LOSS, NORM)),
    "output_activation": Example("softmax", "plain", (LOSS, NORM)),
    "small_network": Example("narrow", "plain", (LOSS, ACCURACY)),
    "early_pooling": Example("one_pixel", "plain", (LOSS, ACCURACY)),
    "frozen_layers": Example("frozen", "cnn", (LOSS, ACCURACY)),
    "precision": Example("half_overflow", "plain", (LOSS, "^step/loss_scale$")),
}


def main(output: str, names: str = "") -> None:
    """Writes OUTPUT/CAUSE.png for all causes, or for the comma-separated `names`."""
    os.makedirs(output, exist_ok=True)
    for cause in names.split(",") if names else EXAMPLES:
        example = EXAMPLES[cause]
        logdir = os.path.join(RUNS, cause)
        case = Case("faulty", example.fault, example.network, "shapes", 0)
        cases = CaseRunner("", RUNS)
        for name, config in (("sound", cases.clean_config(case)), ("faulty", cases.faulty_config(case))):
            per_epoch = bool(set(example.tags) & {EPOCH_LOSS, ACCURACY})
            factor = EPOCH_FACTOR if per_epoch and config.epochs < MAX_EPOCHS_TO_EXTEND else 1
            train_once(dataclasses.replace(config, epochs=factor * config.epochs), os.path.join(logdir, name))
        capture_charts(logdir, example.tags, pathlib.Path(output, f"{cause}.png"))
        print(cause, faults.FAULTS[example.fault].name, flush=True)


def train_once(config: TrainConfig, model_dir: str) -> None:
    """Trains if `model_dir` does not contain a complete run with the same configuration."""
    summary = pathlib.Path(model_dir, "summary.json")
    if not summary.exists() or json.loads(summary.read_text())["config_hash"] != config_hash(config):
        keras.backend.clear_session()  # so that layers have the same names in both runs
        training.train(config, model_dir, overwrite=True)


def capture_charts(logdir: str, tags: tuple[str, str], picture: pathlib.Path) -> None:
    """Saves the first chart of each tag, side by side, as a PNG with a palette."""
    with run_tensorboard(logdir) as address, open_chromium(1400, 900) as driver:
        charts = [capture_chart(driver, address, tag) for tag in tags]
    size = sum(chart.width for chart in charts) + GAP_PIXELS * (len(charts) - 1), max(chart.height for chart in charts)
    combined, x = Image.new("RGB", size, "white"), 0
    for chart in charts:
        combined.paste(chart, (x, 0))
        x += chart.width + GAP_PIXELS
    combined.quantize(PALETTE_SIZE).save(picture, optimize=True)


def capture_chart(driver: webdriver.Chrome, address: str, tag: str) -> Image.Image:
    """Opens TensorBoard's page with the charts of `tag` and returns the first one, completely drawn."""
    driver.get("about:blank")
    driver.get(f"{address}?tagFilter={tag}&smoothing=0#timeseries")
    wait = WebDriverWait(driver, TIMEOUT_SECONDS)
    wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, "scalar-card line-chart"))
    image = wait.until(_capture_if_drawn)
    assert image  # otherwise, `until` raises a timeout
    return image


def _capture_if_drawn(driver: webdriver.Chrome) -> Image.Image | None:
    """Returns the first chart; None if its upper half has no colored lines or two successive screenshots differ."""
    card = driver.find_element(By.CSS_SELECTOR, "scalar-card")
    first, second = (Image.open(io.BytesIO(card.screenshot_as_png)).convert("RGB") for _ in range(2))
    plot = np.asarray(second, np.int64)[: second.height // 2]
    drawn = np.ptp(plot, axis=2).max() > MIN_LINE_SATURATION
    return second if drawn and first.tobytes() == second.tobytes() else None


if __name__ == "__main__":
    main(*sys.argv[1:])
