"""Creates the network that `model.name` asks for: one of evenkeel's, or the result of a function in the user's file."""

from __future__ import annotations

import dataclasses

import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import RESNETS, ModelConfig
from evenkeel.models.networks.blocks import ConvNormAct
from evenkeel.models.networks.cnn import cnn
from evenkeel.models.networks.resnet import resnet, resnet9
from evenkeel.models.networks.surgery import apply_patches
from evenkeel.models.networks.users_network import create_users_network, one_line
from evenkeel.pipeline.errors import UsageError


def create_network(config: ModelConfig, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Creates a functional model, normalized images [b, h, w, c] -> logits [b, classes], with `config`'s patches.

    Raises:
      UsageError: the user's file or function fails, or the function does not return such a model; the images are too
        small for the network; or the network cannot be trained on several replicas.
    """
    return apply_patches(_create_unpatched(config, input_shape, classes), config.patches)


def _create_unpatched(config: ModelConfig, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    if config.is_users_own:
        return create_users_network(config.name, input_shape, classes)
    if config.spectral_norm and tf.distribute.get_strategy().num_replicas_in_sync > 1:
        raise UsageError(
            "model.spectral_norm writes kernels in the forward pass, which several replicas cannot do:"
            " add --strategy.name=one or --nomodel.spectral_norm."
        )
    try:
        return _create_builtin_network(config, input_shape, classes)
    except ValueError as error:  # Keras raises it when a layer's output would be empty
        raise UsageError(
            f"model.name={config.name} cannot be built for images of {input_shape}: {one_line(error)};"
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
