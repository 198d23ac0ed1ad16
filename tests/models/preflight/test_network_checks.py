"""Sound networks pass every check; each fault fails its own."""

from __future__ import annotations

import dataclasses
import math

import pytest
import tf_keras as keras

from evenkeel.models.config import OptimizerConfig
from evenkeel.models.preflight import network_checks, overfit_check
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import Dataset, load_dataset
from tests.models.preflight.cases import by_check, failed, network_findings, run_network, train_config

SOUND = [
    "he",
    "self_normalizing",
    "glorot",
    "leaky",
    "tanh",
    "grouped",
    "normed",
    "halved",
    "zero_head",
    "few_sigmoids",
    "gated",
    "cnn",
    "resnet18",
    "subclassed",
    "nested_subclassed",
    "subclassed_softmax",
]


@pytest.mark.slow
@pytest.mark.parametrize("network", SOUND)
def test_sound_networks_pass_all_checks(network: str, data: Dataset) -> None:
    batch_pass = run_network(data, network)
    findings = list(network_checks.check_network(train_config(network), batch_pass, 600, replicas=1))
    assert failed(by_check(findings)) == set()
    finding = overfit_check.check_one_batch(batch_pass)
    assert finding.ok, finding.line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "check", "cause"),
    [
        ("probabilities", "output", "output_activation"),
        ("squashed", "output", "output_activation"),
        ("cut_off", "output", "output_activation"),
        ("bounded", "output", "output_activation"),
        ("subclassed_relu", "output", "output_activation"),
        ("large", "initial_loss", "initialization"),
        ("frozen", "frozen_layers", "frozen_layers"),
        ("dropped", "dropout", "dropout"),
        ("penalised", "penalty", "penalty"),
        ("slow", "batch_norm_momentum", "batch_norm_momentum"),
        ("jumpy", "batch_norm_momentum", "batch_norm_momentum"),
    ],
)
def test_faults_of_a_network_are_named(network: str, check: str, cause: str, data: Dataset) -> None:
    finding = network_findings(data, network)[check]
    assert not finding.ok, finding.line
    assert cause in finding.causes
    assert finding.remedy
    assert all(math.isfinite(value) for value in finding.evidence.values())


@pytest.mark.slow
@pytest.mark.parametrize("network", ["rescaled", "own_norm", "arithmetic", "nested"])
def test_a_network_that_rescales_its_input_needs_no_normalized_data(network: str, small: DataConfig) -> None:
    raw = load_dataset(dataclasses.replace(small, normalize=False))
    assert network_findings(raw, network, normalize=False)["input_scale"].ok
    finding = network_findings(raw, "he", normalize=False)["input_scale"]
    assert not finding.ok
    assert finding.causes == ("input_scale",)
    assert finding.evidence["std"] > 30


def test_an_input_scaled_twice_is_found(data: Dataset) -> None:
    assert not network_findings(data, "rescaled")["input_scale"].ok


def test_an_unscaled_input_explains_a_large_first_loss(small: DataConfig) -> None:
    raw = load_dataset(dataclasses.replace(small, normalize=False))
    finding = network_findings(raw, "he", normalize=False)["initial_loss"]
    assert not finding.ok
    assert finding.causes[0] == "input_scale"


def test_the_layer_with_unusual_weights_is_named(small: DataConfig) -> None:
    raw = load_dataset(dataclasses.replace(small, normalize=False))
    findings = network_findings(raw, "ones", normalize=False)
    assert findings["input_scale"].ok, "the network rescales its input itself"
    finding = findings["initial_loss"]
    assert not finding.ok
    assert finding.remedy == ("Use kernel_initializer='he_normal' in conv2d_1 (weights 8.5 times as large as He's).")
    assert finding.causes == ("initialization",)


def test_penalties_are_judged_by_how_fast_they_shrink_weights(data: Dataset) -> None:
    sound = OptimizerConfig(learning_rate=0.05)
    assert network_findings(data, "lightly_penalised", optimizer=sound)["penalty"].ok
    finding = network_findings(data, "lightly_penalised", optimizer=OptimizerConfig(learning_rate=2.5))["penalty"]
    assert not finding.ok
    assert finding.evidence["decay"] == pytest.approx(2 * 5e-4 * 2.5 / 0.1)


@pytest.mark.parametrize(("steps", "ok"), [(600, True), (15, False)])
def test_moving_statistics_need_enough_steps(steps: int, ok: bool, data: Dataset) -> None:
    finding = network_findings(data, "cnn", steps=steps)["batch_norm_momentum"]
    assert finding.ok == ok
    assert finding.remedy == ("Use momentum=0.9." if ok else "Train for 19 steps or more.")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "batch", "accumulate", "ok"),
    [("cnn", 20, 1, True), ("cnn", 20, 5, False), ("cnn", 4, 1, False), ("grouped", 4, 1, True)],
)
def test_batch_norm_needs_enough_images(network: str, batch: int, accumulate: int, ok: bool, data: Dataset) -> None:
    optimizer = OptimizerConfig(accumulate=accumulate)
    assert network_findings(data, network, batch_size=batch, optimizer=optimizer)["batch_norm_batch"].ok == ok


def test_float16_must_not_overflow(data: Dataset) -> None:
    keras.mixed_precision.set_global_policy("mixed_float16")
    assert network_findings(data, "normed")["precision"].ok
    finding = network_findings(data, "large")["precision"]
    assert not finding.ok
    assert finding.causes == ("precision",)
