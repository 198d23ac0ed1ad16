"""Networks of other people, from their descriptions: tutorials, textbooks and papers.

    model = resnet20((32, 32, 3), classes=10)

They have the layers, initializers and penalties of the publication, and end in logits. Those of tutorials scale their
input from 0..255 to 0..1 themselves, as published. The BatchNorm of papers keeps 0.9 of its statistics at each step, as
in Torch, which they used.
"""

from __future__ import annotations

import tf_keras as keras

layers = keras.layers
Shape = tuple[int, int, int]


def lenet5(shape: Shape, classes: int) -> keras.Model:
    """LeNet-5 (LeCun et al. 1998) with tanh and mean pooling, and a softmax instead of radial basis functions."""
    return _lenet(shape, classes, "tanh", layers.AveragePooling2D, "lenet5")


def tensorflow_tutorial(shape: Shape, classes: int) -> keras.Model:
    """TensorFlow's tutorial "Convolutional Neural Network (CNN)" for CIFAR-10."""
    inputs = layers.Input(shape)
    x = layers.Rescaling(1 / 255)(inputs)
    for filters in (32, 64):
        x = layers.MaxPooling2D()(layers.Conv2D(filters, 3, activation="relu")(x))
    x = layers.Conv2D(64, 3, activation="relu")(x)
    x = layers.Dense(64, activation="relu")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="tensorflow_tutorial")


def pytorch_tutorial(shape: Shape, classes: int) -> keras.Model:
    """PyTorch's tutorial "Training a classifier" for CIFAR-10."""
    return _lenet(shape, classes, "relu", layers.MaxPooling2D, "pytorch_tutorial")


def _lenet(shape: Shape, classes: int, activation: str, pooling: type[keras.layers.Layer], name: str) -> keras.Model:
    x = inputs = layers.Input(shape)
    for filters in (6, 16):
        x = pooling()(layers.Conv2D(filters, 5, activation=activation)(x))
    x = layers.Flatten()(x)
    for units in (120, 84):
        x = layers.Dense(units, activation=activation)(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name=name)


def keras_cifar10(shape: Shape, classes: int) -> keras.Model:
    """Keras's example `cifar10_cnn` (until 2020): two pairs of convolutions with dropout, 512 hidden units."""
    x = inputs = layers.Input(shape)
    for filters in (32, 64):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.Conv2D(filters, 3, activation="relu")(x)
        x = layers.Dropout(0.25)(layers.MaxPooling2D()(x))
    x = layers.Dense(512, activation="relu")(layers.Flatten()(x))
    x = layers.Dropout(0.5)(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="keras_cifar10")


def keras_mnist(shape: Shape, classes: int) -> keras.Model:
    """Keras's example "Simple MNIST convnet"."""
    inputs = layers.Input(shape)
    x = layers.Rescaling(1 / 255)(inputs)
    for filters in (32, 64):
        x = layers.MaxPooling2D()(layers.Conv2D(filters, 3, activation="relu")(x))
    x = layers.Dropout(0.5)(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="keras_mnist")


def cats_and_dogs(shape: Shape, classes: int) -> keras.Model:
    """The small convnet for cats and dogs in Chollet's "Deep Learning with Python" (2017, section 5.2)."""
    inputs = layers.Input(shape)
    x = layers.Rescaling(1 / 255)(inputs)
    for filters in (32, 64, 128):
        x = layers.MaxPooling2D()(layers.Conv2D(filters, 3, activation="relu")(x))
    x = layers.Dropout(0.5)(layers.Flatten()(x))
    x = layers.Dense(512, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="cats_and_dogs")


def vgg_blocks(shape: Shape, classes: int) -> keras.Model:
    """Three VGG blocks of half the width, without normalization (Brownlee, "How to develop a CNN for CIFAR-10")."""
    return _vgg_blocks(shape, classes, norm=False)


def vgg_blocks_norm(shape: Shape, classes: int) -> keras.Model:
    """The same three VGG blocks with BatchNorm and rising dropout, as at the end of the article."""
    return _vgg_blocks(shape, classes, norm=True)


