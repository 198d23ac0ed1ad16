"""The pictures of docs/unstable.md: runs with a fault beside sound ones, in TensorBoard's own page.

python -m benchmarks.documentation.field_guide docs/unstable   # 27 faults, about half an hour on two cores
python -m benchmarks.documentation.field_guide docs/unstable momentum,dropout

The faults are the stability suite's, on four classes of `shapes`. Runs are kept below `RUNS`.
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

from evenkeel.benchmarks.documentation.browser import PATIENCE, chromium, tensorboard
from evenkeel.benchmarks.stability import faults
from evenkeel.benchmarks.stability.cases import Case, Cases
from evenkeel.models import train as training
from evenkeel.models.config import TrainConfig, config_hash

RUNS = os.path.join(tempfile.gettempdir(), "field_guide")
LONGER, FEW = 3, 10  # times as many epochs where a point an epoch is shown, unless there are so many
GAP = 12  # pixels between them
COLOURS = 128
VIVID = 25  # between the channels of a line, the darkest included; the rest of a card is gray


class Shown(NamedTuple):
    """A `fault` on a `network`, and the tags of TensorBoard that tell, as regular expressions."""

    fault: str
    network: str
    tags: tuple[str, str]


LOSS, NORM, EPOCH, RIGHT = "^step/loss$", "^step/gradient_norm$", "^epoch/loss$", "^epoch/accuracy$"
SHOWN = {
    "input_scale": Shown("raw_pixels", "plain", (LOSS, NORM)),
    "outlier_images": Shown("outliers_60", "cnn", (LOSS, RIGHT)),
    "label_noise": Shown("label_noise_40", "cnn", (EPOCH, RIGHT)),
    "class_imbalance": Shown("imbalance_50", "plain", (RIGHT, "^epoch/macro_f1$")),
    "train_validation_skew": Shown("darkened_training", "cnn", (EPOCH, RIGHT)),
    "overfitting": Shown("learnt_by_heart", "cnn", (EPOCH, RIGHT)),
    "too_much_augmentation": Shown("distorted", "cnn", (LOSS, RIGHT)),
    "learning_rate_high": Shown("rate_x30", "resnet9", (LOSS, "^layers/update_norm/.*1")),
    "learning_rate_low": Shown("rate_1_100", "plain", (LOSS, "^layers/update_norm/.*1")),
    "no_warmup": Shown("no_warmup", "cnn", (LOSS, NORM)),
    "batch_small": Shown("batch_2", "plain", (LOSS, NORM)),
    "batch_large": Shown("batch_1000", "cnn", (LOSS, RIGHT)),
    "momentum": Shown("momentum_999", "plain", (LOSS, NORM)),
    "epsilon": Shown("epsilon_1", "cnn", (LOSS, NORM)),
    "optimizer": Shown("adam_at_sgds_rate", "plain", (LOSS, NORM)),
    "too_few_steps": Shown("one_epoch", "cnn", (LOSS, RIGHT)),
    "dropout": Shown("dropout_90", "cnn", ("^layers/training_loss$", "^layers/inference_loss$")),
    "penalty": Shown("weight_decay", "plain", (LOSS, "^layers/weight_norm/.*1")),
    "no_normalization": Shown("unnormalized", "resnet9", (LOSS, NORM)),
    "batch_norm_batch": Shown("batch_2_norm", "cnn", ("^layers/training_loss$", "^layers/inference_loss$")),
    "batch_norm_momentum": Shown("slow_norm_4", "cnn", ("^layers/training_loss$", "^layers/inference_loss$")),
    "initialization": Shown("huge_weights", "plain", (LOSS, NORM)),
    "saturating_activation": Shown("sigmoid", "plain", (LOSS, NORM)),
    "dying_activation": Shown("dying_relu", "cnn", (LOSS, NORM)),
    "output_activation": Shown("softmax", "plain", (LOSS, NORM)),
    "frozen_layers": Shown("frozen", "cnn", (LOSS, RIGHT)),
    "precision": Shown("half_overflow", "plain", (LOSS, "^step/loss_scale$")),
}


def main(output: str, names: str = "") -> None:
    os.makedirs(output, exist_ok=True)
    for cause in names.split(",") if names else SHOWN:
        shown = SHOWN[cause]
        directory = os.path.join(RUNS, cause)
        case = Case("faulty", shown.fault, shown.network, "shapes", 0)
        cases = Cases("", RUNS)
        for name, config in (("sound", cases.sound(case)), ("faulty", cases.mutant(case))):
            longer = LONGER if set(shown.tags) & {EPOCH, RIGHT} and config.epochs < FEW else 1
            trained(dataclasses.replace(config, epochs=longer * config.epochs), os.path.join(directory, name))
        pictured(directory, shown.tags, pathlib.Path(output, f"{cause}.png"))
        print(cause, faults.FAULTS[shown.fault].name, flush=True)


def trained(config: TrainConfig, model_dir: str) -> None:
    """Unless it was, in full and with these very options."""
    written = pathlib.Path(model_dir, "summary.json")
    if not written.exists() or json.loads(written.read_text())["config_hash"] != config_hash(config):
        keras.backend.clear_session()  # layers have the same names in both runs
        training.train(config, model_dir, overwrite=True)


def pictured(logdir: str, tags: tuple[str, str], picture: pathlib.Path) -> None:
    """The first card of each of `tags`, side by side, in few colours."""
    with tensorboard(logdir) as address, chromium(1400, 900) as driver:
        cards = []
        for tag in tags:
            driver.get("about:blank")
            driver.get(f"{address}?tagFilter={tag}&smoothing=0#timeseries")
            shown = "scalar-card line-chart"
            WebDriverWait(driver, PATIENCE).until(lambda d, shown=shown: d.find_elements(By.CSS_SELECTOR, shown))
            cards.append(WebDriverWait(driver, PATIENCE).until(drawn))
    size = sum(card.width for card in cards) + GAP * (len(cards) - 1), max(card.height for card in cards)
    both, at = Image.new("RGB", size, "white"), 0
    for card in cards:
        both.paste(card, (at, 0))
        at += card.width + GAP
    both.quantize(COLOURS).save(picture, optimize=True)


def drawn(driver: webdriver.Chrome) -> Image.Image | None:
    """The first card as soon as there are coloured lines in its upper half, and it looks the same twice."""
    card = driver.find_element(By.CSS_SELECTOR, "scalar-card")
    first, again = (Image.open(io.BytesIO(card.screenshot_as_png)).convert("RGB") for _ in range(2))
    plot = np.asarray(again, np.int64)[: again.height // 2]
    return again if np.ptp(plot, axis=2).max() > VIVID and first.tobytes() == again.tobytes() else None


if __name__ == "__main__":
    main(*sys.argv[1:])
