"""What a network does with its first images, checked: a finding for each thing that may be wrong with it.

for finding in checks(config, look, steps=560, replicas=1):
    print(finding.line)
overfits(look)        # whether one batch can be learnt; changes the copy's weights
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import TrainConfig
from evenkeel.models.networks.activations import activation, asymptotes
from evenkeel.models.networks.layers import DROPOUTS, trainable_kernel
from evenkeel.models.optim import schedules
from evenkeel.models.preflight.first_batch import Look, norm
from evenkeel.models.stability.diagnosis import Finding
from evenkeel.models.telemetry import layer_stats

layers = keras.layers
# An input of deviation 1 and mean 0 is what initializers suppose (LeCun et al. 1998, section 4.3); 0 to 1 has 0.25 and
# 0.45, and is learnt as well. 0 to 255 has 65 and 115.
LEAST_SCALE, MOST_SCALE, MOST_OFFSET = 0.05, 10.0, 5.0
MOST_DEPTH_RATIO = 1e4  # 40 sound networks lie between 0.006 and 1.4; 16 layers of Glorot and ReLU come to 0.0003
LEAST_FLOW = 1e-3  # these lie above 0.07; 5 layers of sigmoids come to 0.001, 8 to 0.00001
FLAT, MOST_FLAT = 0.25, 2  # the sigmoid's largest slope; three in a row leave 1/64 of a gradient
DEEP = 8  # layers with kernels from which one trains badly without normalization
MOST_DEAD, MOST_SATURATED = 0.9, 0.8  # up to 0.45 of a layer is dead by chance where all images look alike to it
MOST_DROPOUT = 0.7  # 0.5 is the largest in use (Srivastava et al. 2014)
MOST_PENALTY = 5.0  # times ln(classes): ResNet-50 with 1e-4 comes to 0.8, ResNet-18 with 5e-4 to 2
MOST_PENALTY_DECAY = 0.02  # of the weights in a step, by the penalty's gradient: 0.002 is much
LARGEST_HALF = 1e4  # float16 ends at 65,504
LEARNT = 16  # images that one batch is learnt by heart with
# Of the loss, that must be left behind. All 40 sound networks get to 0.5; outputs in 0 to 1 cannot get below
# ln(e + 9) - 1 = 1.46 with ten classes, 0.63 of a guess.
LEFT_OVER = 0.6
STAGES = ((30, 1e-3), (30, 3e-3), (60, 1e-2))  # steps and rates of Adam: small networks need larger ones


def checks(config: TrainConfig, look: Look, steps: int, replicas: int) -> list[Finding]:
    """Every check that one pass or a few are enough for; `steps` are those of the run."""
    scale = input_scale(look)
    return [
        scale,
        initial_loss(look, scale.ok),
        depth(look),
        normalization(look),
        *flow(look),
        flat_activations(look),
        idle_units(look),
        frozen(look),
        output(look),
        dropout(look),
        penalty(config, look),
        *batch_norm(config, look, steps, replicas),
        precision(look),
    ]


def input_scale(look: Look) -> Finding:
    mean, std = float(look.seen.mean()), float(look.seen.std())
    return Finding(
        "input_scale",
        LEAST_SCALE <= std <= MOST_SCALE and abs(mean) <= MOST_OFFSET * std,
        f"the first layer with weights sees mean {mean:.3g} and deviation {std:.3g}",
        f"mean 0 and deviation 1 suit; {LEAST_SCALE:g} to {MOST_SCALE:g}, off by {MOST_OFFSET:g} deviations, will do",
        "Use --data.normalize, or begin the network with a Normalization layer.",
        {"mean": mean, "std": std},
        ("input_scale",),
    )


def initial_loss(look: Look, scaled: bool) -> Finding:
    """A guess among the classes has a cross-entropy of ln(classes); logits of deviation d add up to d^2 / 2.

    Sound networks come to 2.6 times that: logits of BatchNorm's outputs, of which pooling takes the largest.
    """
    guess = math.log(look.classes)
    most = 3 * guess + 2
    return Finding(
        "initial_loss",
        look.loss <= most,  # NaN is not
        f"the first loss is {look.loss:.3g}",
        f"a guess has ln({look.classes}) = {guess:.3g}, and a sound start less than {most:.3g}",
        "Lower the scale of the last layer's kernel_initializer." if scaled else "Normalise the input.",
        {"loss": look.loss, "guess": guess},
        ("initialization",) if scaled else ("input_scale", "initialization"),
    )


def depth(look: Look) -> Finding:
    """The deviation of the last hidden layer's output against that of what the first layer sees."""
    hidden = [layer.name for layer in look.kernels[:-1] if layer.name in look.outputs]
    first = max(float(look.seen.std()), 1e-12)
    last = float(tf.math.reduce_std(look.outputs[hidden[-1]])) if hidden else first
    ratio = last / first
    deep = len(look.kernels) >= DEEP and not look.normalized
    return Finding(
        "activation_scale",
        1 / MOST_DEPTH_RATIO <= ratio <= MOST_DEPTH_RATIO,
        f"activations go from a deviation of {first:.3g} in the input to {last:.3g} in the last hidden layer",
        f"they stay within a factor of {MOST_DEPTH_RATIO:g}",
        "Use kernel_initializer='he_normal' with ReLU" + (", or normalization layers." if deep else "."),
        {"ratio": ratio, "layers": len(look.kernels)},
        ("initialization", "no_normalization") if deep else ("initialization",),
    )


