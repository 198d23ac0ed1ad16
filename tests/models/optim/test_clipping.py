"""Gradient clipping against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import OptimizerConfig
from evenkeel.models.optim import clipping
from evenkeel.models.optim.clipping import Clipping
from tests.factories import BATCH, IMAGES, LABELS, by_hand, compiled, fit, normed, one, plain, two, weights

SGD = OptimizerConfig(learning_rate=1.0, momentum=0, nesterov=False, schedule="constant")
RNG = np.random.default_rng(0)


def global_norm(gradients: list[np.ndarray]) -> float:
    return float(np.sqrt(sum((gradient.astype(np.float64) ** 2).sum() for gradient in gradients)))


def clip_units(gradient: np.ndarray, weight: np.ndarray, max_ratio: float) -> np.ndarray:
    """Brock et al. 2021, equation 3, one unit after another."""
    if weight.ndim < 2:
        max_norm, norm = max_ratio * max(np.linalg.norm(weight), 1e-3), np.linalg.norm(gradient)
        return gradient * max_norm / norm if norm > max_norm else gradient
    return np.stack(
        [clip_units(gradient[..., i].ravel(), weight[..., i].ravel(), max_ratio) for i in range(weight.shape[-1])],
        axis=-1,
    ).reshape(weight.shape)


@pytest.mark.parametrize("shape", [(3, 3, 4, 5), (7, 5), (6,)], ids=str)
def test_adaptive_clipping_matches_its_formula_for_each_unit(shape: tuple[int, ...]) -> None:
    weight = RNG.normal(size=shape) * np.logspace(-6, 1, shape[-1])
    gradient = RNG.normal(size=shape) * np.logspace(-2, 0, shape[-1])[::-1]
    variable = tf.Variable(weight, dtype=tf.float32, name="kernel")
    (clipped,) = clipping.clip_adaptively([tf.constant(gradient, tf.float32)], [variable], 0.05)
    expected = clip_units(gradient, weight, 0.05)
    np.testing.assert_allclose(clipped.numpy(), expected, rtol=1e-5)
    if len(shape) > 1:
        changed = np.abs(expected - gradient).reshape(-1, shape[-1]).max(axis=0) > 0
        assert changed.any()
        assert not changed.all()


def test_the_units_of_a_depthwise_kernel_are_its_channels() -> None:
    weight = np.ones((3, 3, 2, 1))
    gradient = weight * np.array([1.0, 100.0])[:, None]
    variable = tf.Variable(weight, dtype=tf.float32, name="depthwise_conv2d/depthwise_kernel")
    (clipped,) = clipping.clip_adaptively([tf.constant(gradient, tf.float32)], [variable], 2.0)
    np.testing.assert_allclose(clipped.numpy(), weight * np.array([1.0, 2.0])[:, None], rtol=1e-6)


def test_the_last_layer_is_the_classifier() -> None:
    assert clipping.last_layer_weight_names(normed((8, 8, 3), 10)) == {"logits/kernel:0", "logits/bias:0"}
    assert clipping.last_layer_weight_names(compiled(one(), normed)) == {"logits/kernel:0", "logits/bias:0"}
    assert clipping.last_layer_weight_names(keras.Sequential([keras.layers.Flatten()])) == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "clip", [Clipping(value=0.01), Clipping(norm=0.25), Clipping(adaptive=0.02), Clipping(0.02, 0.01, 0.05)], ids=str
)
def test_a_training_step_applies_the_clipped_gradients(clip: Clipping) -> None:
    before = compiled(one())
    gradients = [gradient.astype(np.float64) for gradient in by_hand(before, IMAGES[:BATCH], LABELS[:BATCH])]
    expected = gradients
    if clip.adaptive:
        layer_names = [variable.name.split("/")[0] for variable in before.trainable_variables]
        expected = [
            gradient if name == "logits" else clip_units(gradient, weight, clip.adaptive)
            for gradient, weight, name in zip(gradients, weights(before), layer_names, strict=True)
        ]
    if clip.value:
        expected = [np.clip(gradient, -clip.value, clip.value) for gradient in expected]
    if clip.norm:
        assert global_norm(expected) > clip.norm
        expected = [gradient * clip.norm / global_norm(expected) for gradient in expected]
    changed = [np.abs(new - old).max() for new, old in zip(expected, gradients, strict=True)]
    assert max(changed) > 1e-3
    devices = two() if clip.norm and clip.adaptive else one()  # of two replicas all kinds together
    model, _ = fit(devices, plain, SGD, steps=1, clipping=clip)
    for weight, old, gradient in zip(weights(model), weights(before), expected, strict=True):
        np.testing.assert_allclose(weight, old - gradient, rtol=0, atol=2e-6)
