"""The classic stack: stages of convolutions with BatchNorm, ReLU and Dropout, each followed by pooling."""

from __future__ import annotations

from collections.abc import Sequence

import tf_keras as keras

from models.layers import Dropout

layers = keras.layers


def conv(x, channels: int, regularizer=None, strides: int = 1):
    """3x3 convolution without bias, BatchNorm, ReLU."""
    x = layers.Conv2D(channels, 3, strides, "same", use_bias=False, kernel_regularizer=regularizer)(x)
    # 0.9 instead of Keras's 0.99: runs of a thousand steps end before that has forgotten its start.
    x = layers.BatchNormalization(momentum=0.9)(x)
    return layers.ReLU()(x)


def cnn(
    input_shape: tuple[int, int, int],
    classes: int,
    width: int = 32,
    depths: Sequence[int] = (2, 2, 2),
    multiples: Sequence[int] = (1, 2, 4),
    dropout: float = 0.0,
    l1: float = 0.0,
    l2: float = 0.0,
) -> keras.Model:
    """Stages of `depths` convolutions, `width` times `multiples` channels wide, each halved by pooling; logits out."""
    regularizer = keras.regularizers.L1L2(l1, l2) if l1 or l2 else None
    inputs = x = layers.Input(input_shape)
    for depth, multiple in zip(depths, multiples, strict=True):
        for _ in range(depth):
            x = conv(x, width * multiple, regularizer)
        x = layers.MaxPool2D(padding="same")(x)
        x = Dropout(dropout)(x) if dropout else x
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(8 * width, use_bias=False, kernel_regularizer=regularizer)(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = Dropout(dropout)(x) if dropout else x
    return keras.Model(inputs, layers.Dense(classes, kernel_regularizer=regularizer, name="logits")(x), name="cnn")
