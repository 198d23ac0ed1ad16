"""The first images through a fresh, throw-away network, forward and backward: what `network_checks` reads off.

    look = Look(config, data, *data_checks.first_batch(config, data))
    look.loss, look.outputs["conv2d"], look.gradients

The copy runs on one device, whatever the strategy, as training does: dropout on, BatchNorm by the batch.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import TrainConfig
from evenkeel.models.networks.layers import NORMS, trainable_kernel
from evenkeel.models.training import build_model
from evenkeel.pipeline.dataset import Dataset

layers = keras.layers
IMAGES, PIXELS, FEWEST = 32, 32 * 64 * 64, 8  # so many images, fewer of larger ones: a second at 224 pixels, not ten
HALF_SCALE = 2.0**10  # of the loss in float16, whose gradients would vanish: less than training's own first 2^15


class Look:
    """One batch through a fresh network, forward and backward.

    `seen` is what the first layer with a kernel gets, `logits` float32 [b, classes], `loss` the mean cross-entropy
    without smoothing, weights or penalties, `penalty` those, `outputs` {layer name: float32 output} of the network's
    own layers. `gradients` are of `loss` by the trainable variables, None where there is none.
    """

    def __init__(self, config: TrainConfig, data: Dataset, images: np.ndarray, labels: np.ndarray) -> None:
        """`images` and `labels` are the run's first, of which as many are looked at as are cheap."""
        count = min(IMAGES, max(FEWEST, PIXELS // config.data.image_size**2))
        self.images, self.labels = images[:count], labels[:count]
        self.model = build_model.behind_normalization(config, data)
        self.network: keras.Model = self.model.get_layer(self.model.name)
        self.classes = len(data.classes)
        self.layers = [
            layer for layer in self.network._flatten_layers(include_self=False) if not isinstance(layer, keras.Model)
        ]
        self.variables = self.model.trainable_variables
        self.half = keras.mixed_precision.global_policy().compute_dtype == "float16"
        self.scale = HALF_SCALE if self.half else 1.0
        self.normal = self.model.get_layer("normalize")(self.images)
        self.seen = first_seen(self.network, self.normal)
        taps = {layer.name: layer.get_output_at(0) for layer in self.network.layers if _one_output(layer)}
        self._taps = keras.Model(self.network.inputs, {"logits": self.network.outputs[0], "outputs": taps})
        with tf.GradientTape() as tape:
            found = self._taps(self.normal, training=True)
            logits = tf.cast(found["logits"], tf.float32)
            loss = self.cross_entropy(logits)
            scaled = self.scale * loss
        self.gradients = self.unscaled(tape.gradient(scaled, self.variables))
        self.logits, self.loss = logits.numpy(), float(loss)
        self.penalty = float(tf.add_n([0.0, *self.model.losses]))
        self.outputs = {name: tf.cast(output, tf.float32) for name, output in found["outputs"].items()}
        self.kernels = [layer for layer in self.layers if trainable_kernel(layer) is not None]
        self.normalized = any(isinstance(layer, NORMS) for layer in self.layers)

    def cross_entropy(self, logits: tf.Tensor) -> tf.Tensor:
        labels = self.labels[: logits.shape[0]]
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))

    def unscaled(self, gradients: list[tf.Tensor | None]) -> list[tf.Tensor | None]:
        return [None if g is None else tf.convert_to_tensor(g) / self.scale for g in gradients]

    def step(
        self, optimizer: keras.optimizers.Optimizer, images: int = IMAGES
    ) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
        """The loss of the first `images` and its gradients, which the weights then follow."""
        with tf.GradientTape() as tape:
            logits = self.network(self.model.get_layer("normalize")(self.images[:images]), training=True)
            loss = self.cross_entropy(tf.cast(logits, tf.float32))
            scaled = self.scale * loss
        gradients = self.unscaled(tape.gradient(scaled, self.variables))
        known = [(g, v) for g, v in zip(gradients, self.variables, strict=True) if g is not None]
        optimizer.apply_gradients(known, skip_gradients_aggregation=True)
        return loss, gradients

    def flowing(self) -> list[tf.Tensor | None]:
        """The gradients, after up to 3 small steps where some are zero.

        Behind a scale or a classifier that starts at 0 none arrive before it has moved (Goyal et al. 2017, 5.1).
        """
        gradients = self.gradients
        optimizer = keras.optimizers.Adam(1e-3, jit_compile=False)
        for _ in range(3):
            if not any(g is not None and norm(g) == 0 for g in self._of_kernels(gradients)):
                break
            self.step(optimizer)
            _, gradients = self.step(optimizer)
        return gradients

    def _of_kernels(self, gradients: list[tf.Tensor | None]) -> list[tf.Tensor | None]:
        return [g for g, v in zip(gradients, self.variables, strict=True) if len(v.shape) >= 2]


def first_seen(model: keras.Model, images: tf.Tensor) -> np.ndarray:
    """float32: what the first layer with a kernel gets, in training; behind whatever rescales images before it."""
    for layer in model.layers:
        if any("kernel" in v.name for v in layer.weights):
            before = keras.Model(model.inputs, layer.get_input_at(0))
            seen = before(images, training=True)
            return first_seen(layer, seen) if isinstance(layer, keras.Model) else tf.cast(seen, tf.float32).numpy()
    return tf.cast(images, tf.float32).numpy()


def _one_output(layer: keras.layers.Layer) -> bool:
    return not isinstance(layer, layers.InputLayer) and keras.backend.is_keras_tensor(layer.get_output_at(0))


def norm(x: tf.Tensor) -> float:
    return float(tf.norm(tf.cast(tf.convert_to_tensor(x), tf.float32)))
