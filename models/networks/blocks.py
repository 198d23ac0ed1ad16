"""Blocks of convolution, normalization and ReLU with the same settings throughout one network.

conv = ConvNormAct(norm="group", l2=1e-4)
x = conv(x, channels=64, strides=2)
"""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf
import tf_keras as keras

layers = keras.layers
# 0.9 instead of Keras's 0.99: a run of a thousand steps would end before 0.99 has forgotten the initial statistics.
NORM_MOMENTUM = 0.9
CHANNELS_PER_GROUP = 16  # at most 0.3 points below the best in Wu and He 2018, table 3; works for every width


@dataclasses.dataclass(frozen=True)
class ConvNormAct:
    """Builds the blocks of one network: convolution, normalization, activation.

    Attributes:
      norm: `batch`, `sync_batch` (batch statistics over all replicas) or `group` (Wu and He 2018).
      l1: L1 penalty on kernels.
      l2: L2 penalty on kernels.
      spectral: divide kernels by their largest singular value (Miyato et al. 2018).
      epsilon: added to the variance in batch normalization.
      initializer: Keras's name of the kernel initializer.
    """

    norm: str = "batch"
    l1: float = 0.0
    l2: float = 0.0
    spectral: bool = False
    epsilon: float = 1e-3
    initializer: str = "glorot_uniform"

    def __call__(
        self,
        x: tf.Tensor,
        channels: int,
        size: int = 3,
        strides: int = 1,
        activate: bool = True,
        scale: str = "ones",
    ) -> tf.Tensor:
        """Applies a convolution without bias, normalization with initial scales `scale`, and ReLU if `activate`."""
        conv = layers.Conv2D(
            channels,
            size,
            strides,
            "same",
            use_bias=False,
            kernel_initializer=self.initializer,
            kernel_regularizer=self.regularizer,
        )
        # float32, because the power iteration writes the kernel back and would round it to bfloat16.
        x = layers.SpectralNormalization(conv, dtype="float32")(x) if self.spectral else conv(x)
        x = self.normalization(channels, scale)(x)
        return layers.ReLU()(x) if activate else x

    def normalization(self, channels: int, scale: str = "ones") -> keras.layers.Layer:
        """A new normalization layer for `channels` channels with initial scales `scale`."""
        if self.norm == "group":
            groups = channels // math.gcd(channels, CHANNELS_PER_GROUP)
            # float32, because Keras computes the moments of bfloat16 inputs in bfloat16.
            return layers.GroupNormalization(groups, gamma_initializer=scale, epsilon=1e-5, dtype="float32")
        options = {"momentum": NORM_MOMENTUM, "epsilon": self.epsilon, "gamma_initializer": scale}
        # One replica has nothing to synchronize, and synchronized=True would give up the fused kernel.
        if self.norm == "sync_batch" and tf.distribute.get_strategy().num_replicas_in_sync > 1:
            # float32, because Keras computes E(x^2) - E(x)^2 of bfloat16 inputs in bfloat16.
            return layers.BatchNormalization(**options, synchronized=True, dtype="float32")
        return layers.BatchNormalization(**options)

    @property
    def regularizer(self) -> keras.regularizers.Regularizer | None:
        return keras.regularizers.L1L2(self.l1, self.l2) if self.l1 or self.l2 else None
