"""What a due step reports of each layer: gradients and updates against weights, activations, BatchNorm's statistics.

    probe = Probe(network)
    before = probe.weights()                   # in the step, on a replica, before the update
    values = probe.measured(...)               # after it: float32 [probe.size]
    probe.read(values)["gradient_norm"]        # on the host: {group: number}

A group is a layer with a kernel; groups and activations come in the order of the network, from its input on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.networks.activations import asymptotes
from evenkeel.models.networks.autograph import called
from evenkeel.models.networks.layers import trainable_kernel

IMAGES = 8  # of a replica's batch, in inference mode: a 16th of a forward pass over 128
STEP = ("inference_loss", "training_loss", "noise_scale")
GROUP = ("gradient_norm", "weight_norm", "update_norm", "moment_ratio")
ACTIVATION = ("dead", "saturated", "deviation")
NORM = ("shift", "spread", "log_variance")
NEAR = 0.02  # saturated: as near to an asymptote, in distances between the two (|x| > 3.9 for a sigmoid)


class Probe:
    """The places of a network that are looked at: `groups`, `activations` and `norms` are their names."""

    def __init__(self, network: keras.Model, variables: Sequence[tf.Variable], parts: int = 1) -> None:
        """`variables` are the trainable ones of the model being trained, in the order of its gradients.

        A step takes its batch in so many `parts`.
        """
        self._parts = parts
        layers = [layer for layer in network._flatten_layers(include_self=False) if not _has_layers(layer)]
        self._kernels = {layer.name: kernel for layer in layers if (kernel := trainable_kernel(layer)) is not None}
        # By identity: names need not be unique.
        self._at = [next(at for at, v in enumerate(variables) if v is kernel) for kernel in self._kernels.values()]
        self._norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
        # Only what the network itself calls has an output to be had; layers of a nested model have none in this graph.
        found = [(layer, asymptotes(layer)) for layer in network.layers]
        taps = {layer.name: (layer.get_output_at(0), bounds) for layer, bounds in found if bounds is not None}
        self._bounds = [bounds for _, bounds in taps.values()]
        seen = {"logits": network.outputs[0], "activations": [output for output, _ in taps.values()]}
        self._forward = keras.Model(network.inputs, seen)
        self.groups, self.activations, self.norms = list(self._kernels), list(taps), [each.name for each in self._norms]

    @property
    def size(self) -> int:
        """Numbers a step."""
        of = ((STEP, [""]), (GROUP, self.groups), (ACTIVATION, self.activations), (NORM, self.norms))
        return sum(len(names) * len(places) for names, places in of)

    def read(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """float32 [..., size] by name: STEP [...], GROUP [..., groups], ACTIVATION and NORM likewise.

        gradient_norm, weight_norm and update_norm are Euclidean. moment_ratio is the root mean square of g / sqrt(v),
        v being the second moment that the optimizer divides by (Wortsman et al. 2023, section 3.3: spikes of the loss
        follow 1 to 8 steps after it leaves 1 behind; NaN where the optimizer keeps none). dead is the share of channels
        that are zero on all images looked at, saturated the share of values at an asymptote, NaN for activations that
        have no such place; deviation the standard deviation of all values. shift is BatchNorm's mean over channels of
        |batch mean - moving mean| in moving standard deviations, spread that of log(batch variance / moving variance),
        log_variance that of log(moving variance). inference_loss and training_loss are of the same images. noise_scale
        is in images (McCandlish et al. 2018, appendix A.1), NaN on one replica.
        """
        found, at = {}, 0
        for names, places in ((GROUP, self.groups), (ACTIVATION, self.activations), (NORM, self.norms)):
            for name in names:
                found[name] = values[..., at : at + len(places)]
                at += len(places)
        return {**found, **{name: values[..., at + number] for number, name in enumerate(STEP)}}

    def named(self, values: np.ndarray) -> dict[str, float]:
        """The figures of one step by "figure/place", or by figure where there is no place."""
        places = {**dict.fromkeys(GROUP, self.groups), **dict.fromkeys(ACTIVATION, self.activations)}
        places.update(dict.fromkeys(NORM, self.norms))
        figures = self.read(values)
        named = {name: float(figures[name]) for name in STEP}
        for name, of in places.items():
            named.update({f"{name}/{place}": float(value) for place, value in zip(of, figures[name], strict=True)})
        return named

    # In the training step, on a replica.

    @property
    def watched(self) -> list[tf.Variable]:
        """What `measured` wants the values of before the update: kernels, BatchNorm's moving means and variances."""
        moving = [*(norm.moving_mean for norm in self._norms), *(norm.moving_variance for norm in self._norms)]
        return [*self._kernels.values(), *moving]

    def weights(self) -> list[tf.Tensor]:
        return [tf.identity(variable) for variable in self.watched]

    def measured(
        self,
        images: tf.Tensor,
        loss_of: Callable[[tf.Tensor], tf.Tensor],
        training_loss: tf.Tensor,
        noise_scale: tf.Tensor,
        gradients: Sequence[tf.Tensor],
        moments: Sequence[tf.Tensor],
        before: Sequence[tf.Tensor],
    ) -> tf.Tensor:
        """float32 [size], as `read` takes it apart.

        `images` are the network's inputs, `loss_of` their mean loss by logits; `gradients` and the optimizer's second
        `moments` are of all variables, with no moments for an optimizer that has none; `before` is what `weights` gave.
        """
        kernels = list(self._kernels.values())
        old = [tf.ensure_shape(value, v.shape) for value, v in zip(before, self.watched, strict=True)]
        first, then = len(kernels), len(kernels) + len(self._norms)
        old_weights, old_means, old_variances = old[:first], old[first:then], old[then:]
        of_kernels = [gradients[at] for at in self._at]
        missing = tf.constant(np.nan)
        ratios = [missing] * len(kernels)
        if moments:
            ratios = [_ratio(gradients[at], moments[at]) for at in self._at]
        groups = [
            *map(tf.norm, of_kernels),
            *map(tf.norm, kernels),
            *(tf.norm(kernel - old) for kernel, old in zip(kernels, old_weights, strict=True)),
            *ratios,
        ]
        seen = called(self._forward, images, training=False)
        outputs = [tf.cast(output, tf.float32) for output in seen["activations"]]
        bounded = list(zip(outputs, self._bounds, strict=True))
        activations = [
            *(dead_fraction(x) if low == 0 and high is None else missing for x, (low, high) in bounded),
            *(
                missing if low is None or high is None else saturated_fraction(x, low, high)
                for x, (low, high) in bounded
            ),
            *map(tf.math.reduce_std, outputs),
        ]
        kept = [norm.momentum**self._parts for norm in self._norms]
        means = [_of_batch(norm.moving_mean, *of) for norm, *of in zip(self._norms, old_means, kept, strict=True)]
        variances = [
            _of_batch(norm.moving_variance, *of) for norm, *of in zip(self._norms, old_variances, kept, strict=True)
        ]
        statistics = [
            *map(_shift, self._norms, means, old_means),
            *map(_spread, self._norms, variances, old_variances),
            *map(_log_variance, self._norms),
        ]
        step = [loss_of(tf.cast(seen["logits"], tf.float32)), training_loss, noise_scale]
        return tf.stack([*groups, *activations, *statistics, *step])


