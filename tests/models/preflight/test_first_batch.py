"""The first batch reaches the network as it does in training."""

from __future__ import annotations

import numpy as np
import pytest

from evenkeel.models.preflight import network_checks
from evenkeel.pipeline.dataset import Dataset
from tests.models.preflight.cases import run_first_batch, train_config


@pytest.mark.slow
def test_input_is_standardized_as_in_training(data: Dataset) -> None:
    for normalize in (True, False):
        batch_pass = run_first_batch(train_config(standardize=True, normalize=normalize), data)
        images = np.asarray(batch_pass.first_layer_input, np.float64)
        np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), 0, atol=1e-3)
        np.testing.assert_allclose(images.std(axis=(1, 2, 3)), 1, atol=1e-3)
        assert network_checks.check_input_scale(batch_pass).ok
