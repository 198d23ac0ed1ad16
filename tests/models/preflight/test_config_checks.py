"""Each check of the configuration on both sides of its limit."""

from __future__ import annotations

from typing import Any

import pytest

from evenkeel.models.config import MixingConfig, OptimizerConfig
from evenkeel.models.preflight import config_checks
from tests.models.preflight.cases import by_check, failed, train_config


def failed_settings(images: int = 300, replicas: int = 1, **changes: Any) -> set[str]:
    return failed(by_check(config_checks.check_config(train_config(**changes), images, replicas)))


def with_optimizer(**options: Any) -> dict[str, Any]:
    return {"optimizer": OptimizerConfig(**options)}


@pytest.mark.parametrize(
    ("check", "sound", "unsound"),
    [
        ("steps", {"epochs": 7}, {"epochs": 6}),
        ("batch_large", {"batch_size": 75, "epochs": 20}, {"batch_size": 76, "epochs": 20}),
        ("batch_large", {"batch_size": 100, "epochs": 34}, {"batch_size": 100, "epochs": 33}),
        ("batch_small", {"batch_size": 5}, {"batch_size": 4}),
        ("batch_small", with_optimizer(learning_rate=0.001) | {"batch_size": 4}, {"batch_size": 1}),
        ("replica_batches", {"replicas": 2}, {"replicas": 3}),
        ("replica_batches", with_optimizer(accumulate=4), with_optimizer(accumulate=3)),
        ("learning_rate", with_optimizer(learning_rate=4.9), with_optimizer(learning_rate=5.0)),
        (
            "learning_rate",
            with_optimizer(learning_rate=4.9, momentum=0.9),
            with_optimizer(learning_rate=2, momentum=0.97),
        ),
        (
            "learning_rate",
            with_optimizer(name="adam", learning_rate=0.02),
            with_optimizer(name="adam", learning_rate=0.03),
        ),
        (
            "learning_rate",
            with_optimizer(name="lamb", learning_rate=0.9),
            with_optimizer(name="lamb", learning_rate=1.0),
        ),
        ("momentum", with_optimizer(momentum=0.97, learning_rate=0.01), with_optimizer(momentum=0.98)),
        ("momentum", with_optimizer(name="adam", momentum=0.99), with_optimizer(name="adam", beta_1=0.99)),
        ("epsilon", with_optimizer(name="adam", epsilon=1e-2), with_optimizer(name="adam", epsilon=0.02)),
        ("epsilon", with_optimizer(epsilon=1.0), with_optimizer(name="rmsprop", epsilon=1.0)),
        ("weight_decay", with_optimizer(weight_decay=0.09), with_optimizer(weight_decay=0.1)),
        ("mixing", {"mixing": MixingConfig(mixup=1.0)}, {"mixing": MixingConfig(mixup=5.0)}),
        ("mixing", {"mixing": MixingConfig(cutmix=1.0)}, {"mixing": MixingConfig(cutmix=2.0)}),
    ],
)
def test_settings_have_limits(check: str, sound: dict[str, Any], unsound: dict[str, Any]) -> None:
    assert check not in failed_settings(**sound)
    assert check in failed_settings(**unsound)


def test_remedies_pass_their_own_check() -> None:
    (finding,) = [
        f for f in config_checks.check_config(train_config(batch_size=200), 300, 1) if f.check == "batch_large"
    ]
    assert "--data.batch_size=18." in finding.remedy
    assert "batch_large" not in failed_settings(batch_size=18)
    assert "--data.batch_size=21." in config_checks.check_replica_batches(train_config(), 3).remedy
