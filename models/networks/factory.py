"""Creates the network that `model.name` asks for: one of evenkeel's, or the result of a function in the user's file."""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib

import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import RESNETS, ModelConfig
from evenkeel.models.networks.blocks import ConvNormAct
from evenkeel.models.networks.cnn import cnn
from evenkeel.models.networks.resnet import resnet, resnet9
from evenkeel.models.networks.surgery import apply_patches
from evenkeel.pipeline.errors import UsageError


def create_network(config: ModelConfig, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Creates a functional model, normalized images [b, h, w, c] -> logits [b, classes], with `config`'s patches.

    Raises:
      UsageError: the user's file or function fails, or the function does not return such a model; the images are too
        small for the network; or the network cannot be trained on several replicas.
    """
    return apply_patches(_create_unpatched(config, input_shape, classes), config.patches)


def _create_unpatched(config: ModelConfig, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    if ":" in config.name:
        return _create_user_network(config.name, input_shape, classes)
    if config.spectral_norm and tf.distribute.get_strategy().num_replicas_in_sync > 1:
        raise UsageError(
            "model.spectral_norm writes kernels in the forward pass, which several replicas cannot do:"
            " add --strategy.name=one or --nomodel.spectral_norm."
        )
    try:
        return _create_builtin_network(config, input_shape, classes)
    except ValueError as error:  # Keras raises it when a layer's output would be empty
        raise UsageError(
            f"model.name={config.name} cannot be built for images of {input_shape}: {_one_line(error)};"
            " use larger images."
        ) from error


def _create_builtin_network(config: ModelConfig, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    conv = ConvNormAct(config.norm, config.l1, config.l2, config.spectral_norm)
    if config.name in RESNETS:
        return resnet(
            config.name,
            input_shape,
            classes,
            width=config.width or 64,
            dropout=config.dropout,
            conv=dataclasses.replace(conv, epsilon=1e-5, initializer="he_normal"),
            stem=config.stem,
            zero_init=config.zero_init,
            stochastic_depth=config.stochastic_depth,
        )
    build = {"cnn": cnn, "resnet9": resnet9}[config.name]
    return build(input_shape, classes, width=config.width or 32, dropout=config.dropout, conv=conv)


def _create_user_network(name: str, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
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
    except Exception as error:  # the user's code may raise anything; its message is shown in one line
        message = f"model.name ({name}) failed with {type(error).__name__}: {_one_line(error)}; {remedy}"
        raise UsageError(message) from error
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


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
