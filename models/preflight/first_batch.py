"""Runs the first batch forward and backward through a throw-away copy of the network, for `network_checks`.

    batch_pass = FirstBatchPass(config, data, *image_checks.read_first_batch(config, data))
    batch_pass.loss, batch_pass.outputs["conv2d"], batch_pass.gradients

The copy runs on one device, whatever the strategy, and in training mode: with dropout and BatchNorm's batch statistics.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import TrainConfig
from evenkeel.models.networks.layers import NORM_LAYERS, first_call, is_functional, leaf_layers, trainable_kernel
from evenkeel.models.training import build_model
from evenkeel.pipeline.dataset import Dataset

layers = keras.layers
MIN_IMAGES, MAX_IMAGES = 8, 32
MAX_PIXELS = 32 * 64 * 64  # of all images, if more than MIN_IMAGES: a pass takes a second at 224 pixels, not ten
FLOAT16_LOSS_SCALE = 2.0**10  # keeps float16 gradients from vanishing; below 2^15, the first scale of training


class FirstBatchPass:
    """One batch through a fresh network, forward and backward.

    Attributes:
      images, labels: the batch, uint8 [b, h, w, c] and int64 [b].
      classes: number of classes.
      model: the StableModel around `network`.
      network: the copy; `train_step` changes its weights.
      layers: the layers of `network`, including layers of nested models.
      kernel_layers: the layers with a trainable kernel, in order.
      has_normalization: whether there is a normalization layer.
      uses_float16: whether the network computes in float16.
      variables: the trainable variables of `model`.
      first_layer_input: float32; input of the first layer with a kernel.
      outputs: {layer: float32 output} of the network's top-level layers.
      logits: float32 [b, classes].
      loss: mean cross-entropy in nats, without label smoothing, class weights or penalties.
      penalty: the sum of penalties on weights.
      gradients: gradients of `loss` for each of `variables`; None if `loss` does not depend on the variable.
    """

    def __init__(self, config: TrainConfig, data: Dataset, images: np.ndarray, labels: np.ndarray) -> None:
        """`images` and `labels` are the run's first batch; only its first 8 to 32 images are used, to save time."""
        count = min(MAX_IMAGES, max(MIN_IMAGES, MAX_PIXELS // math.prod(config.data.image_shape)))
        self.images, self.labels = images[:count], labels[:count]
        self.classes = len(data.classes)
        self.model = build_model.wrap_network(config, data)
        self.network: keras.Model = self.model.get_layer(self.model.name)
        self.layers = leaf_layers(self.network)
        self.kernel_layers = [layer for layer in self.layers if trainable_kernel(layer) is not None]
        self.has_normalization = any(isinstance(layer, NORM_LAYERS) for layer in self.layers)
        self.variables = self.model.trainable_variables
        self.uses_float16 = keras.mixed_precision.global_policy().compute_dtype == "float16"
        self._loss_scale = FLOAT16_LOSS_SCALE if self.uses_float16 else 1.0
        normalized_images = self.model.get_layer("normalize")(self.images)
        self.first_layer_input = first_kernel_input(self.network, normalized_images)
        calls = {
            layer.name: first_call(self.network, layer)[1] for layer in self.network.layers if not _is_input(layer)
        }
        taps = {name: output for name, output in calls.items() if keras.backend.is_keras_tensor(output)}
        tapped = keras.Model(self.network.inputs, {"logits": self.network.outputs[0], "outputs": taps})
        with tf.GradientTape() as tape:
            results = tapped(normalized_images, training=True)
            logits = tf.cast(results["logits"], tf.float32)
            loss = self._cross_entropy(logits)
            scaled_loss = self._loss_scale * loss
        self.gradients = self._unscale(tape.gradient(scaled_loss, self.variables))
        self.logits, self.loss = logits.numpy(), float(loss)
        self.penalty = float(tf.add_n([0.0, *self.model.losses]))
        self.outputs = {name: tf.cast(output, tf.float32) for name, output in results["outputs"].items()}

    def train_step(
        self, optimizer: keras.optimizers.Optimizer, images: int = MAX_IMAGES
    ) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
        """Trains on the first `images` images; returns their loss before the update, and its gradients."""
        with tf.GradientTape() as tape:
            logits = self.network(self.model.get_layer("normalize")(self.images[:images]), training=True)
            loss = self._cross_entropy(tf.cast(logits, tf.float32))
            scaled_loss = self._loss_scale * loss
        gradients = self._unscale(tape.gradient(scaled_loss, self.variables))
        known = [(g, v) for g, v in zip(gradients, self.variables, strict=True) if g is not None]
        optimizer.apply_gradients(known, skip_gradients_aggregation=True)
        return loss, gradients

    def settled_gradients(self) -> list[tf.Tensor | None]:
        """Returns `gradients`; if a kernel's gradient is zero, the gradients after up to 3 pairs of small steps.

        A scale or a classifier that starts at 0 passes no gradient until it has changed (Goyal et al. 2017, 5.1).
        """
        gradients = self.gradients
        optimizer = keras.optimizers.Adam(1e-3, jit_compile=False)
        for _ in range(3):
            if not any(g is not None and l2_norm(g) == 0 for g in self._kernel_gradients(gradients)):
                break
            self.train_step(optimizer)
            _, gradients = self.train_step(optimizer)
        return gradients

    def _cross_entropy(self, logits: tf.Tensor) -> tf.Tensor:
        labels = self.labels[: logits.shape[0]]
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))

    def _unscale(self, gradients: list[tf.Tensor | None]) -> list[tf.Tensor | None]:
        return [None if g is None else tf.convert_to_tensor(g) / self._loss_scale for g in gradients]

    def _kernel_gradients(self, gradients: list[tf.Tensor | None]) -> list[tf.Tensor | None]:
        return [g for g, v in zip(gradients, self.variables, strict=True) if len(v.shape) >= 2]


def first_kernel_input(model: keras.Model, images: tf.Tensor) -> np.ndarray:
    """Returns the input of the first layer with a kernel, float32, in training mode and after rescaling layers.

    Of a layer of the user's own, with layers inside that are not in the graph, it is the layer's own input.
    """
    for layer in model.layers:
        if any("kernel" in v.name for v in layer.weights):
            before = keras.Model(model.inputs, first_call(model, layer)[0])
            x = before(images, training=True)
            return first_kernel_input(layer, x) if is_functional(layer) else tf.cast(x, tf.float32).numpy()
    return tf.cast(images, tf.float32).numpy()


def l2_norm(x: tf.Tensor) -> float:
    return float(tf.norm(tf.cast(tf.convert_to_tensor(x), tf.float32)))


def _is_input(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, layers.InputLayer)
