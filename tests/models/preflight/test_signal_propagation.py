"""Networks whose activations or gradients do not propagate; test_network_checks.py has sound ones."""

from __future__ import annotations

import math

import pytest

from evenkeel.pipeline.dataset import Dataset
from tests.models.preflight.cases import network_findings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "check", "cause"),
    [
        ("small", "activation_scale", "initialization"),
        ("large", "activation_scale", "initialization"),
        ("very_deep", "normalization", "no_normalization"),
        ("shrinking", "normalization", "no_normalization"),
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


def test_normalization_is_missed_where_signals_change_and_not_by_the_number_of_layers(data: Dataset) -> None:
    finding = network_findings(data, "deep")["normalization"]
    assert finding.ok
    assert finding.seen.startswith("the network has 8 layers with weights and no normalization layer; the deviation of")
    assert 0.1 < finding.evidence["ratio"] < 10


def test_sigmoids_with_hes_weights_are_no_fault_of_the_weights(data: Dataset) -> None:
    findings = network_findings(data, "he_sigmoids")
    assert not findings["gradient_flow"].ok
    assert {cause for finding in findings.values() if not finding.ok for cause in finding.causes} == {
        "saturating_activation"
    }
    assert findings["gradient_flow"].remedy == "Use ReLU instead of sigmoid or tanh."


def test_an_exponential_activation_is_named_and_not_the_weights(data: Dataset) -> None:
    findings = network_findings(data, "exponential")
    failing = [finding for finding in findings.values() if not finding.ok]
    assert not findings["precision"].ok
    assert all("initialization" not in finding.causes for finding in failing)
    assert findings["precision"].remedy.startswith("Use ReLU instead of exponential (in activation")
