"""Checks signal propagation: the scale of activations, gradients at every depth, flat activations, idle units.

for finding in check_signal_propagation(batch_pass):
    print(finding.line)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.networks.activations import activation_function, asymptotes
from evenkeel.models.networks.layers import trainable_kernel
from evenkeel.models.preflight.first_batch import FirstBatchPass, l2_norm
from evenkeel.models.preflight.initial_weights import describe_kernels, superlinear_activations, unusual_kernels
from evenkeel.models.stability.diagnosis import Finding
from evenkeel.models.telemetry import layer_stats

layers = keras.layers
DEEP_LAYERS = 8  # layers with kernels from which normalization may be what is missing
# Simonyan and Zisserman 2015 had to train networks of 13 and 16 such layers in stages; those of 8 train from scratch.
VERY_DEEP_LAYERS = 16
MAX_DEEP_SCALE_RATIO = 100.0  # 8 layers of Glorot and ReLU have 0.04, 10 have 0.02, 16 have 0.001; He's has 0.4 to 1.7
MAX_SCALE_RATIO = 1e4  # 40 sound networks lie between 0.006 and 1.4; 16 layers of Glorot and ReLU have 0.0003
MIN_GRADIENT_RATIO = 1e-3  # the 40 sound networks lie above 0.07; 5 layers of sigmoids have 0.001, 8 have 0.00001
MIN_SATURATING = 3  # hidden activations; fewer do not explain that signals vanish
FLAT_SLOPE, MAX_FLAT_LAYERS = 0.25, 2  # a sigmoid's largest slope; three in a row leave 1/64 of a gradient
MAX_DEAD, MAX_SATURATED = 0.9, 0.8  # up to 0.45 of a layer is dead by chance if its inputs are alike for all images


def check_signal_propagation(batch_pass: FirstBatchPass) -> list[Finding]:
    return [
        check_activation_scale(batch_pass),
        check_normalization(batch_pass),
        *check_gradients(batch_pass),
        check_flat_activations(batch_pass),
        check_idle_units(batch_pass),
    ]


def activation_scales(batch_pass: FirstBatchPass) -> tuple[float, float]:
    """Deviations of the first layer's input and of the last hidden layer's output."""
    hidden = [layer.name for layer in batch_pass.kernel_layers[:-1] if layer.name in batch_pass.outputs]
    first = max(float(batch_pass.first_layer_input.std()), 1e-12)
    return first, float(tf.math.reduce_std(batch_pass.outputs[hidden[-1]])) if hidden else first


def check_activation_scale(batch_pass: FirstBatchPass) -> Finding:
    """Compares the deviation of the last hidden layer's output with that of the first layer's input."""
    first, last = activation_scales(batch_pass)
    ratio = last / first
    causes, remedy = explain_scale(batch_pass)
    return Finding(
        "activation_scale",
        1 / MAX_SCALE_RATIO <= ratio <= MAX_SCALE_RATIO,
        f"the deviation of activations goes from {first:.3g} in the input to {last:.3g} in the last hidden layer",
        f"it must stay within a factor of {MAX_SCALE_RATIO:g}",
        remedy,
        {"ratio": ratio, "layers": len(batch_pass.kernel_layers)},
        causes,
    )


def explain_scale(batch_pass: FirstBatchPass) -> tuple[tuple[str, ...], str]:
    """Returns causes and a remedy for signals that shrink or grow: the weights if they are unusual, or activations."""
    deep = _is_deep_without_normalization(batch_pass)
    unusual = unusual_kernels(batch_pass.kernel_layers[:-1])
    superlinear = superlinear_activations(batch_pass.layers)
    saturating = _saturating_layers(batch_pass)
    if superlinear:
        name, activation = next(iter(superlinear.items()))
        return (), f"Use ReLU instead of {activation} (in {name}): it grows faster than its input."
    if unusual:
        causes = ("initialization", "no_normalization") if deep else ("initialization",)
        return causes, f"Use kernel_initializer='he_normal' in {describe_kernels(unusual)}."
    if len(saturating) >= MIN_SATURATING:
        return ("saturating_activation",), f"Use ReLU instead of what saturates at both ends (in {saturating[0]})."
    remedy = "Use kernel_initializer='he_normal' with ReLU" + (", or add normalization layers." if deep else ".")
    return (("initialization", "no_normalization") if deep else ("initialization",)), remedy


def check_normalization(batch_pass: FirstBatchPass) -> Finding:
    """Whether a network that needs normalization layers has some; SELU normalizes, too (Klambauer et al. 2017).

    It needs them if it is very deep, or if it is deep and the scale of its activations changes a lot.
    """
    count, (first, last) = len(batch_pass.kernel_layers), activation_scales(batch_pass)
    selu = any(getattr(layer, "activation", None) is keras.activations.selu for layer in batch_pass.layers)
    changes = not 1 / MAX_DEEP_SCALE_RATIO <= last / first <= MAX_DEEP_SCALE_RATIO
    needed = count >= VERY_DEEP_LAYERS or (_is_deep_without_normalization(batch_pass) and changes)
    return Finding(
        "normalization",
        batch_pass.has_normalization or selu or not needed,
        f"the network has {count} layers with weights"
        + ("" if batch_pass.has_normalization else " and no normalization layer")
        + f"; the deviation of its activations goes from {first:.3g} to {last:.3g}",
        f"{VERY_DEEP_LAYERS} or more layers, or {DEEP_LAYERS} or more over which it changes by a factor of"
        f" {MAX_DEEP_SCALE_RATIO:g}, train badly without normalization",
        "Add a BatchNormalization after each convolution (--model.patch=batch_norm does).",
        {"layers": count, "ratio": last / first},
        ("no_normalization",),
    )


def check_gradients(batch_pass: FirstBatchPass) -> tuple[Finding, Finding]:
    """Checks whether every variable gets a gradient, and how strong gradients are in the first layer.

    Their strength is compared with the last hidden layer, each relative to the weights of its layer. Both layers lie
    before the classifier, so the classifier's scale affects both gradients in the same way.
    """
    gradients = batch_pass.settled_gradients()
    pairs = list(zip(batch_pass.variables, gradients, strict=True))
    disconnected = [v.name for v, g in pairs if g is None]
    zero = [v.name for v, g in pairs if _is_zero_kernel_gradient(v, g)]
    gradient_of = {id(v): g for v, g in pairs}
    return _check_arrival(batch_pass, disconnected, zero), _check_strength(batch_pass, gradient_of)


def _check_arrival(batch_pass: FirstBatchPass, disconnected: list[str], zero: list[str]) -> Finding:
    dead = [name for name, share in idle_shares(batch_pass, "dead").items() if share > MAX_DEAD]
    missing = [*disconnected, *zero]
    listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if missing[3:] else "")
    return Finding(
        "gradients_arrive",
        not missing,
        f"no gradient reaches {listed}"
        if missing
        else f"gradients reach all {len(batch_pass.variables)} trainable variables",
        "the loss must depend on each of them",
        "Connect them to the output, or remove tf.stop_gradient."
        if not dead
        else "Revive the dead units: smaller initial weights, biases of 0.",
        {"lost": len(disconnected), "zero": len(zero)},
        ("dying_activation", "initialization") if dead and not disconnected else ("frozen_layers",),
    )


def _check_strength(batch_pass: FirstBatchPass, gradient_of: dict[int, tf.Tensor | None]) -> Finding:
    strengths = []
    for layer in batch_pass.kernel_layers[:-1]:
        kernel = trainable_kernel(layer)
        gradient = gradient_of[id(kernel)]
        if gradient is not None and l2_norm(gradient) > 0:
            strengths.append(l2_norm(gradient) / max(l2_norm(kernel), 1e-12))
    ratio = strengths[0] / strengths[-1] if strengths else 1.0
    saturating = _saturating_layers(batch_pass)
    causes: tuple[str, ...] = ("initialization",)
    if len(saturating) >= MIN_SATURATING and not batch_pass.has_normalization:
        unusual = unusual_kernels(batch_pass.kernel_layers[:-1])
        causes = ("saturating_activation", "initialization") if unusual else ("saturating_activation",)
    elif _is_deep_without_normalization(batch_pass):
        causes = ("initialization", "no_normalization")
    return Finding(
        "gradient_flow",
        bool(np.isfinite(ratio)) and ratio >= MIN_GRADIENT_RATIO,
        f"relative to the weights, gradients in the first of {len(batch_pass.kernel_layers)} layers are {ratio:.2g}"
        f" times as strong as in the last hidden layer ({len(saturating)} activations saturate at both ends)",
        f"they must be at least {MIN_GRADIENT_RATIO:g} times as strong",
        "Use ReLU instead of sigmoid or tanh." if "saturating_activation" in causes else "Add normalization layers.",
        {"ratio": float(ratio), "saturating": len(saturating)},
        causes,
    )


def check_flat_activations(batch_pass: FirstBatchPass) -> Finding:
    """Counts hidden activations that are nowhere steeper than a sigmoid: each passes back at most 1/4 of a gradient.

    Normalization in between restores the size of gradients but not their information: such networks learn slowly
    (Glorot and Bengio 2010, section 3.1). Gates (their outputs multiply other outputs) and the softmax of an attention
    do not count.
    """
    flat = [
        layer.name
        for layer in batch_pass.network.layers[:-1]
        if largest_slope(layer) <= FLAT_SLOPE and not _is_gate(layer)
    ]
    return Finding(
        "flat_activations",
        len(flat) <= MAX_FLAT_LAYERS,
        f"{len(flat)} hidden activations are nowhere steeper than {FLAT_SLOPE:g}"
        + (f" (the first: {flat[0]})" if flat else ""),
        f"at most {MAX_FLAT_LAYERS} may be as flat as a sigmoid: gradients shrink with each",
        "Use ReLU in hidden layers (--model.patch=relu does).",
        {"flat": len(flat)},
        ("saturating_activation",),
    )


def check_idle_units(batch_pass: FirstBatchPass) -> Finding:
    """Checks the shares of channels that are zero for all images, and of values at an asymptote."""
    dead, saturated = idle_shares(batch_pass, "dead"), idle_shares(batch_pass, "saturated")
    worst = {name: max(shares.values(), default=0.0) for name, shares in (("dead", dead), ("saturated", saturated))}
    over = [name for name, share in dead.items() if share > MAX_DEAD]
    over += [name for name, share in saturated.items() if share > MAX_SATURATED]
    causes = tuple(
        cause
        for cause, exceeded in (
            ("dying_activation", worst["dead"] > MAX_DEAD),
            ("saturating_activation", worst["saturated"] > MAX_SATURATED),
        )
        if exceeded
    )
    return Finding(
        "idle_units",
        not over,
        f"at worst, {worst['dead']:.0%} of a layer's channels are dead and {worst['saturated']:.0%} of a layer's values"
        " are saturated" + (f" (in {', '.join(over[:3])})" if over else ""),
        f"at most {MAX_DEAD:.0%} may be dead and {MAX_SATURATED:.0%} saturated",
        "Use smaller initial weights, and biases of 0.",
        worst,
        causes,
    )


def largest_slope(layer: keras.layers.Layer) -> float:
    """Largest slope of the layer's activation between -10 and 10: 1/4 for softmax, infinite without an activation."""
    function = activation_function(layer)
    if function is keras.activations.softmax or isinstance(layer, layers.Softmax):
        return 0.25
    if function in (None, keras.activations.linear):
        return math.inf
    x = np.linspace(-10, 10, 2001, dtype=np.float32)
    return float(np.abs(np.diff(np.asarray(function(tf.constant(x)), np.float64))).max() / (x[1] - x[0]))


