"""Changes of a network's architecture by name, made on the network itself: what `--model.patch` says.

    network = patched(network, ("relu", "batch_norm"))
    for line in edits(network, ("relu",)): print(line)      # what to change in the source instead

A network is rebuilt layer by layer along its own graph; weights come along wherever a layer stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf
import tf_keras as keras

from evenkeel.models.networks.activations import asymptotes
from evenkeel.models.networks.layers import DROPOUTS, NORMS, kernel

layers = keras.layers
LINEAR = keras.activations.linear
SLOPE = 0.1  # of leaky_relu below zero
HEAD = keras.initializers.RandomNormal(stddev=0.01)  # of he_normal's last layer (Goyal et al. 2017, section 5.1)
LARGE = 3.0  # a scale or an offset of BatchNorm at the start that is no choice
MOMENTUM = 0.9  # of batch_norm's moving statistics: 99% of them are of the last 44 steps

# What one layer becomes: layers called one after another; None leaves it as it is.
Change = Callable[[keras.layers.Layer], list[keras.layers.Layer] | None]


def patched(network: keras.Model, names: Sequence[str]) -> keras.Model:
    """A functional model like `network` with the changes `names`, of `models.config.PATCHES`, one after another."""
    for name in names:
        network = _rebuilt(network, _change(network, name))
    return network


def edits(network: keras.Model, names: Sequence[str]) -> list[str]:
    """The same changes in words, a line for each layer of the source that has to change."""
    lines = []
    for name in names:
        change = _change(network, name)
        lines += _edits(network, change, name)
        network = _rebuilt(network, change)
    return lines


def changes_anything(network: keras.Model, name: str) -> bool:
    change = _change(network, name)
    return any(change(each) is not None for each in network.layers if not isinstance(each, layers.InputLayer))


def wild(norm: keras.layers.BatchNormalization) -> bool:
    """Whether it begins with a scale or an offset far from the usual 1 and 0; a scale of 0 is usual, too."""
    return any(float(tf.reduce_max(tf.abs(v))) > LARGE for v in (norm.gamma, norm.beta) if v is not None)


def output_layers(network: keras.Model) -> list[keras.layers.Layer]:
    """The last layer with a kernel and all behind it: what makes the output."""
    found: list[keras.layers.Layer] = []
    for layer in reversed(network.layers):
        found.append(layer)
        if kernel(layer) is not None:
            break
    return found[::-1]


def _change(network: keras.Model, name: str, makes_output: bool = True) -> Change:
    at_the_end = {id(layer) for layer in output_layers(network)} if makes_output else set()
    hidden = lambda layer: id(layer) not in at_the_end  # noqa: E731
    has_norm = any(isinstance(layer, NORMS) for layer in network._flatten_layers())
    acts = {id(layer): asymptotes(layer) for layer in network.layers}

    def activation(layer: keras.layers.Layer, wanted: str) -> list[keras.layers.Layer]:
        # Activations with a class of their own have other arguments.
        if kernel(layer) is None:
            return [
                layers.LeakyReLU(SLOPE, name=layer.name) if wanted == "leaky_relu" else layers.ReLU(name=layer.name)
            ]
        if wanted == "leaky_relu":
            return [_with(layer, activation="linear"), layers.LeakyReLU(SLOPE, name=f"{layer.name}_leaky_relu")]
        return [_with(layer, activation="relu")]

    def relu(layer: keras.layers.Layer) -> list[keras.layers.Layer] | None:
        bounds = acts[id(layer)]
        saturates = bounds is not None and None not in bounds
        return activation(layer, "relu") if hidden(layer) and saturates else None

    def leaky_relu(layer: keras.layers.Layer) -> list[keras.layers.Layer] | None:
        dies = acts[id(layer)] in ((0.0, None), (0.0, 6.0))
        return activation(layer, "leaky_relu") if hidden(layer) and dies else None

    def he_normal(layer: keras.layers.Layer) -> list[keras.layers.Layer] | None:
        if isinstance(layer, layers.BatchNormalization):
            return [_with(layer, gamma_initializer="ones", beta_initializer="zeros")] if wild(layer) else None
        if kernel(layer) is None:
            return None
        wanted = {"kernel_initializer": "he_normal" if hidden(layer) else HEAD, "bias_initializer": "zeros"}
        return [_with(layer, **{key: value for key, value in wanted.items() if key in layer.get_config()})]

    def batch_norm(layer: keras.layers.Layer) -> list[keras.layers.Layer] | None:
        if has_norm or kernel(layer) is None or not hidden(layer):
            return None
        norm = layers.BatchNormalization(momentum=MOMENTUM, name=f"{layer.name}_norm")
        function = getattr(layer, "activation", LINEAR)
        if function is LINEAR:
            return [_as_it_is(layer), norm]
        return [_with(layer, activation="linear"), norm, layers.Activation(function, name=f"{layer.name}_activation")]

    def logits(layer: keras.layers.Layer) -> list[keras.layers.Layer] | None:
        if hidden(layer):
            return None
        if kernel(layer) is not None:
            return None if getattr(layer, "activation", LINEAR) is LINEAR else [_with(layer, activation="linear")]
        own = isinstance(layer, (layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Softmax))
        return [] if own or getattr(layer, "activation", LINEAR) is not LINEAR else None

    def trainable(layer: keras.layers.Layer) -> list[keras.layers.Layer] | None:
        frozen = not layer.trainable and layer.weights
        return [_with(layer, trainable=True)] if frozen else None

    def norm_momentum(layer: keras.layers.Layer) -> list[keras.layers.Layer] | None:
        wrong = isinstance(layer, layers.BatchNormalization) and layer.momentum != MOMENTUM
        return [_with(layer, momentum=MOMENTUM)] if wrong else None

    def no_dropout(layer: keras.layers.Layer) -> list[keras.layers.Layer] | None:
        return [] if isinstance(layer, DROPOUTS) and layer.rate > 0 else None

    def no_penalty(layer: keras.layers.Layer) -> list[keras.layers.Layer] | None:
        held = [key for key, value in layer.get_config().items() if key.endswith("_regularizer") and value]
        return [_with(layer, **dict.fromkeys(held))] if held else None

    known = (relu, leaky_relu, he_normal, batch_norm, logits, trainable, norm_momentum, no_dropout, no_penalty)
    of_layer = {change.__name__: change for change in known}[name]

    def of_any(layer: keras.layers.Layer) -> list[keras.layers.Layer] | None:
        if not isinstance(layer, keras.Model):
            return of_layer(layer)
        # A model inside of the model.
        within = _change(layer, name, makes_output and not hidden(layer))
        inner = [each for each in layer.layers if not isinstance(each, layers.InputLayer)]
        return [_rebuilt(layer, within)] if any(within(each) is not None for each in inner) else None

    return of_any


def _edits(network: keras.Model, change: Change, name: str, makes_output: bool = True) -> list[str]:
    at_the_end = output_layers(network) if makes_output else []
    lines = []
    for layer in network.layers:
        new = None if isinstance(layer, layers.InputLayer) else change(layer)
        if new is not None and isinstance(layer, keras.Model):
            inside = any(layer is each for each in at_the_end)
            lines += _edits(layer, _change(layer, name, inside), name, inside)
        elif new is not None:
            lines.append(f"{_kind(layer)} {layer.name!r}: {_difference(layer, new)}")
    return lines


def _rebuilt(network: keras.Model, change: Change) -> keras.Model:
    inputs = [layers.Input(each.shape[1:], dtype=each.dtype, name=each.name.split(":")[0]) for each in network.inputs]
    tensors = dict(zip((str(id(each)) for each in network.inputs), inputs, strict=True))
    made: dict[int, list[keras.layers.Layer]] = {}
    for depth in sorted(network._nodes_by_depth, reverse=True):
        for node in network._nodes_by_depth[depth]:
            if node.is_input:
                continue
            if id(node.layer) not in made:  # a layer that is called twice is one
                new = change(node.layer)
                made[id(node.layer)] = [_as_it_is(node.layer)] if new is None else new
            # As Keras runs a graph; every place that reads a tensor pops it once.
            args, kwargs = node.map_arguments({key: [value] * 9 for key, value in tensors.items()})
            for layer in made[id(node.layer)]:
                args, kwargs = (layer(*args, **kwargs),), {}
            outputs = args[0] if made[id(node.layer)] else tf.nest.flatten(args)[0]
            tensors.update(zip(map(str, node.flat_output_ids), tf.nest.flatten(outputs), strict=True))
    rebuilt = keras.Model(inputs, tensors[str(id(network.outputs[0]))], name=network.name)
    for layer in network.layers:
        for new in made.get(id(layer), []):
            if [v.shape for v in new.weights] == [v.shape for v in layer.weights] and _starts_alike(layer, new):
                new.set_weights(layer.get_weights())
    return rebuilt


def _starts_alike(old: keras.layers.Layer, new: keras.layers.Layer) -> bool:
    """Whether no initializer was changed: if one was, the layer begins anew."""
    of = lambda layer: {k: str(v) for k, v in layer.get_config().items() if k.endswith("_initializer")}  # noqa: E731
    return of(old) == of(new)


def _as_it_is(layer: keras.layers.Layer) -> keras.layers.Layer:
    if isinstance(layer, keras.Model):
        return keras.models.clone_model(layer)
    config = layer.get_config()
    if isinstance(layer, layers.BatchNormalization):
        config["synchronized"] = layer.synchronized  # Keras leaves it out
    return layer.__class__.from_config(config)


def _with(layer: keras.layers.Layer, **changes: object) -> keras.layers.Layer:
    return layer.__class__.from_config({**layer.get_config(), **changes})


def _kind(layer: keras.layers.Layer) -> str:
    return layer.__class__.__name__


def _difference(old: keras.layers.Layer, new: list[keras.layers.Layer]) -> str:
    """What a person would write: arguments that change, layers that follow or go."""
    if not new:
        return "remove it"
    words = []
    if type(new[0]) is type(old):
        before, after = old.get_config(), new[0].get_config()
        words = [f"{key}={_plain(before[key])} -> {_plain(after[key])}" for key in before if before[key] != after[key]]
    else:
        words = [f"replace it by {_kind(new[0])}"]
    follow = [_kind(each) for each in new[1:]]
    return ", ".join([*words, *([f"then {' and '.join(follow)}"] if follow else [])])


def _plain(value: object) -> str:
    return repr(value["class_name"]) if isinstance(value, dict) and "class_name" in value else repr(value)
