"""A plain CNN: stages of convolution, normalization and ReLU, each followed by pooling and dropout."""

from __future__ import annotations

from collections.abc import Sequence

import tf_keras as keras

from evenkeel.models.networks.blocks import ConvNormAct
from evenkeel.models.networks.layers import Dropout

layers = keras.layers


def cnn(
    input_shape: tuple[int, int, int],
    classes: int,
    width: int = 32,
    dropout: float = 0.0,
    conv: ConvNormAct | None = None,
    depths: Sequence[int] = (2, 2, 2),
    multiples: Sequence[int] = (1, 2, 4),
) -> keras.Model:
    """Builds a functional model: images [b, h, w, c] -> logits [b, classes].

    Stage i has `depths[i]` convolutions of `width * multiples[i]` channels; pooling then halves height and width.
    """
    conv = conv or ConvNormAct()
    inputs = x = layers.Input(input_shape)
    for depth, multiple in zip(depths, multiples, strict=True):
        for _ in range(depth):
            x = conv(x, width * multiple)
        x = layers.MaxPool2D(padding="same")(x)
        x = Dropout(dropout)(x) if dropout else x
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(8 * width, use_bias=False, kernel_regularizer=conv.regularizer)(x)
    x = layers.ReLU()(conv.normalization(8 * width)(x))
    x = Dropout(dropout)(x) if dropout else x
    return keras.Model(inputs, layers.Dense(classes, kernel_regularizer=conv.regularizer, name="logits")(x), name="cnn")
