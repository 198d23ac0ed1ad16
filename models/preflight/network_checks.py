"""Checks of a fresh network on the first batch: its input, first loss, output, regularization and precision.

for finding in check_network(config, batch_pass, steps=560, replicas=1):
    print(finding.line)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import TrainConfig
from evenkeel.models.networks import surgery
from evenkeel.models.networks.activations import asymptotes, named_activation
from evenkeel.models.networks.layers import DROPOUT_LAYERS, is_functional
from evenkeel.models.optim import schedules
from evenkeel.models.preflight.first_batch import FirstBatchPass, l2_norm
from evenkeel.models.preflight.initial_weights import describe_kernels, superlinear_activations, unusual_kernels
from evenkeel.models.preflight.signal_propagation import check_signal_propagation
from evenkeel.models.stability.diagnosis import Finding

layers = keras.layers
# Initializers assume an input of mean 0 and deviation 1 (LeCun et al. 1998, section 4.3). Pixels of 0 to 1 have mean
# 0.45 and deviation 0.25, which train as well. Pixels of 0 to 255 have 115 and 65.
MIN_INPUT_SCALE, MAX_INPUT_SCALE, MAX_INPUT_OFFSET = 0.05, 10.0, 5.0  # the offset is in deviations
MAX_DROPOUT = 0.7  # 0.5 is the largest in use (Srivastava et al. 2014)
MAX_PENALTY = 5.0  # times ln(classes): ResNet-50 with 1e-4 has 0.8, ResNet-18 with 5e-4 has 2
MAX_PENALTY_DECAY = 0.02  # share of the weights that the penalty's gradient removes in a step; 0.002 is already large
MIN_BATCH_NORM_IMAGES = 5
MIN_MOMENTUM, MAX_MOMENTUM = 0.5, 0.9999  # of BatchNorm's moving statistics; MAX_MOMENTUM itself fails
USUAL_MOMENTUM = 0.9
MAX_INITIAL_STATISTICS = math.exp(-2)  # share of the moving statistics' initial values that may remain
MAX_FLOAT16_ACTIVATION = 1e4  # float16 ends at 65,504


def check_network(config: TrainConfig, batch_pass: FirstBatchPass, steps: int, replicas: int) -> list[Finding]:
    """Returns the findings of all checks that need one or a few passes; `steps` is the number of steps in the run."""
    scale = check_input_scale(batch_pass)
    return [
        scale,
        check_initial_loss(batch_pass, scale.ok),
        *check_signal_propagation(batch_pass),
        check_frozen_layers(batch_pass),
        check_output(batch_pass),
        check_dropout(batch_pass),
        check_penalty(config, batch_pass),
        check_batch_norm_batch(config, batch_pass, replicas),
        check_batch_norm_momentum(batch_pass, steps),
        check_precision(batch_pass),
    ]


def check_input_scale(batch_pass: FirstBatchPass) -> Finding:
    mean, deviation = float(batch_pass.first_layer_input.mean()), float(batch_pass.first_layer_input.std())
    return Finding(
        "input_scale",
        MIN_INPUT_SCALE <= deviation <= MAX_INPUT_SCALE and abs(mean) <= MAX_INPUT_OFFSET * deviation,
        f"the input of the first layer with weights has mean {mean:.3g} and deviation {deviation:.3g}",
        f"the deviation must be {MIN_INPUT_SCALE:g} to {MAX_INPUT_SCALE:g} and the mean within {MAX_INPUT_OFFSET:g}"
        " deviations of 0 (1 and 0 are best)",
        "Use --data.normalize, or begin the network with a Normalization layer.",
        {"mean": mean, "std": deviation},
        ("input_scale",),
    )


def check_initial_loss(batch_pass: FirstBatchPass, input_scale_ok: bool) -> Finding:
    """Compares the first loss with that of guessing, ln(classes); logits of deviation d add up to d^2 / 2.

    Sound networks have up to 2.6 times ln(classes): these have logits that are maxima of BatchNorm's outputs.
    """
    chance_loss = math.log(batch_pass.classes)
    limit = 3 * chance_loss + 2
    large = {name: ratio for name, ratio in unusual_kernels(batch_pass.kernel_layers).items() if ratio > 1}
    superlinear = superlinear_activations(batch_pass.layers)
    causes: tuple[str, ...] = ("initialization",)
    remedy = "Lower the scale of the kernel_initializer of the last layer."
    if not input_scale_ok:
        causes, remedy = ("input_scale", "initialization") if large else ("input_scale",), "Normalise the input."
    elif superlinear:
        name, activation = next(iter(superlinear.items()))
        causes, remedy = (), f"Use ReLU instead of {activation} (in {name}): it grows faster than its input."
    elif large:
        remedy = f"Use kernel_initializer='he_normal' in {describe_kernels(large)}."
    return Finding(
        "initial_loss",
        batch_pass.loss <= limit,  # false for NaN
        f"the first loss is {batch_pass.loss:.3g}",
        f"guessing has ln({batch_pass.classes}) = {chance_loss:.3g}, and a sound start has less than {limit:.3g}",
        remedy,
        {"loss": batch_pass.loss, "guess": chance_loss},
        causes,
    )


def check_frozen_layers(batch_pass: FirstBatchPass) -> Finding:
    frozen = [layer.name for layer in batch_pass.layers if any("kernel" in v.name for v in layer.non_trainable_weights)]
    return Finding(
        "frozen_layers",
        not frozen,
        f"{len(frozen)} layers with a kernel are not trainable" + (f" ({', '.join(frozen[:3])})" if frozen else ""),
        "all of them must be trainable, except those that you froze on purpose",
        "Set trainable=True.",
        {"frozen": len(frozen)},
        ("frozen_layers",),
    )


def check_output(batch_pass: FirstBatchPass) -> Finding:
    """Whether the outputs are logits: no activation at the end is bounded, and the outputs do not sum to 1.

    Networks that end in one softmax, or one sigmoid for two classes, end in logits here: see `networks/outputs.py`.
    """
    ends = _end_layers(batch_pass.network)
    bounded = [each for each in ends if asymptotes(each) not in (None, (None, None)) or named_activation(each)]
    sums = batch_pass.logits.sum(1)
    probabilities = bool((batch_pass.logits >= 0).all() and np.abs(sums - 1).max() < 1e-2)
    # An activation inside of a user's own `call` shows in its outputs only. Outputs of 0 alone may be the initial ones.
    cut_off = bool((batch_pass.logits >= 0).all() and (batch_pass.logits == 0).any() and (batch_pass.logits > 0).any())
    shown = (
        ", and its outputs sum to 1" if probabilities else ", and none of its outputs is negative" if cut_off else ""
    )
    last = (bounded or ends)[-1]
    activation = getattr(last, "activation", None)
    name = getattr(activation, "__name__", type(last).__name__) if activation else type(last).__name__
    return Finding(
        "output",
        not (probabilities or bounded or cut_off),
        f"the network ends in {last.name} ({name}){shown}",
        "the loss takes logits, which are unbounded",
        "Remove the last activation.",
        {"least": float(batch_pass.logits.min()), "largest": float(batch_pass.logits.max())},
        ("output_activation",),
    )


def check_dropout(batch_pass: FirstBatchPass) -> Finding:
    rates = {layer.name: float(layer.rate) for layer in batch_pass.layers if isinstance(layer, DROPOUT_LAYERS)}
    name = max(rates, key=lambda layer: rates[layer], default="")
    rate = rates.get(name, 0.0)
    return Finding(
        "dropout",
        rate < MAX_DROPOUT,
        f"{name} drops {rate:.0%} of its inputs" if rates else "there is no dropout",
        f"a layer must drop less than {MAX_DROPOUT:.0%}",
        "Use at most 50% (--model.dropout for built-in networks).",
        {"rate": rate},
        ("dropout",),
    )


def check_penalty(config: TrainConfig, batch_pass: FirstBatchPass) -> Finding:
    """Compares penalties with ln(classes), and checks how fast L2's gradient, 2 l2 w, shrinks weights under SGD."""
    relative = batch_pass.penalty / math.log(batch_pass.classes)
    coefficients = [float(getattr(regularizer, "l2", 0.0)) for regularizer in _regularizers(batch_pass.layers)]
    optimizer, decay = config.optimizer, 0.0
    if optimizer.name in ("sgd", "sgdw"):  # other optimizers divide by the gradient's size
        rate = schedules.peak_learning_rate(optimizer, config.data.batch_size) / (1 - optimizer.momentum)
        decay = 2 * max(coefficients, default=0.0) * rate
    return Finding(
        "penalty",
        relative <= MAX_PENALTY and decay < MAX_PENALTY_DECAY,
        f"penalties on weights are {relative:.2g} times ln(classes) in the first loss, and remove {decay:.2g} of the"
        " weights in a step",
        f"they must be at most {MAX_PENALTY:g} times ln(classes), and remove less than {MAX_PENALTY_DECAY:g}",
        "Use a tenth of the penalty (--model.l2, --model.l1, or kernel_regularizer).",
        {"relative": relative, "decay": decay},
        ("penalty",),
    )