def normalization(look: Look) -> Finding:
    """Whether a deep network normalizes, or has activations that do (SELU, Klambauer et al. 2017)."""
    count = len(look.kernels)
    itself = any(getattr(layer, "activation", None) is keras.activations.selu for layer in look.layers)
    return Finding(
        "normalization",
        look.normalized or itself or count < DEEP,
        f"{count} layers with weights" + ("" if look.normalized else ", none of which is normalized"),
        f"{DEEP} or more train badly without normalization (VGG's 16 had to be trained in stages)",
        "Put a BatchNormalization behind each convolution (--model.patch=batch_norm does).",
        {"layers": count},
        ("no_normalization",),
    )


def flow(look: Look) -> Iterator[Finding]:
    """Whether gradients arrive everywhere, and how strong they are in the first layer against the last hidden one.

    Both lie in front of the classifier, whose scale is in either; each is taken against its own weights.
    """
    gradients = look.flowing()
    by_id = {id(v): g for v, g in zip(look.variables, gradients, strict=True)}
    lost = [v.name for v, g in zip(look.variables, gradients, strict=True) if g is None]
    still = [v.name for v, g in zip(look.variables, gradients, strict=True) if _is_zero_kernel(v, g)]
    dead = [name for name, share in shares(look, "dead").items() if share > MOST_DEAD]
    none = [*lost, *still]
    named = ", ".join(none[:3]) + (f" and {len(none) - 3} more" if none[3:] else "")
    yield Finding(
        "gradients_arrive",
        not none,
        f"no gradient reaches {named}" if none else f"gradients reach all {len(look.variables)} trainable variables",
        "every one of them leads to the loss",
        "Connect them to the output, or take tf.stop_gradient away." if not dead else "Revive the dead units.",
        {"lost": len(lost), "zero": len(still)},
        ("dying_activation", "initialization") if dead and not lost else ("frozen_layers",),
    )
    hidden = look.kernels[:-1]
    strengths = []
    for layer in hidden:
        kernel = trainable_kernel(layer)
        gradient = by_id[id(kernel)]
        if gradient is not None and norm(gradient) > 0:
            strengths.append(norm(gradient) / max(norm(kernel), 1e-12))
    ratio = strengths[0] / strengths[-1] if strengths else 1.0
    saturating = [layer.name for layer in look.layers if _saturates(layer)]
    causes: tuple[str, ...] = ("initialization",)
    if len(saturating) >= 3 and not look.normalized:
        causes = ("saturating_activation", "initialization")
    elif len(look.kernels) >= DEEP and not look.normalized:
        causes = ("initialization", "no_normalization")
    yield Finding(
        "gradient_flow",
        bool(np.isfinite(ratio)) and ratio >= LEAST_FLOW,
        f"gradients in the first of {len(look.kernels)} layers are {ratio:.2g} times as strong as in the last hidden"
        f" one ({len(saturating)} activations saturate at both ends)",
        f"at least {LEAST_FLOW:g}, each against its own weights",
        "Use ReLU instead of sigmoid or tanh." if "saturating_activation" in causes else "Add normalization layers.",
        {"ratio": float(ratio), "saturating": len(saturating)},
        causes,
    )


