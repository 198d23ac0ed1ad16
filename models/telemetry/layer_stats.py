"""Statistics of each layer at a training step: gradient and update norms, activations, BatchNorm's statistics.

    stats = LayerStats(network, model.trainable_variables)
    before = stats.copy_variables()            # in the step, on a replica, before the update
    values = stats.compute(...)                # after the update: float32 [stats.size]
    stats.unpack(values)["gradient_norm"]      # on the host: [groups]

A group is a layer with a trainable kernel. Groups, activations and norms come in the order of the network's layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.networks.activations import asymptotes
from evenkeel.models.networks.autograph import call_with_autograph
from evenkeel.models.networks.layers import first_call, leaf_layers, trainable_kernel

LAYER_STATS_IMAGES = 8  # images of a replica's batch, in inference mode: 1/16 of a forward pass over 128 images
STEP_STATS = ("inference_loss", "training_loss", "noise_scale")
GROUP_STATS = ("gradient_norm", "weight_norm", "update_norm", "moment_ratio")
ACTIVATION_STATS = ("dead", "saturated", "deviation")
NORM_STATS = ("shift", "spread", "log_variance")
# A value is saturated within this distance of an asymptote, as a share of the distance between the two asymptotes
# (|x| > 3.9 for a sigmoid).
SATURATION_MARGIN = 0.02


class LayerStats:
    """Computes the statistics in the compiled step and names them on the host.

    Attributes:
      groups: names of the layers with a trainable kernel.
      activations: names of the layers whose activation has asymptotes.
      norms: names of the BatchNormalization layers.
    """

    def __init__(self, network: keras.Model, variables: Sequence[tf.Variable], parts: int = 1) -> None:
        """Finds the layers of `network`.

        Args:
          network: the network inside the model that is trained.
          variables: that model's trainable variables, in the order of its gradients.
          parts: number of parts in which a step processes its batch, one after another.
        """
        self._parts = parts
        layers = leaf_layers(network)
        self._kernels = {layer.name: kernel for layer in layers if (kernel := trainable_kernel(layer)) is not None}
        # Compared by identity: names need not be unique.
        self._kernel_indices = [
            next(index for index, v in enumerate(variables) if v is kernel) for kernel in self._kernels.values()
        ]
        self._norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
        # Only layers that the network itself calls have an output in its graph; layers of a nested model have none.
        layer_asymptotes = [(layer, asymptotes(layer)) for layer in network.layers]
        taps = {
            layer.name: (first_call(network, layer)[1], bounds)
            for layer, bounds in layer_asymptotes
            if bounds is not None
        }
        self._bounds = [bounds for _, bounds in taps.values()]
        outputs = {"logits": network.outputs[0], "activations": [output for output, _ in taps.values()]}
        self._forward = keras.Model(network.inputs, outputs)
        self.groups, self.activations, self.norms = list(self._kernels), list(taps), [each.name for each in self._norms]

    @property
    def size(self) -> int:
        """How many numbers the statistics of one step have."""
        return sum(len(names) * len(layers) for names, layers in self._columns()) + len(STEP_STATS)

    def unpack(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Splits `values`, float32 [..., size], into {name: values of the statistic}.

        Returns:
          Arrays [..., groups], [..., activations], [..., norms], and [...] for statistics of the whole step:

          gradient_norm, weight_norm, update_norm: Euclidean norms of a kernel's gradient, of the kernel, of its update.
          moment_ratio: root mean square of g / sqrt(v), where v is the second moment that the optimizer divides by.
            Spikes of the loss follow 1 to 8 steps after this ratio rises above 1 (Wortsman et al. 2023, section 3.3).
            NaN if the optimizer keeps no second moments.
          dead: share of channels that are zero on all LAYER_STATS_IMAGES images; NaN if the activation is not 0 for
            large negative inputs, or is bounded above.
          saturated: share of values at an asymptote; NaN if the activation does not have two asymptotes.
          deviation: standard deviation of all values.
          shift: mean over BatchNorm's channels of |batch mean - moving mean| in moving standard deviations.
          spread: mean over channels of log(batch variance / moving variance).
          log_variance: mean over channels of log(moving variance).
          inference_loss, training_loss: the loss of the same images in inference mode and in training mode.
          noise_scale: gradient noise scale in images (McCandlish et al. 2018, appendix A.1); NaN on one replica.
        """
        stats, start = {}, 0
        for names, layers in self._columns():
            for name in names:
                stats[name] = values[..., start : start + len(layers)]
                start += len(layers)
        return {**stats, **{name: values[..., start + index] for index, name in enumerate(STEP_STATS)}}

    def to_scalars(self, values: np.ndarray) -> dict[str, float]:
        """Returns {"statistic/layer" or, for the whole step, "statistic": value} of one step's `values` [size]."""
        stats = self.unpack(values)
        scalars = {name: float(stats[name]) for name in STEP_STATS}
        for names, layers in self._columns():
            for name in names:
                scalars.update(
                    {f"{name}/{layer}": float(value) for layer, value in zip(layers, stats[name], strict=True)}
                )
        return scalars

    def _columns(self) -> tuple[tuple[Sequence[str], list[str]], ...]:
        """Returns (names of statistics, names of the layers with them), in the order of a step's numbers."""
        return (GROUP_STATS, self.groups), (ACTIVATION_STATS, self.activations), (NORM_STATS, self.norms)

    # Called in the training step, on a replica.

    @property
    def compared_variables(self) -> list[tf.Variable]:
        """The variables that `compute` compares before and after an update: kernels, moving means and variances."""
        moving = [*(norm.moving_mean for norm in self._norms), *(norm.moving_variance for norm in self._norms)]
        return [*self._kernels.values(), *moving]

    def copy_variables(self) -> list[tf.Tensor]:
        """Returns the current values of `compared_variables`."""
        return [tf.identity(variable) for variable in self.compared_variables]

    def compute(
        self,
        images: tf.Tensor,
        loss_of: Callable[[tf.Tensor], tf.Tensor],
        training_loss: tf.Tensor,
        noise_scale: tf.Tensor,
        gradients: Sequence[tf.Tensor],
        moments: Sequence[tf.Tensor],
        before: Sequence[tf.Tensor],
    ) -> tf.Tensor:
        """Computes the statistics of this step, float32 [size]; `unpack` names them.

        Args:
          images: inputs of the network [LAYER_STATS_IMAGES, h, w, c].
          loss_of: computes the mean loss of the images from their logits.
          training_loss: the mean loss of these images in training mode.
          noise_scale: see `gradient_noise_scale`.
          gradients: gradients of all trainable variables.
          moments: the optimizer's second moments of all trainable variables; empty if it keeps none.
          before: what `copy_variables` returned before the update.
        """
        old = [tf.ensure_shape(value, v.shape) for value, v in zip(before, self.compared_variables, strict=True)]
        kernels, norms = len(self._kernels), len(self._norms)
        old_kernels, old_means, old_variances = old[:kernels], old[kernels : kernels + norms], old[kernels + norms :]
        missing = tf.constant(np.nan)
        groups = self._group_stats(gradients, moments, old_kernels, missing)
        outputs = call_with_autograph(self._forward, images, training=False)
        activations = self._activation_stats(
            [tf.cast(output, tf.float32) for output in outputs["activations"]], missing
        )
        statistics = self._norm_stats(old_means, old_variances)
        step = [loss_of(tf.cast(outputs["logits"], tf.float32)), training_loss, noise_scale]
        return tf.stack([*groups, *activations, *statistics, *step])

    def _group_stats(
        self,
        gradients: Sequence[tf.Tensor],
        moments: Sequence[tf.Tensor],
        old_kernels: Sequence[tf.Tensor],
        missing: tf.Tensor,
    ) -> list[tf.Tensor]:
        kernels = list(self._kernels.values())
        ratios = [missing] * len(kernels)
        if moments:
            ratios = [_moment_ratio(gradients[index], moments[index]) for index in self._kernel_indices]
        return [
            *(tf.norm(gradients[index]) for index in self._kernel_indices),
            *map(tf.norm, kernels),
            *(tf.norm(kernel - old) for kernel, old in zip(kernels, old_kernels, strict=True)),
            *ratios,
        ]

    def _activation_stats(self, outputs: Sequence[tf.Tensor], missing: tf.Tensor) -> list[tf.Tensor]:
        bounded = list(zip(outputs, self._bounds, strict=True))
        return [
            *(dead_fraction(x) if low == 0 and high is None else missing for x, (low, high) in bounded),
            *(
                missing if low is None or high is None else saturated_fraction(x, low, high)
                for x, (low, high) in bounded
            ),
            *map(tf.math.reduce_std, outputs),
        ]

    def _norm_stats(self, old_means: Sequence[tf.Tensor], old_variances: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        momenta = [norm.momentum**self._parts for norm in self._norms]
        means = [
            _batch_statistic(norm.moving_mean, old, momentum)
            for norm, old, momentum in zip(self._norms, old_means, momenta, strict=True)
        ]
        variances = [
            _batch_statistic(norm.moving_variance, old, momentum)
            for norm, old, momentum in zip(self._norms, old_variances, momenta, strict=True)
        ]
        return [
            *map(_shift, self._norms, means, old_means),
            *map(_spread, self._norms, variances, old_variances),
            *map(_log_variance, self._norms),
        ]


def gradient_noise_scale(
    replica_square: tf.Tensor, global_square: tf.Tensor, replica_batch: tf.Tensor | float, replicas: int
) -> tf.Tensor:
    """The batch size, in images, at which noise and gradient are equally strong; NaN on one replica.

    `replica_square` is the squared norm of the gradient of one replica's `replica_batch` images, and `global_square` is
    that of all replicas' images. Each is on average |G|^2 + trace / images, where G is the true gradient and `trace` is
    the trace of its covariance. These two equations give both unknowns (McCandlish et al. 2018, appendix A.1). Either
    estimate may be negative by chance.
    """
    if replicas == 1:
        return tf.constant(np.nan)
    global_batch = replica_batch * replicas
    gradient = (global_batch * global_square - replica_batch * replica_square) / (global_batch - replica_batch)
    noise = (replica_square - global_square) / (1 / replica_batch - 1 / global_batch)
    return noise / gradient


def dead_fraction(x: tf.Tensor) -> tf.Tensor:
    """The share of channels of x [b, ..., c] that are zero everywhere."""
    largest = tf.reduce_max(tf.abs(x), axis=list(range(len(x.shape) - 1)))
    return tf.reduce_mean(tf.cast(largest < 1e-6, tf.float32))


def saturated_fraction(x: tf.Tensor, low: float, high: float) -> tf.Tensor:
    """The share of values of x within SATURATION_MARGIN of the asymptotes `low` and `high`."""
    margin = SATURATION_MARGIN * (high - low)
    return tf.reduce_mean(tf.cast((x < low + margin) | (x > high - margin), tf.float32))


def _moment_ratio(gradient: tf.Tensor, moment: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(tf.reduce_mean(tf.square(gradient) / (moment + 1e-30)))


def _batch_statistic(moving: tf.Variable, old: tf.Tensor, momentum: float) -> tf.Tensor:
    """Computes the batch's mean or variance from moving = momentum * old + (1 - momentum) * batch.

    If the batch is processed in parts, the result is a mean over the parts.
    """
    return (moving - momentum * old) / (1 - momentum)


def _shift(norm: keras.layers.BatchNormalization, mean: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.abs(mean - old) * tf.math.rsqrt(norm.moving_variance + norm.epsilon))


def _spread(norm: keras.layers.BatchNormalization, variance: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
    # If the moving variance is far too large, rounding loses the batch's variance, which may come out negative.
    variance = tf.maximum(variance, 1e-7 * old)
    return tf.reduce_mean(tf.math.log((variance + norm.epsilon) / (old + norm.epsilon)))


def _log_variance(norm: keras.layers.BatchNormalization) -> tf.Tensor:
    return tf.reduce_mean(tf.math.log(norm.moving_variance + norm.epsilon))
