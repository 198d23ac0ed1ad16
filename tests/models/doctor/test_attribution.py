"""From made-up trials to causes: what explains a run, what only calms it, what two faults at once look like."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest
import tf_keras as keras

from evenkeel.models.config import ModelConfig, OptimizerConfig, TrainConfig
from evenkeel.models.doctor.attribution import verdict
from evenkeel.models.doctor.interventions import (
    POSSIBLE,
    SHOWN,
    UNLIKELY,
    UNUSUAL,
    Case,
    Change,
    candidates,
    dropped,
)
from evenkeel.models.doctor.trials import Trial, union
from evenkeel.models.stability.detectors import Trace
from evenkeel.models.stability.diagnosis import Finding, Suspect
from evenkeel.pipeline.config import AugmentConfig, DataConfig

layers = keras.layers


def network(**last: Any) -> keras.Model:
    inputs = layers.Input((8, 8, 3))
    x = layers.Flatten()(layers.Conv2D(4, 3, activation="relu", kernel_initializer="he_normal")(inputs))
    return keras.Model(inputs, layers.Dense(10, **last)(x))


def trace(n: int = 100, dead: float = 0.0, **changes: Any) -> Trace:
    column = np.ones(n)
    layers = {"dead": np.full((5, 1), dead), "saturated": np.full((5, 1), np.nan)}
    known = {
        "steps": np.arange(n),
        "loss": column,
        "gradient_norm": column,
        "learning_rate": column,
        "loss_scale": column,
        "nonfinite": 0 * column,
        "due": np.arange(0, n, n // 5),
        "layers": layers,
        "began": 2.3,
    }
    return Trace(**{**known, **changes})


def case(config: TrainConfig | None = None, **changes: Any) -> Case:
    known = {
        "config": config or TrainConfig(),
        "network": network(),
        "findings": (),
        "trace": trace(),
        "kinds": frozenset(),
        "images": 4000,
        "total_steps": 250,
    }
    return Case(**{**known, **changes})


def trial(change: Change, accuracy: float, loss: float = 1.0) -> Trial:
    run = types.SimpleNamespace(
        validated=[(100, accuracy, loss)],
        loss=np.ones(3),
        gradient_norm=np.ones(3),
        step=100,
        first_step=0,
        data=types.SimpleNamespace(classes=range(10)),
    )
    return Trial(change, run)


SLOWER = Change("learning_rate_high", {"optimizer.learning_rate": 0.025}, generic=True)
CLIPPED = Change("learning_rate_high", {"optimizer.clip_norm": 1.0}, generic=True)
MOMENTUM = Change("momentum", {"optimizer.momentum": 0.9}, UNUSUAL, ("momentum 0.999",))
ADAM = Change("optimizer", {"optimizer.name": "adam"}, UNLIKELY, generic=True)
UNCHANGED = trial(Change("", {}), 0.1)


def told(*tried: Trial, joint: Trial | None = None, without: tuple[Trial, ...] = (), of: Case | None = None):
    return verdict(of or case(), UNCHANGED, list(tried), joint, list(without))


def names(suspects: tuple[Suspect, ...]) -> list[str]:
    return [suspect.cause for suspect in suspects]


def test_the_change_that_recovers_names_its_cause_and_is_the_fix() -> None:
    suspects, fix = told(trial(SLOWER, 0.12), trial(MOMENTUM, 0.6))
    assert names(suspects)[0] == "momentum"
    assert suspects[0].probability > 0.9
    assert fix == {"optimizer.momentum": 0.9}
    assert suspects[0].evidence[-1] == "with this one change, accuracy after 100 steps is 60.0% instead of 10.0%"


def test_a_specific_change_that_does_worse_than_the_control_arm_explains_nothing() -> None:
    assert names(told(trial(SLOWER, 0.6), trial(MOMENTUM, 0.3))[0])[0] == "learning_rate_high"
    assert names(told(trial(SLOWER, 0.6), trial(MOMENTUM, 0.59))[0])[0] == "momentum"


def test_what_helps_any_run_is_named_only_where_nothing_else_helps() -> None:
    assert names(told(trial(ADAM, 0.6), trial(MOMENTUM, 0.55))[0])[0] == "momentum"
    suspects, fix = told(trial(ADAM, 0.6), trial(SLOWER, 0.1))
    assert names(suspects) == ["optimizer"]
    assert fix == {"optimizer.name": "adam"}


def test_nothing_helps() -> None:
    assert told(trial(SLOWER, 0.11), trial(CLIPPED, 0.1), trial(MOMENTUM, 0.1)) == ((), {})


def test_two_faults_at_a_time_are_both_shown_by_leaving_one_out() -> None:
    scale = Change("input_scale", {"data.normalize": True}, UNUSUAL)
    joint = trial(Change("", {**scale.flags, **SLOWER.flags}), 0.7)
    rate = Change("learning_rate_high", {"optimizer.learning_rate": 0.003})
    without = (trial(Change("learning_rate_high", scale.flags), 0.1), trial(Change("input_scale", rate.flags), 0.3))
    suspects, fix = told(trial(SLOWER, 0.1), trial(rate, 0.12), trial(scale, 0.1), joint=joint, without=without)
    assert set(names(suspects)) == {"learning_rate_high", "input_scale"}
    assert all("with all other changes but this one" in suspect.evidence[-1] for suspect in suspects)
    assert all(suspect.together for suspect in suspects)
    assert fix == joint.change.flags
    assert not told(trial(SLOWER, 0.12), trial(MOMENTUM, 0.6))[0][0].together


def test_a_finding_that_no_flag_answers_is_still_named() -> None:
    finding = Finding("replicas", False, "a batch of 3 on 2", "must divide", "use 4", causes=("replica_batch",))
    suspects, fix = told(trial(SLOWER, 0.1), of=case(findings=(finding,)))
    assert names(suspects) == ["replica_batch"]
    assert suspects[0].replay is None
    assert finding.line in suspects[0].evidence
    assert fix == {}


def test_a_patch_comes_with_the_edit_of_the_source() -> None:
    change = Change("output_activation", {"model.patch": "logits"}, SHOWN)
    (suspect,), _ = told(trial(change, 0.6), of=case(network=network(activation="softmax", name="out")))
    assert suspect.edit == "Dense 'out': activation='softmax' -> 'linear'"
    assert suspect.flags == ["--model.patch=logits"]


# Which changes are worth a trial.


def flags(of: Case) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for change in candidates(of):
        found.setdefault(change.cause, []).append(change.flags)
    return found


def test_a_usual_configuration_leaves_the_learning_rate_and_what_helps_any_run() -> None:
    assert set(flags(case())) == {"learning_rate_high", "learning_rate_low", "optimizer", "no_normalization"}


@pytest.mark.parametrize(
    ("cause", "config", "wanted"),
    [
        ("momentum", TrainConfig(optimizer=OptimizerConfig(momentum=0.99)), {"optimizer.momentum": 0.9}),
        ("epsilon", TrainConfig(optimizer=OptimizerConfig(name="adam", epsilon=0.1)), {"optimizer.epsilon": 1e-7}),
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
def test_an_unusual_option_is_taken_back(cause: str, config: TrainConfig, wanted: dict) -> None:
    assert wanted in flags(case(config))[cause]


def test_a_short_run_may_be_too_short() -> None:
    config = TrainConfig(epochs=2, data=DataConfig(batch_size=32))
    assert flags(case(config, total_steps=60))["too_few_steps"] == [{"epochs": 8}]
    assert flags(case(config, total_steps=10))["too_few_steps"] == [{"epochs": 40}], "to 200 updates"
    assert "too_few_steps" not in flags(case(config, total_steps=600))


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
    assert {"model.patch": name} in flags(case(config, network=changed))[cause]


def test_a_frozen_layer_is_set_free() -> None:
    model = network()
    model.layers[1].trainable = False
    assert flags(case(network=model))["frozen_layers"] == [{"model.patch": "trainable"}]


def test_dead_units_speak_for_another_activation() -> None:
    found = [change for change in candidates(case(trace=trace(dead=0.9))) if change.cause == "dying_activation"]
    assert [(change.flags, change.prior) for change in found] == [({"model.patch": "leaky_relu"}, UNUSUAL)]
    assert "dying_activation" not in flags(case(trace=trace(dead=0.1)))


def test_overfitting_is_tried_where_training_runs_ahead_of_validation() -> None:
    ahead = trace(loss=np.full(100, 0.2), validated=np.array([100]), validation_loss=np.array([1.5]))
    more = flags(case(trace=ahead))["overfitting"][0]
    assert more["data.augment.flip"] == 0.5
    level = trace(loss=np.full(100, 1.2), validated=np.array([100]), validation_loss=np.array([1.5]))
    assert "overfitting" not in flags(case(trace=level))


def test_alarms_turn_the_search_of_a_rate_down_and_tiny_updates_up() -> None:
    assert "learning_rate_low" not in flags(case(kinds=frozenset({"divergence"})))
    assert "no_warmup" in flags(case(kinds=frozenset({"divergence"})))
    slow = flags(case(kinds=frozenset({"small_updates"})))
    assert [round(each["optimizer.learning_rate"], 6) for each in slow["learning_rate_low"]] == [0.8, 6.4]


def test_a_finding_raises_the_prior_and_is_quoted() -> None:
    finding = Finding("momentum", False, "0.97", "usual are 0.9", "lower it", causes=("momentum",))
    config = TrainConfig(optimizer=OptimizerConfig(momentum=0.97))
    change = next(each for each in candidates(case(config, findings=(finding,))) if each.cause == "momentum")
    assert change.prior == SHOWN
    assert finding.line in change.why
    assert POSSIBLE < UNUSUAL < SHOWN


def test_changes_made_together_keep_every_patch() -> None:
    together = union(
        [
            Change("saturating_activation", {"model.patch": "relu"}),
            Change("learning_rate_high", {"optimizer.learning_rate": 0.01}),
            Change("initialization", {"model.patch": "relu,he_normal"}),
        ]
    )
    assert together == {"model.patch": "relu,he_normal", "optimizer.learning_rate": 0.01}


@pytest.mark.parametrize(("share", "expected"), [(0.02, {}), (0.6, {"epochs": 5})])
def test_leaving_images_out_keeps_the_number_of_steps(share: float, expected: dict[str, int]) -> None:
    config = TrainConfig(epochs=2, data=DataConfig(drop="duplicates"))
    assert dropped(config, "outliers", share) == {"data.drop": "duplicates,outliers", **expected}


def test_what_cures_a_cause_goes_before_what_only_shows_it() -> None:
    """However much better it looks on images held out, that is no cure."""
    cure = Change("train_validation_skew", {"data.standardize": True})
    shown = Change("train_validation_skew", {"data.train_split": "train[:80%]"}, cures=False)
    for tried in ((trial(cure, 0.6), trial(shown, 0.8)), (trial(shown, 0.8), trial(cure, 0.6))):
        (suspect, *_), fix = told(*tried, trial(CLIPPED, 0.61))
        assert suspect.replay is not None
        assert suspect.replay.flags == cure.flags == fix
    in_vain, _ = told(trial(cure, 0.1), trial(shown, 0.8))
    assert not in_vain or in_vain[0].replay is None


@pytest.mark.parametrize(("accuracy", "own"), [(0.78, True), (0.75, False)])
def test_the_fix_is_the_probable_causes_where_nothing_does_better_by_more_than_noise(
    accuracy: float, own: bool
) -> None:
    other = Change("dropout", {"model.dropout": 0.0})
    suspects, fix = told(trial(MOMENTUM, accuracy), trial(other, 0.8))
    assert suspects[0].cause == "momentum"
    assert fix == (MOMENTUM if own else other).flags