def flat_activations(look: Look) -> Finding:
    """Hidden activations that are nowhere steeper than a sigmoid: each makes what passes back to a quarter at most.

    Normalization in between keeps the size of gradients, not what they say: such networks learn slowly (Glorot and
    Bengio 2010, section 3.1). Gates, whose outputs multiply something, and an attention's softmax are not meant.
    """
    found = [layer.name for layer in look.network.layers[:-1] if slope(layer) <= FLAT and not _gates(layer)]
    return Finding(
        "flat_activations",
        len(found) <= MOST_FLAT,
        f"{len(found)} hidden activations are nowhere steeper than {FLAT:g}" + (f" ({found[0]})" if found else ""),
        f"at most {MOST_FLAT} are, as a sigmoid is: gradients shrink with each",
        "Use ReLU in hidden layers (--model.patch=relu does).",
        {"flat": len(found)},
        ("saturating_activation",),
    )


def slope(layer: keras.layers.Layer) -> float:
    """The largest of its activation between -10 and 10; infinite where it has none. That of a softmax is 1/4."""
    function = activation(layer)
    if function is keras.activations.softmax or isinstance(layer, layers.Softmax):
        return 0.25
    if function in (None, keras.activations.linear):
        return math.inf
    at = np.linspace(-10, 10, 2001, dtype=np.float32)
    return float(np.abs(np.diff(np.asarray(function(tf.constant(at)), np.float64))).max() / (at[1] - at[0]))


def _gates(layer: keras.layers.Layer) -> bool:
    """Whether what it puts out multiplies something, as in squeeze and excitation."""
    for node in layer.outbound_nodes:
        then = node.outbound_layer
        multiplies = isinstance(then, (layers.Multiply, layers.Dot)) or "mul" in then.name
        if multiplies or (isinstance(then, (layers.Reshape, layers.Dropout)) and _gates(then)):
            return True
    return False


def shares(look: Look, kind: str) -> dict[str, float]:
    """{layer: share} of channels that are zero on all images (`dead`), or of values at an end (`saturated`)."""
    found = {}
    for layer in look.network.layers[:-1]:
        bounds = asymptotes(layer)
        if bounds is None or layer.name not in look.outputs:
            continue
        low, high = bounds
        if kind == "dead" and low == 0 and high is None:
            x = look.outputs[layer.name]  # against its own largest: small is not dead
            found[layer.name] = float(layer_stats.dead_fraction(x / tf.maximum(tf.reduce_max(tf.abs(x)), 1e-30)))
        if kind == "saturated" and low is not None and high is not None and _saturates(layer):
            found[layer.name] = float(layer_stats.saturated_fraction(look.outputs[layer.name], low, high))
    return found


def idle_units(look: Look) -> Finding:
    dead, saturated = shares(look, "dead"), shares(look, "saturated")
    worst = {name: max(of.values(), default=0.0) for name, of in (("dead", dead), ("saturated", saturated))}
    over = [n for n, of in dead.items() if of > MOST_DEAD] + [n for n, of in saturated.items() if of > MOST_SATURATED]
    causes = tuple(
        cause
        for cause, on in (
            ("dying_activation", worst["dead"] > MOST_DEAD),
            ("saturating_activation", worst["saturated"] > MOST_SATURATED),
        )
        if on
    )
    return Finding(
        "idle_units",
        not over,
        f"at most {worst['dead']:.0%} of a layer's channels are dead, {worst['saturated']:.0%} of its values saturated"
        + (f" ({', '.join(over[:3])})" if over else ""),
        f"at most {MOST_DEAD:.0%} and {MOST_SATURATED:.0%}",
        "Start with smaller weights and biases of 0.",
        worst,
        causes,
    )


