"""The configuration of a run: through JSON and back, and the error message of every rule."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.models.config import (
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULES,
    AveragingConfig,
    CheckpointConfig,
    MixingConfig,
    ModelConfig,
    OptimizerConfig,
    ProfileConfig,
    StrategyConfig,
    TrainConfig,
    config_hash,
    config_json,
    flatten,
    from_dict,
    to_dict,
    with_options,
)
from evenkeel.models.presets import PRESETS
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.errors import UsageError

shares = st.floats(0, 1, exclude_max=True)
positive = st.floats(0, 1e9, exclude_min=True)
counts = st.integers(0, 10**6)
paths = st.text('a/. :"\\\nßé', min_size=1)

configs = st.builds(
    TrainConfig,
    epochs=counts.filter(bool),
    seed=st.integers(0, 2**31 - 1),
    precision=st.sampled_from(PRECISIONS),
    xla=st.sampled_from(["auto", "on", "off"]),
    label_smoothing=shares,
    histograms_every=counts,
    deterministic=st.booleans(),
    data=st.builds(DataConfig, source=paths, channels=st.sampled_from([1, 3]), augment=st.builds(AugmentConfig)),
    model=st.builds(ModelConfig, name=paths.map(lambda path: f"{path}:f"), l1=positive, dropout=shares),
    optimizer=st.builds(
        OptimizerConfig,
        name=st.sampled_from(OPTIMIZERS),
        learning_rate=positive,
        momentum=shares.filter(bool),
        schedule=st.sampled_from(SCHEDULES),
        weight_decay=positive,
    ),
    profile=st.builds(ProfileConfig, steps=st.sampled_from(["", "0:1", "10:20"])),
)


@given(configs)
def test_a_configuration_survives_json(config: TrainConfig) -> None:
    restored = from_dict(TrainConfig, json.loads(config_json(config)))
    assert restored == config
    assert config_hash(restored) == config_hash(config)
    assert flatten(restored) == flatten(config)


@given(configs, configs)
def test_only_equal_configurations_have_equal_hashes(first: TrainConfig, second: TrainConfig) -> None:
    assert (config_hash(first) == config_hash(second)) == (first == second)


def test_missing_options_get_their_defaults() -> None:
    config = from_dict(TrainConfig, {"epochs": 3, "optimizer": {"name": "adam"}})
    assert config == TrainConfig(epochs=3, optimizer=OptimizerConfig(name="adam"))
    assert from_dict(TrainConfig, {}) == TrainConfig()


def test_integers_are_accepted_as_floats() -> None:
    rate = from_dict(TrainConfig, {"optimizer": {"learning_rate": 1}}).optimizer.learning_rate
    assert (rate, type(rate)) == (1.0, float)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"epoch": 3}, "the configuration has no option epoch; known here: averaging, checkpoint, "),
        ({"model": {"depth": 3}}, "the configuration has no option model.depth; known here: dropout, l1, l2, "),
        ({"epochs": "3"}, "epochs ('3') must be of type int."),
        ({"epochs": 3.5}, "epochs (3.5) must be of type int."),
        ({"epochs": True}, "epochs (True) must be of type int."),
        ({"epochs": None}, "epochs (None) must be of type int."),
        ({"deterministic": 1}, "deterministic (1) must be of type bool."),
        ({"optimizer": {"learning_rate": "0.1"}}, "optimizer.learning_rate ('0.1') must be of type float."),
        ({"optimizer": {"learning_rate": False}}, "optimizer.learning_rate (False) must be of type float."),
        ({"model": "cnn"}, "model ('cnn') must be a group of options."),
        ({"model": {"name": ["cnn"]}}, "model.name (['cnn']) must be of type str."),
        ({"data": {"augment": {"flip": 2}}}, "data.augment.flip (2.0) must lie in [0, 1]; 0 turns it off."),
    ],
)
def test_the_error_for_a_wrong_value_has_its_dotted_name(values: dict[str, Any], error: str) -> None:
    with pytest.raises(UsageError) as raised:
        from_dict(TrainConfig, values)
    assert str(raised.value).startswith(error)
    assert "\n" not in str(raised.value)


INVALID: list[tuple[type, dict[str, Any], str]] = [
    (TrainConfig, {"epochs": 0}, "epochs (0) must be at least 1."),
    (TrainConfig, {"seed": -1}, "seed (-1) must lie in [0, 2^31)."),
    (TrainConfig, {"seed": 2**31}, "seed (2147483648) must lie in [0, 2^31)."),
    (TrainConfig, {"precision": "float16"}, "precision ('float16') must be one of auto, float32, mixed_bfloat16,"),
    (TrainConfig, {"xla": "yes"}, "xla ('yes') must be one of auto, on, off."),
    (TrainConfig, {"label_smoothing": 1.0}, "label_smoothing (1.0) must lie in [0, 1)."),
    (TrainConfig, {"steps_per_execution": -1}, "steps_per_execution (-1) must not be negative."),
    (TrainConfig, {"histograms_every": -5}, "histograms_every (-5) must not be negative."),
    (TrainConfig, {"early_stopping": -1}, "early_stopping (-1) must not be negative."),
    (CheckpointConfig, {"every_epochs": 0}, "checkpoint.every_epochs (0) must be at least 1."),
    (
        TrainConfig,
        {"checkpoint": CheckpointConfig(every_minutes=5.0), "strategy": StrategyConfig(name="multiworker")},
        "checkpoint.every_minutes (5.0) does not work with strategy.name=multiworker: the workers' clocks differ, but",
    ),
    (CheckpointConfig, {"keep": 0}, "checkpoint.keep (0) must be at least 1."),
    (CheckpointConfig, {"every_minutes": -1.0}, "checkpoint.every_minutes (-1.0) must be finite and not negative."),
    (
        TrainConfig,
        {"histograms_every": 10, "steps_per_execution": 20},
        "histograms_every (10) must be at least steps_per_execution (20)",
    ),
    (
        ModelConfig,
        {"name": "resnet8"},
        "model.name ('resnet8') must be one of cnn, resnet9, resnet18, resnet34, resnet50.",
    ),
    (ModelConfig, {"width": -1}, "model.width (-1) must not be negative; 0 takes the network's default."),
    (ModelConfig, {"norm": "layer"}, "model.norm ('layer') must be one of batch, sync_batch, group."),
    (ModelConfig, {"stem": "big"}, "model.stem ('big') must be one of auto, imagenet, small."),
    (ModelConfig, {"stochastic_depth": 1.0}, "model.stochastic_depth (1.0) is a share: it must lie in [0, 1)."),
    (
        ModelConfig,
        {"stochastic_depth": 0.1},
        "model.stochastic_depth (0.1) needs a model.name of resnet18, resnet34, resnet50, not resnet9:",
    ),
    (ModelConfig, {"spectral_norm": True}, "model.spectral_norm needs model.name=cnn, not resnet9:"),
    (ModelConfig, {"dropout": 1.0}, "model.dropout (1.0) is a share: it must lie in [0, 1)."),
    (ModelConfig, {"l1": -1.0}, "model.l1 (-1.0) must not be negative; 0 turns it off."),
    (ModelConfig, {"l2": -1.0}, "model.l2 (-1.0) must not be negative; 0 turns it off."),
    (
        OptimizerConfig,
        {"name": "adm"},
        "optimizer.name ('adm') must be one of sgd, sgdw, adam, adamw, nadam, rmsprop, adagrad, adadelta, lamb,",
    ),
    (OptimizerConfig, {"schedule": "linear"}, "optimizer.schedule ('linear') must be one of constant, cosine,"),
    (OptimizerConfig, {"learning_rate": 0.0}, "optimizer.learning_rate (0.0) must be positive and finite."),
    (OptimizerConfig, {"learning_rate": -0.1}, "optimizer.learning_rate (-0.1) must be positive and finite."),
    (OptimizerConfig, {"learning_rate": float("inf")}, "optimizer.learning_rate (inf) must be positive and finite."),
    (OptimizerConfig, {"momentum": 1.0}, "optimizer.momentum (1.0) must lie in [0, 1)."),
    (OptimizerConfig, {"beta_1": -0.1}, "optimizer.beta_1 (-0.1) must lie in [0, 1)."),
    (OptimizerConfig, {"beta_2": 1.0}, "optimizer.beta_2 (1.0) must lie in [0, 1)."),
    (OptimizerConfig, {"momentum": 0.0}, "optimizer.nesterov needs optimizer.momentum above 0: raise it, or"),
    (OptimizerConfig, {"epsilon": 0.0}, "optimizer.epsilon (0.0) must be positive and finite."),
    (OptimizerConfig, {"weight_decay": -1.0}, "optimizer.weight_decay (-1.0) must not be negative or infinite; 0"),
    (OptimizerConfig, {"clip_norm": -1.0}, "optimizer.clip_norm (-1.0) must not be negative or infinite; 0"),
    (OptimizerConfig, {"warmup_epochs": -1.0}, "optimizer.warmup_epochs (-1.0) must not be negative or infinite; 0"),
    (OptimizerConfig, {"clip_value": float("inf")}, "optimizer.clip_value (inf) must not be negative or infinite; 0"),
    (OptimizerConfig, {"clip_adaptive": -0.1}, "optimizer.clip_adaptive (-0.1) must not be negative or infinite; 0"),
    (OptimizerConfig, {"accumulate": 0}, "optimizer.accumulate (0) must be at least 1."),
    (OptimizerConfig, {"reference_batch": 0}, "optimizer.reference_batch (0) must be at least 1."),
    (OptimizerConfig, {"scaling": "cubic"}, "optimizer.scaling ('cubic') must be one of none, linear, sqrt."),
    (OptimizerConfig, {"power": 0.0}, "optimizer.power (0.0) must be positive and finite."),
    (OptimizerConfig, {"restart_epochs": 0.0}, "optimizer.restart_epochs (0.0) must be positive and finite."),
    (OptimizerConfig, {"restart_growth": 0.5}, "optimizer.restart_growth (0.5) must lie in [1, 100)."),
    (OptimizerConfig, {"step_factor": 1.0}, "optimizer.step_factor (1.0) must lie in (0, 1)."),
    *(
        (
            OptimizerConfig,
            {"milestones": marks},
            f"optimizer.milestones ({marks}) must be positive epochs in rising order,",
        )
        for marks in ("", "30,20", "10,10", "a", "0,5", "5,")
    ),
    (AveragingConfig, {"name": "mean"}, "averaging.name ('mean') must be one of none, ema, swa."),
    (AveragingConfig, {"decay": 1.0}, "averaging.decay (1.0) must lie in [0, 1)."),
    (AveragingConfig, {"start": -0.1}, "averaging.start (-0.1) must lie in [0, 1)."),
    (MixingConfig, {"mixup": -1.0}, "mixing.mixup (-1.0) must be from 0 to 100; 0 turns it off."),
    (MixingConfig, {"cutmix": 101.0}, "mixing.cutmix (101.0) must be from 0 to 100; 0 turns it off."),
    (TrainConfig, {"loss": "hinge"}, "loss ('hinge') must be one of crossentropy, focal."),
    (TrainConfig, {"class_weights": "even"}, "class_weights ('even') must be one of none, balanced."),
    (TrainConfig, {"focal_gamma": -1.0}, "focal_gamma (-1.0) must be finite and not negative."),
    (
        TrainConfig,
        {"loss": "focal", "label_smoothing": 0.1},
        "label_smoothing (0.1) needs --loss=crossentropy: set it to 0 or change the loss.",
    ),
    (StrategyConfig, {"name": "two"}, "strategy.name ('two') must be one of auto, one, mirrored, multiworker."),
    (StrategyConfig, {"logical_cpus": -1}, "strategy.logical_cpus (-1) must not be negative."),
    (StrategyConfig, {"devices": "GPU:0"}, "strategy.devices (GPU:0) needs --strategy.name=mirrored: add it, or"),
    *(
        (ProfileConfig, {"steps": steps}, f"profile.steps ({steps}) must be A:B with whole numbers A < B.")
        for steps in ("5", "5:5", "9:5", "a:b", "-1:5", ":")
    ),
]


@pytest.mark.parametrize(("cls", "values", "error"), INVALID, ids=lambda value: str(value)[:40])
def test_the_error_for_an_invalid_value_names_value_rule_and_remedy(
    cls: type, values: dict[str, Any], error: str
) -> None:
    with pytest.raises(UsageError) as raised:
        cls(**values)
    assert str(raised.value).startswith(error)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "name",
    [
        "learning_rate",
        "momentum",
        "weight_decay",
        "clip_norm",
        "clip_value",
        "epsilon",
        "power",
        "step_factor",
        "restart_growth",
    ],
)
def test_nan_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match=rf"optimizer\.{name} \(nan\)"):
        from_dict(OptimizerConfig, {name: float("nan")}, "optimizer.")


def test_every_preset_changes_the_default_configuration() -> None:
    for name, preset in PRESETS.items():
        config, defaults = flatten(from_dict(TrainConfig, preset)), flatten(TrainConfig())
        assert config != defaults, name


def test_profile_steps_are_parsed_to_a_range() -> None:
    assert ProfileConfig(steps="10:20").step_range == (10, 20)
    assert ProfileConfig().step_range is None


def test_a_configuration_is_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().epochs = 3  # type: ignore[misc]


def test_flatten_gives_dotted_names() -> None:
    options = flatten(TrainConfig())
    assert options["optimizer.learning_rate"] == 0.1
    assert options["data.augment.flip"] == 0.0
    nested = to_dict(TrainConfig())
    assert nested["data"]["augment"]["flip"] == 0.0


def test_with_options_sets_options_at_every_depth_and_keeps_the_others() -> None:
    config = TrainConfig()
    new = with_options(config, {"epochs": 3, "optimizer.learning_rate": 2.0, "data.augment.flip": 0.25})
    assert (new.epochs, new.optimizer.learning_rate, new.data.augment.flip) == (3, 2.0, 0.25)
    assert with_options(new, {"epochs": 10, "optimizer.learning_rate": 0.1, "data.augment.flip": 0.0}) == config
    with pytest.raises(UsageError, match=r"^model\.dropout \(7\.0\) is a share"):
        with_options(config, {"model.dropout": 7.0})


def test_momentum_and_beta_2_have_the_default_of_the_optimizer() -> None:
    """Keras's, but for sgd's momentum: RMSprop(rho=0.9, momentum=0), Adadelta(rho=0.95)."""
    values = {name: (c.momentum, c.beta_2) for name in OPTIMIZERS for c in [OptimizerConfig(name=name)]}
    assert values["rmsprop"] == (0.0, 0.9)
    assert values["adadelta"] == (0.9, 0.95)
    assert values["sgd"] == values["adam"] == values["lamb"] == (0.9, 0.999)
    given = OptimizerConfig(name="rmsprop", momentum=0.5, beta_2=0.99)
    assert (given.momentum, given.beta_2) == (0.5, 0.99)
