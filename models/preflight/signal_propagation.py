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
from evenkeel.models.stability.diagnosis import Finding
from evenkeel.models.telemetry import layer_stats

layers = keras.layers
DEEP_LAYERS = 8  # layers with kernels from which a network trains badly without normalization
MAX_SCALE_RATIO = 1e4  # 40 sound networks lie between 0.006 and 1.4; 16 layers of Glorot and ReLU have 0.0003
MIN_GRADIENT_RATIO = 1e-3  # the 40 sound networks lie above 0.07; 5 layers of sigmoids have 0.001, 8 have 0.00001
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


def check_activation_scale(batch_pass: FirstBatchPass) -> Finding:
    """Compares the deviation of the last hidden layer's output with that of the first layer's input."""
    hidden = [layer.name for layer in batch_pass.kernel_layers[:-1] if layer.name in batch_pass.outputs]
    first = max(float(batch_pass.first_layer_input.std()), 1e-12)
    last = float(tf.math.reduce_std(batch_pass.outputs[hidden[-1]])) if hidden else first
    ratio = last / first
    deep = _is_deep_without_normalization(batch_pass)
    return Finding(
        "activation_scale",
        1 / MAX_SCALE_RATIO <= ratio <= MAX_SCALE_RATIO,
        f"the deviation of activations goes from {first:.3g} in the input to {last:.3g} in the last hidden layer",
        f"it must stay within a factor of {MAX_SCALE_RATIO:g}",
        "Use kernel_initializer='he_normal' with ReLU" + (", or add normalization layers." if deep else "."),
        {"ratio": ratio, "layers": len(batch_pass.kernel_layers)},
        ("initialization", "no_normalization") if deep else ("initialization",),
    )


def check_normalization(batch_pass: FirstBatchPass) -> Finding:
    """Whether a deep network has normalization layers, or activations that normalize (SELU, Klambauer et al. 2017)."""
    count = len(batch_pass.kernel_layers)
    selu = any(getattr(layer, "activation", None) is keras.activations.selu for layer in batch_pass.layers)
    return Finding(
        "normalization",
        batch_pass.has_normalization or selu or count < DEEP_LAYERS,
        f"the network has {count} layers with weights"
        + ("" if batch_pass.has_normalization else " and no normalization layer"),
        f"{DEEP_LAYERS} or more train badly without normalization (VGG's 16 had to be trained in stages)",
        "Add a BatchNormalization after each convolution (--model.patch=batch_norm does).",
        {"layers": count},
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
    saturating = [layer.name for layer in batch_pass.layers if _saturates(layer)]
    causes: tuple[str, ...] = ("initialization",)
    if len(saturating) >= 3 and not batch_pass.has_normalization:
        causes = ("saturating_activation", "initialization")
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
