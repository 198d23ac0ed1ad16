"""Networks whose activations or gradients do not propagate; test_network_checks.py has sound ones."""

from __future__ import annotations

import math

import pytest

from evenkeel.pipeline.dataset import Dataset
from tests.models.preflight.cases import network_findings


@pytest.mark.parametrize(
    ("network", "check", "cause"),
    [
        ("small", "activation_scale", "initialization"),
        ("large", "activation_scale", "initialization"),
        ("deep", "normalization", "no_normalization"),
        ("sigmoids", "gradient_flow", "saturating_activation"),
        ("normed_sigmoids", "flat_activations", "saturating_activation"),
        ("hidden_softmax", "flat_activations", "saturating_activation"),
        ("dead", "idle_units", "dying_activation"),
        ("dead", "gradients_arrive", "dying_activation"),
        ("saturated", "idle_units", "saturating_activation"),
        ("stopped", "gradients_arrive", "frozen_layers"),
    ],
)
def test_faults_of_signal_propagation_are_named(network: str, check: str, cause: str, data: Dataset) -> None:
    finding = network_findings(data, network)[check]
    assert not finding.ok, finding.line
    assert cause in finding.causes
    assert finding.remedy
    assert all(math.isfinite(value) for value in finding.evidence.values())


def test_a_layer_without_gradient_is_named(data: Dataset) -> None:
    assert "behind/kernel" in network_findings(data, "stopped")["gradients_arrive"].seen