def check_batch_norm_batch(config: TrainConfig, batch_pass: FirstBatchPass, replicas: int) -> Finding:
    """Checks how many images BatchNorm takes its statistics from (Wu and Johnson 2021, section 3)."""
    norms = _batch_norms(batch_pass)
    per_replica = any(not layer.synchronized for layer in norms)
    images = config.data.batch_size // config.optimizer.accumulate // (replicas if per_replica else 1)
    return Finding(
        "batch_norm_batch",
        not norms or images >= MIN_BATCH_NORM_IMAGES,
        f"BatchNorm takes its statistics from {images} images" if norms else "there is no BatchNorm",
        f"it needs at least {MIN_BATCH_NORM_IMAGES}",
        "Use --model.norm=group, --model.norm=sync_batch or a larger --data.batch_size.",
        {"images": images},
        ("batch_norm_batch",),
    )


def check_batch_norm_momentum(batch_pass: FirstBatchPass, steps: int) -> Finding:
    """Whether moving statistics follow the batches: the share momentum ** steps of their initial values remains."""
    norms = _batch_norms(batch_pass)
    momenta = [float(layer.momentum) for layer in norms] or [0.9]
    largest, smallest = max(momenta), min(momenta)
    left = largest**steps if norms else 0.0
    needed = math.ceil(math.log(MAX_INITIAL_STATISTICS) / math.log(USUAL_MOMENTUM))
    remedy = f"Use momentum={USUAL_MOMENTUM:g}." if steps >= needed else f"Train for {needed} steps or more."
    return Finding(
        "batch_norm_momentum",
        largest < MAX_MOMENTUM and smallest >= MIN_MOMENTUM and left <= MAX_INITIAL_STATISTICS,
        f"BatchNorm's momentum is {smallest:g}{f' to {largest:g}' if largest > smallest else ''}: after {steps} steps,"
        f" {left:.0%} of its initial moving statistics remains"
        if norms
        else "there is no BatchNorm",
        f"it must be {MIN_MOMENTUM:g} to {MAX_MOMENTUM:g}, and at most {MAX_INITIAL_STATISTICS:.0%} may remain",
        remedy,
        {"largest": largest, "smallest": smallest, "left": left},
        ("batch_norm_momentum",),
    )


