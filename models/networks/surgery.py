"""Applies named changes (`--model.patch`) to a finished network, and describes them as edits of its source.

    network = apply_patches(network, ("relu", "batch_norm"))
    for line in describe_edits(network, ("relu",)): print(line)

The network is rebuilt layer by layer along its own graph. A layer keeps its weights if neither their shapes nor their
initializers change. Layers of the user's own classes stay as they are, and are shared with the old network: only their
`call` knows what they are made of.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf
import tf_keras as keras

from evenkeel.models.networks.activations import asymptotes, grows_faster_than_linearly
from evenkeel.models.networks.layer_graph import POOLING_LAYERS, layers_without_activation, shrinking_layers
from evenkeel.models.networks.layers import DROPOUT_LAYERS, NORM_LAYERS, copy_layer, is_functional, is_users_own, kernel

layers = keras.layers
LINEAR = keras.activations.linear
LEAKY_RELU_SLOPE = 0.1  # slope below zero
HEAD_INITIALIZER = keras.initializers.RandomNormal(stddev=0.01)  # he_normal: last layer (Goyal et al. 2017, 5.1)
MAX_INITIAL_SCALE = 3.0  # nobody chooses a larger initial scale or offset of BatchNorm on purpose
WIDTH_FACTOR = 4  # wider: filters and units times this
NORM_MOMENTUM = 0.9  # of BatchNorm: 99% of the moving statistics come from the last 44 steps

# Takes a layer; returns the layers that replace it, in the order of their calls. [] removes the layer, None keeps it.
LayerEdit = Callable[[keras.layers.Layer], list[keras.layers.Layer] | None]


def apply_patches(network: keras.Model, names: Sequence[str]) -> keras.Model:
    """A functional model like `network` with the patches `names` (of `models.config.PATCHES`) applied in this order."""
    for name in names:
        network = _rebuild(network, _layer_edit(network, name))
    return network


def describe_edits(network: keras.Model, names: Sequence[str]) -> list[str]:
    """Describes the patches `names`: one line for each layer to change in the network's source code."""
    lines = []
    for name in names:
        edit = _layer_edit(network, name)
        lines += _describe(network, edit, name)
        network = _rebuild(network, edit)
    return lines


def has_effect(network: keras.Model, name: str) -> bool:
    """Whether the patch `name` changes any layer of `network`."""
    edit = _layer_edit(network, name)
    return any(edit(layer) is not None for layer in _layers_without_inputs(network))


def starts_extreme(norm: keras.layers.BatchNormalization) -> bool:
    """Whether an initial scale or offset is larger than MAX_INITIAL_SCALE; scales of 0 or 1, offsets of 0 are usual."""
    return any(float(tf.reduce_max(tf.abs(v))) > MAX_INITIAL_SCALE for v in (norm.gamma, norm.beta) if v is not None)


def output_layers(network: keras.Model) -> list[keras.layers.Layer]:
    """The layers that compute the output: the last layer with a kernel and all layers after it."""
    end_layers: list[keras.layers.Layer] = []
    for layer in reversed(network.layers):
        end_layers.append(layer)
        if kernel(layer) is not None:
            break
    return end_layers[::-1]


# The patches. Each returns the layers that replace one layer, see LayerEdit.


@dataclasses.dataclass(frozen=True)
class _Surroundings:
    """Facts about the network around a layer.

    Attributes:
      output_ids: `id` of each layer that computes the output.
      has_norm: the network has a normalization layer.
      linear_ids: `id` of each layer that lacks an activation.
      shrinking_ids: `id` of each layer that shrinks its input too far.
    """

    output_ids: frozenset[int]
    has_norm: bool
    linear_ids: frozenset[int]
    shrinking_ids: frozenset[int]

    def is_hidden(self, layer: keras.layers.Layer) -> bool:
        return id(layer) not in self.output_ids


def _relu(layer: keras.layers.Layer, around: _Surroundings) -> list[keras.layers.Layer] | None:
    bounds = asymptotes(layer)
    saturates = bounds is not None and None not in bounds
    if not (around.is_hidden(layer) and (saturates or grows_faster_than_linearly(layer))):
        return None
    # Activation layers, such as ELU, take other arguments than ReLU, so a new layer replaces them.
    return [layers.ReLU(name=layer.name)] if kernel(layer) is None else [_with(layer, activation="relu")]