def frozen(look: Look) -> Finding:
    found = [layer.name for layer in look.layers if any("kernel" in v.name for v in layer.non_trainable_weights)]
    return Finding(
        "frozen_layers",
        not found,
        f"{len(found)} layers with a kernel do not train" + (f" ({', '.join(found[:3])})" if found else ""),
        "all do, unless that is what you want",
        "Set trainable=True.",
        {"frozen": len(found)},
        ("frozen_layers",),
    )


def output(look: Look) -> Finding:
    """Logits go anywhere; what has been squashed or cut off is known by its last layer, a softmax by its sums too."""
    last = look.network.layers[-1]
    function = getattr(last, "activation", None)
    sums = look.logits.sum(1)
    probabilities = bool((look.logits >= 0).all() and np.abs(sums - 1).max() < 1e-2)
    bounds = asymptotes(last)
    squashed = probabilities or function is keras.activations.softmax or bounds not in (None, (None, None))
    name = getattr(function, "__name__", type(last).__name__) if function else type(last).__name__
    return Finding(
        "output",
        not squashed,
        f"the network ends in {last.name} ({name})" + (": its outputs sum to 1" if probabilities else ""),
        "the loss takes logits, which nothing bounds",
        "Leave out the last activation.",
        {"least": float(look.logits.min()), "largest": float(look.logits.max())},
        ("output_activation",),
    )


def dropout(look: Look) -> Finding:
    rates = {layer.name: float(layer.rate) for layer in look.layers if isinstance(layer, DROPOUTS)}
    name = max(rates, key=lambda each: rates[each], default="")
    most = rates.get(name, 0.0)
    return Finding(
        "dropout",
        most < MOST_DROPOUT,
        f"{name} drops {most:.0%} of its inputs" if rates else "there is no dropout",
        f"it drops less than {MOST_DROPOUT:.0%}",
        "Use 50% at most (--model.dropout in networks of ours).",
        {"rate": most},
        ("dropout",),
    )


def penalty(config: TrainConfig, look: Look) -> Finding:
    """Penalties in the first loss, and how fast the L2 part's gradient, 2 l2 w, shrinks the weights under SGD."""
    relative = look.penalty / math.log(look.classes)
    coefficients = [float(getattr(each, "l2", 0.0)) for each in _regularizers(look.layers)]
    of, decay = config.optimizer, 0.0
    if of.name in ("sgd", "sgdw"):  # others divide by the gradient's own size
        rate = schedules.peak(of, config.data.batch_size) / (1 - of.momentum)
        decay = 2 * max(coefficients, default=0.0) * rate
    return Finding(
        "penalty",
        relative <= MOST_PENALTY and decay < MOST_PENALTY_DECAY,
        f"penalties on weights are {relative:.2g} times ln(classes) in the first loss and take {decay:.2g} of the"
        " weights in a step",
        f"at most {MOST_PENALTY:g} times, and less than {MOST_PENALTY_DECAY:g}",
        "Use a tenth of the penalty (--model.l2, --model.l1, or kernel_regularizer).",
        {"relative": relative, "decay": decay},
        ("penalty",),
    )


def batch_norm(config: TrainConfig, look: Look, steps: int, replicas: int) -> Iterator[Finding]:
    """How many images BatchNorm sees at once, and whether its moving statistics come to follow the batches.

    Of the values they start at, momentum ** steps is left. Wu and Johnson 2021, section 3, have the former's cost.
    """
    norms = [layer for layer in look.layers if isinstance(layer, layers.BatchNormalization)]
    alone = [layer for layer in norms if not layer.synchronized]
    images = config.data.batch_size // config.optimizer.accumulate // (replicas if alone else 1)
    yield Finding(
        "batch_norm_batch",
        not norms or images > 4,
        f"BatchNorm sees {images} images at once" if norms else "there is no BatchNorm",
        "it needs more than 4",
        "Use --model.norm=group, --model.norm=sync_batch or a larger --data.batch_size.",
        {"images": images},
        ("batch_norm_batch",),
    )
    momenta = [float(layer.momentum) for layer in norms] or [0.9]
    most, least = max(momenta), min(momenta)
    left = most**steps if norms else 0.0
    yield Finding(
        "batch_norm_momentum",
        most < 0.9999 and least >= 0.5 and left <= math.exp(-2),
        f"BatchNorm's momentum is {least:g}{f' to {most:g}' if most > least else ''}: {left:.0%} of where its moving"
        f" statistics started is left after {steps} steps"
        if norms
        else "there is no BatchNorm",
        "it lies in 0.5 to 0.9999 and leaves 13% at most",
        "Use momentum=0.9.",
        {"largest": most, "smallest": least, "left": left},
        ("batch_norm_momentum",),
    )


