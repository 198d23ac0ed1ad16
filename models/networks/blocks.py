"""Convolution, normalization, activation: what the layers of one network share.

conv = Convolutions(norm="group", l2=1e-4)
x = conv(x, channels=64, strides=2)
"""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf
import tf_keras as keras

layers = keras.layers
# 0.9 instead of Keras's 0.99: runs of a thousand steps end before that has forgotten its start.
MOMENTUM = 0.9
GROUP = 16  # channels a group: within 0.3 points of the best of Wu and He 2018, table 3, and it fits every width


@dataclasses.dataclass(frozen=True)
class Convolutions:
    """Makes the convolutions of one network.

    `norm` is `batch`, `sync_batch` (batch statistics over all replicas) or `group` (Wu and He 2018). `spectral` divides
    kernels by their largest singular value (Miyato et al. 2018). `l1` and `l2` are penalties on kernels.
    """

    norm: str = "batch"
    l1: float = 0.0
    l2: float = 0.0
    spectral: bool = False
    epsilon: float = 1e-3
    initializer: str = "glorot_uniform"

    @property
    def regularizer(self) -> keras.regularizers.Regularizer | None:
        return keras.regularizers.L1L2(self.l1, self.l2) if self.l1 or self.l2 else None

    def __call__(
        self,
        x: tf.Tensor,
        channels: int,
        size: int = 3,
        strides: int = 1,
        activate: bool = True,
        scale: str = "ones",
    ) -> tf.Tensor:
        """Convolution without bias, normalization whose scales start at `scale`, ReLU if `activate`."""
        conv = layers.Conv2D(
            channels,
            size,
            strides,
            "same",
            use_bias=False,
            kernel_initializer=self.initializer,
            kernel_regularizer=self.regularizer,
        )
        # In float32, or its power iteration would round the kernels it writes back to bfloat16.
        x = layers.SpectralNormalization(conv, dtype="float32")(x) if self.spectral else conv(x)
        x = self.normalization(channels, scale)(x)
        return layers.ReLU()(x) if activate else x

    def normalization(self, channels: int, scale: str = "ones") -> keras.layers.Layer:
        if self.norm == "group":
            groups = channels // math.gcd(channels, GROUP)
            # In float32: Keras takes the moments of bfloat16 in bfloat16.
            return layers.GroupNormalization(groups, gamma_initializer=scale, epsilon=1e-5, dtype="float32")
        options = {"momentum": MOMENTUM, "epsilon": self.epsilon, "gamma_initializer": scale}
        # One replica has nothing to synchronize, and the fused kernel is not to be had with it.
        if self.norm == "sync_batch" and tf.distribute.get_strategy().num_replicas_in_sync > 1:
            # In float32: Keras takes E(x^2) - E(x)^2 of bfloat16 in bfloat16.
            return layers.BatchNormalization(**options, synchronized=True, dtype="float32")
        return layers.BatchNormalization(**options)