def noise_scale(of_replica: tf.Tensor, of_all: tf.Tensor, batch: tf.Tensor | float, replicas: int) -> tf.Tensor:
    """The batch, in images, at which noise and gradient are as strong as each other; NaN on one replica.

    From the squared gradient norm of one replica's `batch` images and that of all replicas' (McCandlish et al. 2018,
    appendix A.1): each estimates |G|^2 + trace / images. Either part may come out negative by chance.
    """
    if replicas == 1:
        return tf.constant(np.nan)
    many = batch * replicas
    gradient = (many * of_all - batch * of_replica) / (many - batch)
    noise = (of_replica - of_all) / (1 / batch - 1 / many)
    return noise / gradient


def _has_layers(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.Model)


def dead_fraction(x: tf.Tensor) -> tf.Tensor:
    """The share of channels of [b, ..., c] that are zero throughout."""
    largest = tf.reduce_max(tf.abs(x), axis=list(range(len(x.shape) - 1)))
    return tf.reduce_mean(tf.cast(largest < 1e-6, tf.float32))


def saturated_fraction(x: tf.Tensor, low: float, high: float) -> tf.Tensor:
    margin = NEAR * (high - low)
    return tf.reduce_mean(tf.cast((x < low + margin) | (x > high - margin), tf.float32))


def _ratio(gradient: tf.Tensor, moment: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(tf.reduce_mean(tf.square(gradient) / (moment + 1e-30)))


def _of_batch(moving: tf.Variable, old: tf.Tensor, kept: float) -> tf.Tensor:
    """The batch's own figure: moving = kept * old + (1 - kept) * of the batch, the mean over its parts if there are."""
    return (moving - kept * old) / (1 - kept)


def _shift(norm: keras.layers.BatchNormalization, mean: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
    """By how many moving standard deviations the batch's means differ from the moving ones before it."""
    return tf.reduce_mean(tf.abs(mean - old) * tf.math.rsqrt(norm.moving_variance + norm.epsilon))


def _spread(norm: keras.layers.BatchNormalization, variance: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
    """The logarithm of the batch's variances over the moving ones before it."""
    # What is lost of the batch in the rounding of a moving variance that is far too large may come out negative.
    variance = tf.maximum(variance, 1e-7 * old)
    return tf.reduce_mean(tf.math.log((variance + norm.epsilon) / (old + norm.epsilon)))


def _log_variance(norm: keras.layers.BatchNormalization) -> tf.Tensor:
    return tf.reduce_mean(tf.math.log(norm.moving_variance + norm.epsilon))