def check_precision(batch_pass: FirstBatchPass) -> Finding:
    """Whether all values are finite and, in float16, which ends at 65,504, whether activations are small enough."""
    largest = max((float(tf.reduce_max(tf.abs(x))) for x in batch_pass.outputs.values()), default=0.0)
    finite = np.isfinite(largest) and all(np.isfinite(l2_norm(g)) for g in batch_pass.gradients if g is not None)
    float16 = batch_pass.uses_float16
    superlinear = superlinear_activations(batch_pass.layers)
    causes: tuple[str, ...] = ("precision",) if float16 else () if superlinear else ("initialization",)
    remedy = "Use --precision=float32 or mixed_bfloat16, and normalise the input."
    if not float16:
        name, activation = next(iter(superlinear.items()), ("", ""))
        remedy = f"Use ReLU instead of {activation} (in {name})." if name else "Use smaller initial weights."
    return Finding(
        "precision",
        bool(finite) and (not float16 or largest <= MAX_FLOAT16_ACTIVATION),
        f"the largest activation is {largest:.3g}" + ("" if finite else ", and some value is not finite"),
        "all values must be finite"
        + (f", and activations at most {MAX_FLOAT16_ACTIVATION:g} in float16" if float16 else ""),
        remedy,
        {"largest": largest, "finite": float(finite)},
        causes,
    )


def _end_layers(network: keras.Model) -> list[keras.layers.Layer]:
    """The last layer with a kernel and all after it, also inside of a nested functional model."""
    ends = surgery.output_layers(network)
    return [each for layer in ends for each in (_end_layers(layer) if is_functional(layer) else [layer])]


def _batch_norms(batch_pass: FirstBatchPass) -> list[keras.layers.Layer]:
    return [layer for layer in batch_pass.layers if isinstance(layer, layers.BatchNormalization)]


def _regularizers(network_layers: list[keras.layers.Layer]) -> list[Any]:
    names = ("kernel_regularizer", "depthwise_regularizer", "pointwise_regularizer")
    found = [getattr(layer, name, None) for layer in network_layers for name in names]
    return [regularizer for regularizer in found if regularizer is not None]
