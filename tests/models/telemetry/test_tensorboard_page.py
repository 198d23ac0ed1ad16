"""TensorBoard's page shows the gradient histograms of a run."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
from PIL import Image

from evenkeel.benchmarks.documentation import browser
from evenkeel.models.config import ModelConfig, TrainConfig
from evenkeel.models.train import train
from evenkeel.pipeline.config import DataConfig


@pytest.mark.slow
@pytest.mark.skipif(browser.CHROMIUM_MISSING, reason="no Chromium with its driver is installed")
def test_the_page_draws_the_gradient_histograms(small: DataConfig, tmp_path: pathlib.Path) -> None:
    config = TrainConfig(
        epochs=1,
        histograms_every=5,
        steps_per_execution=5,
        precision="float32",
        data=dataclasses.replace(small, batch_size=20),
        model=ModelConfig(name="cnn", width=4),
    )
    train(config, str(tmp_path / "run"))
    tags = browser.capture_gradient_histograms(str(tmp_path / "run"), tmp_path / "page.png")
    assert tags
    assert all(tag.startswith("gradients/") and "kernel" in tag for tag in tags)
    page = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
    assert page.shape[1] >= 1200
    assert len(np.unique(page.reshape(-1, 3), axis=0)) > 100, "the page is blank"
