"""Residual networks: resnet9 for small images, and the published resnet18, resnet34 and resnet50."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from evenkeel.models.networks.blocks import ConvNormAct
from evenkeel.models.networks.layers import Dropout

layers = keras.layers
LARGE_STEM_MIN_PIXELS = 96  # from this image side on, networks begin with a stem of stride 4, as for ImageNet
BLOCKS_PER_STAGE = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}


def resnet9(
    input_shape: tuple[int, int, int],
    classes: int,
    width: int = 32,
    dropout: float = 0.0,
    conv: ConvNormAct | None = None,
) -> keras.Model:
    """The nine-layer network of DAWNBench's CIFAR-10 entries (Page 2018): images [b, h, w, c] -> logits [b, classes].

    `width` is the number of channels of the first convolution. Page uses 64; 32 trains 4 times faster and loses about
    one point of accuracy on 10,000 images.
    """
    conv = conv or ConvNormAct()
    inputs = x = layers.Input(input_shape)
    if min(input_shape[:2]) >= LARGE_STEM_MIN_PIXELS:
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
    # Maxima of ReLU outputs are large: without this scale the first loss would be several times ln(classes).
    return keras.Model(inputs, layers.Rescaling(0.125, name="scale")(x), name="resnet9")


def resnet(
    name: str,
    input_shape: tuple[int, int, int],
    classes: int,
    width: int = 64,
    dropout: float = 0.0,
    conv: ConvNormAct | None = None,
    stem: str = "auto",
    zero_init: bool = True,
    stochastic_depth: float = 0.0,
) -> keras.Model:
    """`resnet18`, `resnet34` or `resnet50` (He et al. 2015): images [b, h, w, c] -> logits [b, classes].

    resnet50 is "v1.5": the stride is in the 3x3 convolution.

    Args:
      width: channels of the first convolution.
      dropout: share of units dropped before the classifier.
      stem: `imagenet` (7x7 of stride 2, then pooling), `small` (one 3x3, for images of CIFAR's size), or `auto`, which
        chooses by the image size.
      zero_init: start every block as the identity (Goyal et al. 2017, section 5.1).
      stochastic_depth: probability of dropping the last block for an image; for earlier blocks it falls in proportion
        to their position (Huang et al. 2016).
    """
    conv = conv or ConvNormAct(epsilon=1e-5, initializer="he_normal")
    block = bottleneck_block if name == "resnet50" else basic_block
    inputs = layers.Input(input_shape)
    if stem == "small" or (stem == "auto" and min(input_shape[:2]) < LARGE_STEM_MIN_PIXELS):
        x = conv(inputs, width)
    else:
        x = layers.MaxPool2D(3, 2, "same")(conv(inputs, width, size=7, strides=2))
    number, total = 0, sum(BLOCKS_PER_STAGE[name])
    for stage, depth in enumerate(BLOCKS_PER_STAGE[name]):
        for position in range(depth):
            number += 1
            strides = 2 if stage and position == 0 else 1
            drop_rate = stochastic_depth * number / total
            x = block(conv, x, width * 2**stage, strides, "zeros" if zero_init else "ones", drop_rate)
    x = layers.GlobalAveragePooling2D()(x)
    x = Dropout(dropout)(x) if dropout else x
    return keras.Model(inputs, layers.Dense(classes, kernel_regularizer=conv.regularizer, name="logits")(x), name=name)


def basic_block(
    conv: ConvNormAct, x: tf.Tensor, channels: int, strides: int, scale: str, drop_rate: float
) -> tf.Tensor:
    """The residual block of resnet18 and resnet34: relu(x + branch), where the branch is two 3x3 convolutions of x.

    `scale` initializes the scales of the branch's last normalization; `drop_rate` is the probability, for each image,
    of dropping the branch.
    """
    branch = conv(x, channels, strides=strides)
    branch = conv(branch, channels, activate=False, scale=scale)
    return _add_shortcut(conv, x, branch, strides, drop_rate)


def bottleneck_block(
    conv: ConvNormAct, x: tf.Tensor, channels: int, strides: int, scale: str, drop_rate: float
) -> tf.Tensor:
    """The residual block of resnet50, like `basic_block`; its branch is a 1x1, a 3x3, and a 1x1 to 4 * channels."""
    branch = conv(x, channels, size=1)
    branch = conv(branch, channels, strides=strides)
    branch = conv(branch, 4 * channels, size=1, activate=False, scale=scale)
    return _add_shortcut(conv, x, branch, strides, drop_rate)


def _add_shortcut(conv: ConvNormAct, x: tf.Tensor, branch: tf.Tensor, strides: int, drop_rate: float) -> tf.Tensor:
    """Returns relu(x + branch); a 1x1 convolution projects x if the shapes differ."""
    if x.shape[-1] != branch.shape[-1] or strides > 1:
        x = conv(x, branch.shape[-1], size=1, strides=strides, activate=False)
    if drop_rate:
        branch = Dropout(drop_rate, noise_shape=(None, 1, 1, 1))(branch)  # one draw per image
    return layers.ReLU()(layers.Add()([x, branch]))
