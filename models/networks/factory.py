"""The network a configuration names: one of ours, or a function out of the user's own file."""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib
from typing import TYPE_CHECKING

import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import RESNETS, ModelConfig
from evenkeel.models.networks.blocks import Convolutions
from evenkeel.models.networks.cnn import cnn
from evenkeel.models.networks.resnet import resnet, resnet9
from evenkeel.models.networks.surgery import patched
from evenkeel.pipeline.errors import UsageError

if TYPE_CHECKING:
    pass


def create(config: ModelConfig, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """A functional model: normalized images [b, h, w, c] -> logits [b, classes].

    Raises:
      UsageError: the user's file, function or what it returns is not usable.
    """
    return patched(_as_named(config, input_shape, classes), config.patches)


def _as_named(config: ModelConfig, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    if ":" in config.name:
        return _users(config.name, input_shape, classes)
    if config.spectral_norm and tf.distribute.get_strategy().num_replicas_in_sync > 1:
        raise UsageError(
            "model.spectral_norm writes kernels in the forward pass, which several replicas cannot:"
            " give --strategy.name=one or turn it off."
        )
    try:
        return _ours(config, input_shape, classes)
    except ValueError as error:  # Keras's own shape arithmetic
        raise UsageError(
            f"model.name={config.name} cannot be built for images of {input_shape}: {_line(error)}; use larger images."
        ) from error


def _ours(config: ModelConfig, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    shared = Convolutions(config.norm, config.l1, config.l2, config.spectral_norm)
    if config.name in RESNETS:
        return resnet(
            config.name,
            input_shape,
            classes,
            width=config.width or 64,
            dropout=config.dropout,
            conv=dataclasses.replace(shared, epsilon=1e-5, initializer="he_normal"),
            stem=config.stem,
            zero_init=config.zero_init,
            stochastic_depth=config.stochastic_depth,
        )
    build = {"cnn": cnn, "resnet9": resnet9}[config.name]
    return build(input_shape, classes, width=config.width or 32, dropout=config.dropout, conv=shared)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _users(name: str, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    path, _, function = name.rpartition(":")
    remedy = "it must be path/to/file.py:function, called with (input_shape, classes)."
    if not pathlib.Path(path).is_file():
        raise UsageError(f"model.name ({name}): there is no file {path}; {remedy}")
    spec = importlib.util.spec_from_file_location("users_model", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"model.name ({name}): {path} is not a Python file; {remedy}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        build = getattr(module, function, None)
        model = build(input_shape, classes) if callable(build) else None
    except Exception as error:  # whatever the user's code raises is the user's to see, in a line
        raise UsageError(f"model.name ({name}) failed with {type(error).__name__}: {_line(error)}; {remedy}") from error
    if not callable(build):
        raise UsageError(f"model.name ({name}): {path} has no function {function!r}; {remedy}")
    if not isinstance(model, keras.Model) or not getattr(model, "_is_graph_network", False):
        raise UsageError(
            f"model.name ({name}) returned {type(model).__module__}.{type(model).__name__}:"
            " it must return a functional model of tf_keras (import tf_keras as keras; keras.Model(inputs, outputs))."
        )
    if len(model.inputs) != 1 or tuple(model.input_shape[1:]) != tuple(input_shape):
        raise UsageError(f"model.name ({name}) takes {model.input_shape}: it must take one image of {input_shape}.")
    if len(model.outputs) != 1 or tuple(model.output_shape[1:]) != (classes,):
        raise UsageError(
            f"model.name ({name}) has outputs of shape {model.output_shape}; the data has {classes} classes:"
            f" it must end in {classes} logits."
        )
    return model