def _leaky_relu(layer: keras.layers.Layer, around: _Surroundings) -> list[keras.layers.Layer] | None:
    can_die = asymptotes(layer) in ((0.0, None), (0.0, 6.0)) and not grows_faster_than_linearly(layer)
    if not (around.is_hidden(layer) and can_die):
        return None
    if kernel(layer) is None:
        return [layers.LeakyReLU(LEAKY_RELU_SLOPE, name=layer.name)]
    return [_with(layer, activation="linear"), layers.LeakyReLU(LEAKY_RELU_SLOPE, name=f"{layer.name}_leaky_relu")]


def _he_normal(layer: keras.layers.Layer, around: _Surroundings) -> list[keras.layers.Layer] | None:
    if isinstance(layer, layers.BatchNormalization):
        return [_with(layer, gamma_initializer="ones", beta_initializer="zeros")] if starts_extreme(layer) else None
    if kernel(layer) is None:
        return None
    initializers = {
        "kernel_initializer": "he_normal" if around.is_hidden(layer) else HEAD_INITIALIZER,
        "bias_initializer": "zeros",
    }
    return [_with(layer, **{key: value for key, value in initializers.items() if key in layer.get_config()})]


def _batch_norm(layer: keras.layers.Layer, around: _Surroundings) -> list[keras.layers.Layer] | None:
    if around.has_norm or kernel(layer) is None or not around.is_hidden(layer):
        return None
    norm = layers.BatchNormalization(momentum=NORM_MOMENTUM, name=f"{layer.name}_norm")
    function = getattr(layer, "activation", LINEAR)
    if function is LINEAR:
        return [_copy(layer), norm]
    return [_with(layer, activation="linear"), norm, layers.Activation(function, name=f"{layer.name}_activation")]


def _logits(layer: keras.layers.Layer, around: _Surroundings) -> list[keras.layers.Layer] | None:
    if around.is_hidden(layer):
        return None
    is_linear = getattr(layer, "activation", LINEAR) is LINEAR
    if kernel(layer) is not None:
        return None if is_linear else [_with(layer, activation="linear")]
    is_activation_layer = isinstance(layer, (layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Softmax))
    return [] if is_activation_layer or not is_linear else _no_dropout(layer, around)


def _trainable(layer: keras.layers.Layer, around: _Surroundings) -> list[keras.layers.Layer] | None:
    is_frozen = not layer.trainable and layer.weights
    return [_with(layer, trainable=True)] if is_frozen else None


def _norm_momentum(layer: keras.layers.Layer, around: _Surroundings) -> list[keras.layers.Layer] | None:
    differs = isinstance(layer, layers.BatchNormalization) and layer.momentum != NORM_MOMENTUM
    return [_with(layer, momentum=NORM_MOMENTUM)] if differs else None


def _no_dropout(layer: keras.layers.Layer, around: _Surroundings) -> list[keras.layers.Layer] | None:
    return [] if isinstance(layer, DROPOUT_LAYERS) and layer.rate > 0 else None


def _no_penalty(layer: keras.layers.Layer, around: _Surroundings) -> list[keras.layers.Layer] | None:
    penalties = [key for key, value in layer.get_config().items() if key.endswith("_regularizer") and value]
    return [_with(layer, **dict.fromkeys(penalties))] if penalties else None


def _activations(layer: keras.layers.Layer, around: _Surroundings) -> list[keras.layers.Layer] | None:
    return [_with(layer, activation="relu")] if id(layer) in around.linear_ids and around.is_hidden(layer) else None


def _less_pooling(layer: keras.layers.Layer, around: _Surroundings) -> list[keras.layers.Layer] | None:
    if id(layer) not in around.shrinking_ids:
        return None
    padding = {"padding": "same"} if isinstance(layer, POOLING_LAYERS) else {}
    return [_with(layer, strides=(1, 1), **padding)]


def _wider(layer: keras.layers.Layer, around: _Surroundings) -> list[keras.layers.Layer] | None:
    if kernel(layer) is None or not around.is_hidden(layer):
        return None
    sizes = {key: WIDTH_FACTOR * layer.get_config()[key] for key in ("filters", "units") if key in layer.get_config()}
    return [_with(layer, **sizes)] if sizes else None


_PATCHES = {
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "he_normal": _he_normal,
    "batch_norm": _batch_norm,
    "logits": _logits,
    "trainable": _trainable,
    "norm_momentum": _norm_momentum,
    "no_dropout": _no_dropout,
    "no_penalty": _no_penalty,
    "activations": _activations,
    "less_pooling": _less_pooling,
    "wider": _wider,
}


# Rebuilding a network with one patch.


