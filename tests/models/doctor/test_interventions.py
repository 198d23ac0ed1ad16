"""Which interventions are proposed for which evidence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tf_keras as keras

from evenkeel.models.config import ModelConfig, OptimizerConfig, TrainConfig
from evenkeel.models.doctor.interventions import (
    PRIOR_FOUND,
    PRIOR_POSSIBLE,
    PRIOR_UNUSUAL,
    RunEvidence,
    drop_flags,
    propose_interventions,
)
from evenkeel.models.stability.diagnosis import Finding
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from tests.models.doctor.cases import network, run_evidence, trace


def flags_by_cause(evidence: RunEvidence) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for intervention in propose_interventions(evidence):
        found.setdefault(intervention.cause, []).append(intervention.flags)
    return found


def test_a_usual_configuration_gets_learning_rates_and_generic_interventions() -> None:
    assert set(flags_by_cause(run_evidence())) == {
        "learning_rate_high",
        "learning_rate_low",
        "optimizer",
        "no_normalization",
        "small_network",  # four filters
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cause", "config", "expected"),
    [
        ("momentum", TrainConfig(optimizer=OptimizerConfig(momentum=0.99)), {"optimizer.momentum": 0.9}),
        ("epsilon", TrainConfig(optimizer=OptimizerConfig(name="adam", epsilon=0.1)), {"optimizer.epsilon": 1e-7}),
        ("clipping", TrainConfig(optimizer=OptimizerConfig(clip_norm=0.09)), {"optimizer.clip_norm": 0.0}),
        ("clipping", TrainConfig(optimizer=OptimizerConfig(clip_value=1e-4)), {"optimizer.clip_value": 0.0}),
        (
            "schedule",
            TrainConfig(epochs=10, optimizer=OptimizerConfig(schedule="step", milestones="1,2")),
            {"optimizer.schedule": "cosine", "optimizer.warmup_epochs": 0.0},
        ),
        ("batch_small", TrainConfig(data=DataConfig(batch_size=4)), {"data.batch_size": 32}),
        ("batch_large", TrainConfig(data=DataConfig(batch_size=1024)), {"data.batch_size": 64}),
        ("input_scale", TrainConfig(data=DataConfig(normalize=False)), {"data.normalize": True}),
        ("precision", TrainConfig(precision="mixed_float16"), {"precision": "float32"}),
        ("penalty", TrainConfig(model=ModelConfig(l2=0.1)), {"model.l2": 0.0}),
        ("dropout", TrainConfig(model=ModelConfig(dropout=0.8)), {"model.dropout": 0.0, "model.stochastic_depth": 0.0}),
        (
            "too_much_augmentation",
            TrainConfig(data=DataConfig(augment=AugmentConfig(flip=0.5, rotation=90, cutout=0.5))),
            {"data.augment.rotation": 0.0, "data.augment.cutout": 0.0},
        ),
    ],
)
def test_an_unusual_option_is_set_back(cause: str, config: TrainConfig, expected: dict) -> None:
    assert expected in flags_by_cause(run_evidence(config))[cause]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle", "polynomial", "restarts", "step"])
def test_usual_schedules_and_clipping_are_no_cause(schedule: str) -> None:
    """The norm of the gradient is 1; the warm-up of 5 epochs is that of Goyal et al. 2017."""
    optimizer = OptimizerConfig(schedule=schedule, warmup_epochs=5, clip_norm=0.11, milestones="30,60,80")
    found = flags_by_cause(run_evidence(TrainConfig(epochs=90, optimizer=optimizer), total_steps=9000))
    assert not {"schedule", "clipping"} & set(found)


def test_a_short_run_may_be_too_short() -> None:
    config = TrainConfig(epochs=2, data=DataConfig(batch_size=32))
    assert flags_by_cause(run_evidence(config, total_steps=60))["too_few_steps"] == [{"epochs": 8}]
    assert flags_by_cause(run_evidence(config, total_steps=10))["too_few_steps"] == [{"epochs": 40}], "to 200 updates"
    assert "too_few_steps" not in flags_by_cause(run_evidence(config, total_steps=600))


@pytest.mark.parametrize(
    ("cause", "changed", "name"),
    [
        ("output_activation", network(activation="softmax"), "logits"),
        ("output_activation", network(activation="tanh"), "logits"),
        ("initialization", network(kernel_initializer=keras.initializers.RandomNormal(stddev=5.0)), "he_normal"),
        ("initialization", network(kernel_initializer="zeros"), "he_normal"),
        ("penalty", network(kernel_regularizer="l2"), "no_penalty"),
    ],
)
def test_an_unusual_network_is_patched(cause: str, changed: keras.Model, name: str) -> None:
    config = TrainConfig(model=ModelConfig(name="mine.py:net"))
    assert {"model.patch": name} in flags_by_cause(run_evidence(config, network=changed))[cause]


def deep(*middle: keras.layers.Layer) -> keras.Model:
    inputs = x = keras.layers.Input((8, 8, 3))
    for layer in middle:
        x = layer(x)
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(x)))


def test_faults_of_the_architecture_are_patched() -> None:
    conv = lambda **options: keras.layers.Conv2D(40, 3, padding="same", **options)  # noqa: E731
    pools = [keras.layers.MaxPooling2D() for _ in range(3)]
    for cause, changed, patch in (
        ("unbounded_activation", deep(conv(activation="exponential")), "relu"),
        ("missing_activation", deep(conv(), conv(activation="relu")), "activations"),
        ("early_pooling", deep(*pools, conv(activation="relu")), "less_pooling"),
    ):
        found = flags_by_cause(run_evidence(network=changed))
        assert found[cause] == [{"model.patch": patch}]
        assert not set(found) & {"saturating_activation", "small_network"}
    sound = deep(conv(activation="relu"), keras.layers.MaxPooling2D(), conv(activation="relu"))
    assert set(flags_by_cause(run_evidence(network=sound))) == set(flags_by_cause(run_evidence())) - {"small_network"}


def test_a_narrow_network_is_made_wider_unless_it_overfits() -> None:
    found = next(each for each in propose_interventions(run_evidence()) if each.cause == "small_network")
    assert found.flags == {"model.patch": "wider"}
    assert found.reasons == ("the widest convolution has 4 filters; 32 to 512 are usual",)
    ahead = trace(loss=np.full(100, 0.2), validated=np.array([100]), validation_loss=np.array([1.5]))
    assert "small_network" not in flags_by_cause(run_evidence(trace=ahead))
    inputs = keras.layers.Input((8, 8, 3))
    x = keras.layers.Conv2D(3, 3, padding="same", activation="relu")(inputs) + inputs
    adds_its_input = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(x)))
    assert "small_network" not in flags_by_cause(run_evidence(network=adds_its_input))


def test_classes_are_balanced_once() -> None:
    twice = TrainConfig(class_weights="balanced", data=DataConfig(balance="classes"))
    assert flags_by_cause(run_evidence(twice))["class_weights"] == [{"class_weights": "none"}]
    assert "class_weights" not in flags_by_cause(run_evidence(TrainConfig(class_weights="balanced")))


def test_a_frozen_layer_is_made_trainable() -> None:
    model = network()
    model.layers[1].trainable = False
    assert flags_by_cause(run_evidence(network=model))["frozen_layers"] == [{"model.patch": "trainable"}]


def test_dead_units_suggest_another_activation() -> None:
    found = [
        intervention
        for intervention in propose_interventions(run_evidence(trace=trace(dead=0.9)))
        if intervention.cause == "dying_activation"
    ]
    assert [(intervention.flags, intervention.prior) for intervention in found] == [
        ({"model.patch": "leaky_relu"}, PRIOR_UNUSUAL)
    ]
    assert "dying_activation" not in flags_by_cause(run_evidence(trace=trace(dead=0.1)))


def test_overfitting_is_proposed_if_the_training_loss_is_far_lower() -> None:
    ahead = trace(loss=np.full(100, 0.2), validated=np.array([100]), validation_loss=np.array([1.5]))
    more = flags_by_cause(run_evidence(trace=ahead))["overfitting"][0]
    assert more["data.augment.flip"] == 0.5
    level = trace(loss=np.full(100, 1.2), validated=np.array([100]), validation_loss=np.array([1.5]))
    assert "overfitting" not in flags_by_cause(run_evidence(trace=level))


def test_alarms_suggest_lower_rates_and_tiny_updates_higher_rates() -> None:
    assert "learning_rate_low" not in flags_by_cause(run_evidence(alarm_kinds=frozenset({"divergence"})))
    assert "no_warmup" in flags_by_cause(run_evidence(alarm_kinds=frozenset({"divergence"})))
    slow = flags_by_cause(run_evidence(alarm_kinds=frozenset({"small_updates"})))
    assert [round(each["optimizer.learning_rate"], 6) for each in slow["learning_rate_low"]] == [1.0, 10.0]
    assert "learning_rate_high" in slow, "the control arm"
    dead = run_evidence(alarm_kinds=frozenset({"small_updates"}), trace=trace(dead=0.9))
    assert {"optimizer.learning_rate": 0.01} in flags_by_cause(dead)["learning_rate_high"], "dead units have no updates"


def died_at(step: int) -> RunEvidence:
    dead = np.where(np.arange(0, 200, 20)[:, None] < step, 0.1, [[0.1, 0.9]])
    layers = {"dead": dead, "saturated": np.full((10, 2), np.nan)}
    return run_evidence(trace=trace(200, due=np.arange(0, 200, 20), layers=layers))


def test_units_that_die_early_suggest_a_lower_rate() -> None:
    early, late, from_the_start = died_at(40), died_at(140), died_at(0)
    rates = [
        each
        for each in propose_interventions(early)
        if each.cause == "learning_rate_high" and "optimizer.learning_rate" in each.flags
    ]
    assert [round(each.flags["optimizer.learning_rate"], 6) for each in rates] == [0.025, 0.01, 0.001]
    assert {each.prior for each in rates} == {PRIOR_UNUSUAL}
    assert rates[0].reasons == ("80% of a layer's units, alive at the start, were dead after 40 steps",)
    prior = {
        name: next(each.prior for each in propose_interventions(evidence) if each.cause == "dying_activation")
        for name, evidence in (("early", early), ("late", late), ("start", from_the_start))
    }
    assert prior == {"early": PRIOR_POSSIBLE, "late": PRIOR_UNUSUAL, "start": PRIOR_UNUSUAL}
    assert flags_by_cause(late)["learning_rate_high"] == flags_by_cause(run_evidence())["learning_rate_high"]


def test_a_large_first_update_speaks_for_the_rate_before_the_warm_up() -> None:
    found = propose_interventions(run_evidence(alarm_kinds=frozenset({"large_first_update"})))
    prior = {each.cause: each.prior for each in found}
    assert prior["learning_rate_high"] == PRIOR_UNUSUAL > prior["no_warmup"] > PRIOR_POSSIBLE


def test_a_finding_raises_the_prior_and_is_a_reason() -> None:
    finding = Finding("momentum", False, "0.97", "usual are 0.9", "lower it", causes=("momentum",))
    config = TrainConfig(optimizer=OptimizerConfig(momentum=0.97))
    intervention = next(
        each for each in propose_interventions(run_evidence(config, findings=(finding,))) if each.cause == "momentum"
    )
    assert intervention.prior == PRIOR_FOUND
    assert finding.line in intervention.reasons
    assert PRIOR_POSSIBLE < PRIOR_UNUSUAL < PRIOR_FOUND


@pytest.mark.parametrize(("share", "expected"), [(0.02, {}), (0.6, {"epochs": 5})])
def test_dropping_images_keeps_the_number_of_steps(share: float, expected: dict[str, int]) -> None:
    config = TrainConfig(epochs=2, data=DataConfig(drop="duplicates"))
    assert drop_flags(config, "outliers", share) == {"data.drop": "duplicates,outliers", **expected}
