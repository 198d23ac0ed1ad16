"""Asymptotes of activations, in layers with weights and in activation layers."""

from __future__ import annotations

import pytest
import tf_keras as keras

from evenkeel.models.networks.activations import asymptotes

layers = keras.layers


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("relu", (0, None)),
        ("sigmoid", (0, 1)),
        ("tanh", (-1, 1)),
        ("swish", (0, None)),
        ("gelu", (0, None)),
        ("elu", (-1, None)),
        ("softsign", (None, None)),
        ("linear", None),
        ("softmax", None),
    ],
)
def test_asymptotes_of_activations(activation: str, expected: tuple | None) -> None:
    assert asymptotes(layers.Dense(3, activation=activation)) == expected
    assert asymptotes(layers.Activation(activation)) == expected


def test_asymptotes_of_layers_without_weights() -> None:
    assert asymptotes(layers.ReLU()) == (0, None)
    assert asymptotes(layers.ReLU(max_value=6)) == (0, 6)
    assert asymptotes(layers.LeakyReLU()) == (None, None)
    assert asymptotes(layers.MaxPool2D()) is None
