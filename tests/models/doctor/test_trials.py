"""Flags of several interventions together."""

from __future__ import annotations

from evenkeel.models.doctor.interventions import Intervention
from evenkeel.models.doctor.trials import merge_flags


def test_merged_flags_keep_every_patch() -> None:
    together = merge_flags(
        [
            Intervention("saturating_activation", {"model.patch": "relu"}),
            Intervention("learning_rate_high", {"optimizer.learning_rate": 0.01}),
            Intervention("initialization", {"model.patch": "relu,he_normal"}),
        ]
    )
    assert together == {"model.patch": "relu,he_normal", "optimizer.learning_rate": 0.01}