def idle_shares(batch_pass: FirstBatchPass, kind: str) -> dict[str, float]:
    """Returns {layer: share of channels that are zero for all images ("dead") or of values at an asymptote}."""
    shares = {}
    for layer in batch_pass.network.layers[:-1]:
        bounds = asymptotes(layer)
        if bounds is None or layer.name not in batch_pass.outputs:
            continue
        low, high = bounds
        x = batch_pass.outputs[layer.name]
        if kind == "dead" and low == 0 and high is None:
            # Values are taken relative to the layer's largest value: small values are not dead.
            shares[layer.name] = float(layer_stats.dead_fraction(x / tf.maximum(tf.reduce_max(tf.abs(x)), 1e-30)))
        if kind == "saturated" and low is not None and high is not None and _saturates(layer):
            shares[layer.name] = float(layer_stats.saturated_fraction(x, low, high))
    return shares


def _is_deep_without_normalization(batch_pass: FirstBatchPass) -> bool:
    return len(batch_pass.kernel_layers) >= DEEP_LAYERS and not batch_pass.has_normalization


def _saturating_layers(batch_pass: FirstBatchPass) -> list[str]:
    return [layer.name for layer in batch_pass.layers if _saturates(layer)]


def _is_zero_kernel_gradient(variable: tf.Variable, gradient: tf.Tensor | None) -> bool:
    # Only kernels count: a bias in front of BatchNorm correctly has a gradient of zero.
    return gradient is not None and len(variable.shape) >= 2 and l2_norm(gradient) == 0


def _saturates(layer: keras.layers.Layer) -> bool:
    """Whether the activation has asymptotes at both ends and rises below zero: sigmoid or tanh, but not ReLU6."""
    low, high = asymptotes(layer) or (None, None)
    if low is None or high is None:
        return False
    function: Any = getattr(layer, "activation", None) or layer.call
    return float(function(tf.constant([0.0]))[0]) > low + 1e-6


def _is_gate(layer: keras.layers.Layer) -> bool:
    """Whether the layer's output multiplies another output, as in squeeze and excitation."""
    for node in layer.outbound_nodes:
        consumer = node.outbound_layer
        multiplies = isinstance(consumer, (layers.Multiply, layers.Dot)) or "mul" in consumer.name
        if multiplies or (isinstance(consumer, (layers.Reshape, layers.Dropout)) and _is_gate(consumer)):
            return True
    return False