def _vgg_blocks(shape: Shape, classes: int, norm: bool) -> keras.Model:
    he = {"activation": "relu", "kernel_initializer": "he_uniform"}
    inputs = layers.Input(shape)
    x = layers.Rescaling(1 / 255)(inputs)
    for number, filters in enumerate((16, 32, 64)):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", **he)(x)
            x = layers.BatchNormalization()(x) if norm else x
        x = layers.MaxPooling2D()(x)
        x = layers.Dropout(0.2 + 0.1 * number)(x) if norm else x
    x = layers.Dense(128, **he)(layers.Flatten()(x))
    x = layers.Dropout(0.5)(layers.BatchNormalization()(x)) if norm else x
    return keras.Model(
        inputs, layers.Dense(classes, name="logits")(x), name="vgg_blocks_norm" if norm else "vgg_blocks"
    )


def all_convolutional(shape: Shape, classes: int) -> keras.Model:
    """All-CNN-C (Springenberg et al. 2015) with half its filters: strides instead of pooling, no hidden layer."""
    common = {"activation": "relu", "kernel_initializer": "he_normal", "padding": "same"}
    common["kernel_regularizer"] = keras.regularizers.L2(5e-4)
    inputs = layers.Input(shape)
    x = layers.Dropout(0.2)(inputs)
    for filters in (48, 96):
        x = layers.Conv2D(filters, 3, **common)(x)
        x = layers.Conv2D(filters, 3, **common)(x)
        x = layers.Conv2D(filters, 3, strides=2, **common)(x)
        x = layers.Dropout(0.5)(x)
    x = layers.Conv2D(96, 3, **common)(x)
    x = layers.Conv2D(96, 1, **common)(x)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(classes, 1, name="logits")(x))
    return keras.Model(inputs, x, name="all_convolutional")


def resnet20(shape: Shape, classes: int) -> keras.Model:
    """ResNet-20 v1 for CIFAR-10 (He et al. 2016, section 4.2), as in Keras's example `cifar10_resnet`."""
    return _cifar_resnet(shape, classes, shortcut=True)


def plain20(shape: Shape, classes: int) -> keras.Model:
    """The plain 20-layer network that He et al. (2016, section 4.2) compare with ResNet-20: it has no shortcuts."""
    return _cifar_resnet(shape, classes, shortcut=False)


def _cifar_resnet(shape: Shape, classes: int, shortcut: bool) -> keras.Model:
    common = {"kernel_initializer": "he_normal", "kernel_regularizer": keras.regularizers.L2(1e-4), "padding": "same"}
    inputs = layers.Input(shape)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(layers.Conv2D(16, 3, **common)(inputs)))
    for filters in (16, 32, 64):
        for block in range(3):
            strides = 2 if filters > 16 and block == 0 else 1
            y = layers.Conv2D(filters, 3, strides=strides, **common)(x)
            y = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(y))
            y = layers.BatchNormalization(momentum=0.9)(layers.Conv2D(filters, 3, **common)(y))
            if shortcut:
                x = layers.Conv2D(filters, 1, strides=strides, **common)(x) if strides > 1 else x
                y = layers.Add()([x, y])
            x = layers.ReLU()(y)
    x = layers.GlobalAveragePooling2D()(x)
    logits = layers.Dense(classes, kernel_initializer="he_normal", name="logits")(x)
    return keras.Model(inputs, logits, name="resnet20" if shortcut else "plain20")


def mobilenet(shape: Shape, classes: int) -> keras.Model:
    """MobileNet (Howard et al. 2017) of quarter width, with strides for images of 32 to 64 pixels."""
    inputs = layers.Input(shape)
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)
    x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(x))
    for filters, strides in ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1)):
        x = layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.Conv2D(filters, 1, use_bias=False)(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Dropout(0.001)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="mobilenet")


def densenet(shape: Shape, classes: int) -> keras.Model:
    """DenseNet with growth 12 (Huang et al. 2017), of three blocks of three layers instead of twelve."""
    common = {"kernel_initializer": "he_normal", "use_bias": False, "kernel_regularizer": keras.regularizers.L2(1e-4)}
    inputs = layers.Input(shape)
    x = layers.Conv2D(16, 3, padding="same", **common)(inputs)
    for block in range(3):
        for _ in range(3):
            y = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
            x = layers.Concatenate()([x, layers.Conv2D(12, 3, padding="same", **common)(y)])
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        if block < 2:
            x = layers.AveragePooling2D()(layers.Conv2D(x.shape[-1], 1, **common)(x))
    return keras.Model(
        inputs, layers.Dense(classes, name="logits")(layers.GlobalAveragePooling2D()(x)), name="densenet"
    )