def _layer_edit(network: keras.Model, name: str, makes_output: bool = True) -> LayerEdit:
    """The patch `name` for the layers of `network`; `makes_output` is False for a model inside the hidden layers."""
    around = _Surroundings(
        frozenset(id(layer) for layer in output_layers(network)) if makes_output else frozenset(),
        any(isinstance(layer, NORM_LAYERS) for layer in network._flatten_layers()),
        frozenset(map(id, layers_without_activation(network))) if name == "activations" else frozenset(),
        frozenset(map(id, shrinking_layers(network))) if name == "less_pooling" else frozenset(),
    )
    patch = _PATCHES[name]

    def edit(layer: keras.layers.Layer) -> list[keras.layers.Layer] | None:
        if is_users_own(layer):
            return None
        if not is_functional(layer):
            return patch(layer, around)
        inner_edit = _layer_edit(layer, name, makes_output and not around.is_hidden(layer))
        changes = any(inner_edit(inner) is not None for inner in _layers_without_inputs(layer))
        return [_rebuild(layer, inner_edit)] if changes else None

    return edit


def _rebuild(network: keras.Model, edit: LayerEdit) -> keras.Model:
    inputs = [layers.Input(each.shape[1:], dtype=each.dtype, name=each.name.split(":")[0]) for each in network.inputs]
    tensors = dict(zip((str(id(each)) for each in network.inputs), inputs, strict=True))
    new_layers: dict[int, list[keras.layers.Layer]] = {}
    for depth in sorted(network._nodes_by_depth, reverse=True):
        for node in network._nodes_by_depth[depth]:
            if node.is_input:
                continue
            if id(node.layer) not in new_layers:  # a layer with several calls is replaced once
                edited = edit(node.layer)
                new_layers[id(node.layer)] = [_copy(node.layer)] if edited is None else edited
            # As in Keras's own graph execution, each use of a tensor pops one entry of its list; 9 entries are enough.
            args, kwargs = node.map_arguments({key: [value] * 9 for key, value in tensors.items()})
            for layer in new_layers[id(node.layer)]:
                args, kwargs = (layer(*args, **kwargs),), {}
            outputs = args[0] if new_layers[id(node.layer)] else tf.nest.flatten(args)[0]
            tensors.update(zip(map(str, node.flat_output_ids), tf.nest.flatten(outputs), strict=True))
    rebuilt = keras.Model(inputs, tensors[str(id(network.outputs[0]))], name=network.name)
    for layer in network.layers:
        for new in new_layers.get(id(layer), []):
            if new is layer:
                continue
            same_shapes = [v.shape for v in new.weights] == [v.shape for v in layer.weights]
            if same_shapes and _initializers(new) == _initializers(layer):
                new.set_weights(layer.get_weights())
    return rebuilt


def _layers_without_inputs(network: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in network.layers if not isinstance(layer, layers.InputLayer)]


def _initializers(layer: keras.layers.Layer) -> dict[str, str]:
    """{argument: initializer}; of a layer of the user's own, nothing is known."""
    return (
        {}
        if is_users_own(layer)
        else {key: str(value) for key, value in layer.get_config().items() if key.endswith("_initializer")}
    )


def _copy(layer: keras.layers.Layer) -> keras.layers.Layer:
    return keras.models.clone_model(layer, clone_function=copy_layer) if is_functional(layer) else copy_layer(layer)


def _with(layer: keras.layers.Layer, **changes: object) -> keras.layers.Layer:
    return layer.__class__.from_config({**layer.get_config(), **changes})


# Describing the edits.


def _describe(network: keras.Model, edit: LayerEdit, name: str, makes_output: bool = True) -> list[str]:
    ends = output_layers(network) if makes_output else []
    lines = []
    for layer in network.layers:
        new = None if isinstance(layer, layers.InputLayer) else edit(layer)
        if new is not None and is_functional(layer):
            is_end = any(layer is each for each in ends)
            lines += _describe(layer, _layer_edit(layer, name, is_end), name, is_end)
        elif new is not None:
            lines.append(f"{type(layer).__name__} {layer.name!r}: {_difference(layer, new)}")
    return lines


def _difference(old: keras.layers.Layer, new: list[keras.layers.Layer]) -> str:
    """The edit from `old` to `new` as a person would write it: arguments that change, layers to add or remove."""
    if not new:
        return "remove it"
    if type(new[0]) is type(old):
        before, after = old.get_config(), new[0].get_config()
        words = [f"{key}={_plain(before[key])} -> {_plain(after[key])}" for key in before if before[key] != after[key]]
    else:
        words = [f"replace it by {type(new[0]).__name__}"]
    if len(new) > 1:
        words.append(f"then {' and '.join(type(layer).__name__ for layer in new[1:])}")
    return ", ".join(words)


def _plain(value: object) -> str:
    return repr(value["class_name"]) if isinstance(value, dict) and "class_name" in value else repr(value)
