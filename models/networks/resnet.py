"""Residual networks: resnet9 for small images, and the published 18, 34 and 50 layers."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from evenkeel.models.networks.blocks import Convolutions
from evenkeel.models.networks.layers import Dropout

layers = keras.layers
LARGE = 96  # pixels; from here on a stem of stride 4 comes first, as in ImageNet's networks
DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}


def resnet9(
    input_shape: tuple[int, int, int],
    classes: int,
    width: int = 32,
    dropout: float = 0.0,
    conv: Convolutions | None = None,
) -> keras.Model:
    """The nine-layer network of DAWNBench's CIFAR-10 entries (Page 2018), `width` channels at the start; logits out.

    Its authors' width is 64; 32 trains 4 times faster and loses about a point of accuracy on 10,000 images.
    """
    conv = conv or Convolutions()
    inputs = x = layers.Input(input_shape)
    if min(input_shape[:2]) >= LARGE:
        x = layers.MaxPool2D(padding="same")(conv(x, width, strides=2))
    x = conv(x, width)
    x = layers.MaxPool2D(padding="same")(conv(x, 2 * width))
    x = layers.Add()([x, conv(conv(x, 2 * width), 2 * width)])
    x = layers.MaxPool2D(padding="same")(conv(x, 4 * width))
    x = layers.MaxPool2D(padding="same")(conv(x, 8 * width))
    x = layers.Add()([x, conv(conv(x, 8 * width), 8 * width)])
    x = layers.GlobalMaxPooling2D()(x)
    x = Dropout(dropout)(x) if dropout else x
    x = layers.Dense(classes, kernel_regularizer=conv.regularizer, name="logits")(x)
    # Maxima of rectified units are large: unscaled, the first loss would be several times ln(classes).
    return keras.Model(inputs, layers.Rescaling(0.125, name="scale")(x), name="resnet9")


def resnet(
    name: str,
    input_shape: tuple[int, int, int],
    classes: int,
    width: int = 64,
    dropout: float = 0.0,
    conv: Convolutions | None = None,
    stem: str = "auto",
    zero_init: bool = True,
    stochastic_depth: float = 0.0,
) -> keras.Model:
    """`resnet18`, `resnet34` or `resnet50` (He et al. 2015; 50 with the stride on the 3x3, "v1.5"); logits out.

    `stem` is `imagenet` (7x7 of stride 2, then pooling), `small` (one 3x3, for images of CIFAR's size) or `auto`.
    `zero_init` starts every block as the identity (Goyal et al. 2017, section 5.1). `stochastic_depth` is the chance
    to leave out the last block for an image; earlier ones get less, in proportion (Huang et al. 2016).
    """
    conv = conv or Convolutions(epsilon=1e-5, initializer="he_normal")
    block = bottleneck if name == "resnet50" else basic
    inputs = layers.Input(input_shape)
    if stem == "small" or (stem == "auto" and min(input_shape[:2]) < LARGE):
        x = conv(inputs, width)
    else:
        x = layers.MaxPool2D(3, 2, "same")(conv(inputs, width, size=7, strides=2))
    done, total = 0, sum(DEPTHS[name])
    for stage, depth in enumerate(DEPTHS[name]):
        for position in range(depth):
            done += 1
            strides = 2 if stage and position == 0 else 1
            skipped = stochastic_depth * done / total
            x = block(conv, x, width * 2**stage, strides, "zeros" if zero_init else "ones", skipped)
    x = layers.GlobalAveragePooling2D()(x)
    x = Dropout(dropout)(x) if dropout else x
    return keras.Model(inputs, layers.Dense(classes, kernel_regularizer=conv.regularizer, name="logits")(x), name=name)


def basic(conv: Convolutions, x: tf.Tensor, channels: int, strides: int, scale: str, skipped: float) -> tf.Tensor:
    """x + two 3x3 convolutions of x, whose last scales start at `scale`; without them for a share `skipped`."""
    y = conv(x, channels, strides=strides)
    y = conv(y, channels, activate=False, scale=scale)
    return joined(conv, x, y, strides, skipped)


def bottleneck(conv: Convolutions, x: tf.Tensor, channels: int, strides: int, scale: str, skipped: float) -> tf.Tensor:
    """x + convolutions 1x1, 3x3 and 1x1 of x, the last four times as wide; else as `basic`."""
    y = conv(x, channels, size=1)
    y = conv(y, channels, strides=strides)
    y = conv(y, 4 * channels, size=1, activate=False, scale=scale)
    return joined(conv, x, y, strides, skipped)


def joined(conv: Convolutions, x: tf.Tensor, y: tf.Tensor, strides: int, skipped: float) -> tf.Tensor:
    """relu(x + y), x projected where its shape differs."""
    if x.shape[-1] != y.shape[-1] or strides > 1:
        x = conv(x, y.shape[-1], size=1, strides=strides, activate=False)
    if skipped:
        y = Dropout(skipped, noise_shape=(None, 1, 1, 1))(y)  # one draw an image
    return layers.ReLU()(layers.Add()([x, y]))