def precision(look: Look) -> Finding:
    """In float16 numbers end at 65,504; in the other types only what is not finite counts."""
    largest = max((float(tf.reduce_max(tf.abs(x))) for x in look.outputs.values()), default=0.0)
    finite = np.isfinite(largest) and all(np.isfinite(norm(g)) for g in look.gradients if g is not None)
    return Finding(
        "precision",
        bool(finite) and (not look.half or largest <= LARGEST_HALF),
        f"the largest activation is {largest:.3g}" + ("" if finite else ", and something is not finite"),
        f"all is finite, and at most {LARGEST_HALF:g} in float16" if look.half else "all is finite",
        "Use --precision=float32 or mixed_bfloat16, and normalise the input.",
        {"largest": largest, "finite": float(finite)},
        ("precision",) if look.half else ("initialization",),
    )


def overfits(look: Look) -> Finding:
    """Whether Adam brings the loss of `LEARNT` images to 0.6 of itself in 120 steps, at rates of 0.001, 0.003 and 0.01.

    The loss is the first one or a guess's, what is smaller. It stops there: networks with normalization take 2 to 30
    steps, others up to 60.
    """
    wanted = LEFT_OVER * min(look.loss if math.isfinite(look.loss) else math.inf, math.log(look.classes))
    rate = tf.Variable(0.0, trainable=False)
    optimizer = keras.optimizers.Adam(learning_rate=0.0, jit_compile=False)
    optimizer.build(look.variables)

    @tf.function
    def step() -> tf.Tensor:
        optimizer.learning_rate.assign(rate)
        return look.step(optimizer, LEARNT)[0]

    best, done = math.inf, 0
    for steps, at in STAGES:
        rate.assign(at)
        for _ in range(steps):
            if best <= wanted:
                break
            loss = float(step())
            best, done = min(best, loss if math.isfinite(loss) else math.inf), done + 1
    return Finding(
        "one_batch",
        best <= wanted,
        f"the loss of {len(look.images[:LEARNT])} images, trained on alone, comes to {best:.3g} in {done} steps",
        f"it comes below {wanted:.3g}: one batch can be learnt by heart",
        "Look at the findings above; if there is none, at the network's last layers and at the labels' order.",
        {"loss": best, "wanted": wanted, "steps": done},
        ("frozen_layers", "initialization", "saturating_activation", "output_activation"),
    )


def _is_zero_kernel(variable: tf.Variable, gradient: tf.Tensor | None) -> bool:
    # Of kernels only: biases in front of BatchNorm have no gradient by right.
    return gradient is not None and len(variable.shape) >= 2 and norm(gradient) == 0


def _saturates(layer: keras.layers.Layer) -> bool:
    """At both ends, with room between them around zero: sigmoid and tanh, not a ReLU cut off at 6."""
    low, high = asymptotes(layer) or (None, None)
    if low is None or high is None:
        return False
    function: Any = getattr(layer, "activation", None) or layer.call
    return float(function(tf.constant([0.0]))[0]) > low + 1e-6


def _regularizers(found: list[keras.layers.Layer]) -> list[Any]:
    names = ("kernel_regularizer", "depthwise_regularizer", "pointwise_regularizer")
    return [each for layer in found for name in names if (each := getattr(layer, name, None)) is not None]
