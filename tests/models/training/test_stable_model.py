"""The training step: one device and two replicas, every precision, XLA on and off, many steps in one call.

`fit` and `assert_replicas_agree` serve the same tests on GPUs.
"""

from __future__ import annotations

import functools
import gc
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from tensorflow.python.framework.func_graph import FuncGraph

from evenkeel.models.config import (
    OPTIMIZERS,
    MixingConfig,
    OptimizerConfig,
)
from evenkeel.models.networks.blocks import ConvNormAct
from evenkeel.models.networks.cnn import cnn
from evenkeel.models.optim.losses import Crossentropy
from evenkeel.models.telemetry import step_row
from evenkeel.models.training.build_model import ONE_REPLICA_OPTIMIZERS
from evenkeel.models.training.stable_model import LossScaleOptimizer, StableModel
from evenkeel.models.training.step_options import StepOptions
from evenkeel.models.training.training_step import moving_statistics
from tests.factories import (
    BATCH,
    CLASSES,
    IMAGES,
    LABELS,
    SIZE,
    Network,
    Rows,
    batches,
    by_hand,
    compiled,
    fit,
    network_of,
    normed,
    one,
    plain,
    skip_without_addons,
    two,
    weights,
)


def copies(variable: Any) -> list[np.ndarray]:
    """A variable's value on every replica."""
    return [value.numpy() for value in getattr(variable, "values", [variable])]


def falls(rows: np.ndarray, to: float = 0.8) -> bool:
    """Whether the loss of the last steps is at most this share of the first ones'."""
    loss = step_row.column(rows, "loss")
    return bool(np.isfinite(loss).all() and loss[-4:].mean() < to * loss[:4].mean())


@functools.cache
def start_weights(devices: tf.distribute.Strategy) -> list[np.ndarray]:
    """Of every model that `compiled` makes of `plain`."""
    return weights(compiled(devices))


def assert_replicas_agree(devices: tf.distribute.Strategy, alone: tf.distribute.Strategy, name: str) -> None:
    """`devices` train the weights that `alone` trains, from the same global batches."""
    rate = {
        "sgd": 0.1,
        "sgdw": 0.1,
        "novograd": 0.01,
        "lamb": 0.02,
        "radam": 0.05,
        "adagrad": 0.02,
        "adadelta": 3.0,
    }.get(name, 0.005)
    # With RMSprop's default of 1e-7, gradients that are nearly 0 are divided by their own size, which turns differences
    # in the last bit into ones of 1.2e-5 on CPUs without AVX-512.
    epsilon = 1e-4 if name == "rmsprop" else OptimizerConfig.epsilon
    config = OptimizerConfig(
        name=name, learning_rate=rate, weight_decay=0.01, clip_norm=0.8, warmup_epochs=0.2, epsilon=epsilon
    )
    (model, rows), (reference, expected) = fit(devices, plain, config), fit(alone, plain, config)
    for weight, other, start in zip(weights(model), weights(reference), start_weights(alone), strict=True):
        np.testing.assert_allclose(weight, other, rtol=0, atol=1e-5)
        assert np.abs(weight - start).max() > 1e-2
    np.testing.assert_allclose(rows[:, :-1], expected[:, :-1], rtol=1e-4)
    norms = step_row.column(rows, "gradient_norm")
    assert norms.max() > 0.8 > norms.min(), "some steps are clipped and some are not"
    for variable in model.trainable_variables:
        values = copies(variable)
        assert len(values) == devices.num_replicas_in_sync
        assert all(np.array_equal(value, values[0]) for value in values)


@pytest.mark.slow
@pytest.mark.parametrize("name", skip_without_addons(name for name in OPTIMIZERS if name not in ONE_REPLICA_OPTIMIZERS))
def test_two_replicas_train_the_weights_of_one_device(name: str) -> None:
    assert_replicas_agree(two(), one(), name)


@pytest.mark.slow
def test_synchronized_statistics_are_those_of_the_whole_batch() -> None:
    def network(norm: str) -> Network:
        return lambda shape, classes: cnn(shape, classes, width=4, conv=ConvNormAct(norm), depths=(1,), multiples=(1,))

    config = OptimizerConfig(learning_rate=0.02, schedule="constant")
    alone, together, apart = (
        fit(devices, network(norm), config, steps=5)[0]
        for devices, norm in ((one(), "sync_batch"), (two(), "sync_batch"), (two(), "batch"))
    )

    def distance(model: StableModel) -> float:
        pairs = zip(weights(model), weights(alone), strict=True)
        return max(float(np.abs(value - other).max()) for value, other in pairs)

    assert distance(together) < 1e-4
    assert distance(apart) > 1e-3
    for state, other in zip(moving_statistics(together), moving_statistics(alone), strict=True):
        np.testing.assert_allclose(state.numpy(), other.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_two_replicas_train_the_weights_of_one_device_in_float16() -> None:
    def scaled(optimizer: Any) -> Any:
        return LossScaleOptimizer(optimizer, initial_scale=2**10, dynamic_growth_steps=8)

    def trained(devices: tf.distribute.Strategy, learning_rate: float) -> tuple[StableModel, np.ndarray]:
        config = OptimizerConfig(learning_rate=learning_rate, momentum=0, nesterov=False, schedule="constant")
        return fit(devices, plain, config, policy="mixed_float16", wrapped=scaled)

    def distance(model: StableModel, other: StableModel) -> float:
        return max(float(np.abs(a - b).max()) for a, b in zip(weights(model), weights(other), strict=True))

    (alone, expected), (model, rows), (doubled, _) = trained(one(), 0.02), trained(two(), 0.02), trained(one(), 0.04)
    assert distance(model, alone) < 1e-3
    assert distance(doubled, alone) > 2e-2, "a gradient summed twice would show"
    scales = step_row.column(rows, "loss_scale")
    assert scales.tolist() == step_row.column(expected, "loss_scale").tolist()
    assert scales.tolist() == [2.0**10] * 8 + [2.0**11] * 8 + [2.0**12] * 4
    norms = step_row.column(rows, "gradient_norm")  # after unscaling
    np.testing.assert_allclose(norms, step_row.column(expected, "gradient_norm"), rtol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("replicas", "policy", "xla"),
    [
        (1, "mixed_bfloat16", True),
        (1, "mixed_float16", False),
        (2, "mixed_bfloat16", False),
        (2, "mixed_float16", True),
    ],
)
def test_every_combination_of_two_options_lowers_the_loss(replicas: int, policy: str, xla: bool) -> None:
    devices = two() if replicas == 2 else one()
    model, rows = fit(devices, normed, policy=policy, xla=xla, steps=25, per_call=10)
    assert falls(rows)
    assert not step_row.column(rows, "nonfinite").any()
    assert step_row.column(rows, "loss_scale")[0] == (2**15 if policy == "mixed_float16" else 1)
    assert all(variable.dtype == tf.float32 for variable in model.trainable_variables)
    assert network_of(model).layers[1].compute_dtype == policy.removeprefix("mixed_")


@pytest.mark.slow
def test_xla_changes_no_result() -> None:
    (_, rows), (_, expected) = (fit(one(), normed, xla=xla, steps=10) for xla in (True, False))
    np.testing.assert_allclose(rows[:, :-1], expected[:, :-1], rtol=1e-3)


@pytest.fixture(scope="module")
def step_by_step() -> np.ndarray:
    """The rows of two epochs of 25 steps, one step per call."""
    return fit(one(), normed, steps=25, epochs=2, per_call=1)[1]


@pytest.mark.slow
@pytest.mark.parametrize("per_call", [10, 25, 40])
def test_steps_in_one_call_are_counted_and_reported_like_single_steps(per_call: int, step_by_step: np.ndarray) -> None:
    model, rows = fit(one(), normed, steps=25, epochs=2, per_call=per_call)
    assert int(model.optimizer.iterations.numpy()) == model.step == len(rows) == 50
    np.testing.assert_allclose(rows[:, :-1], step_by_step[:, :-1], rtol=1e-4)
    assert len(set(step_row.column(rows, "loss"))) == 50
    assert (step_row.column(rows, "gradient_norm") > 0).all()
    assert (step_row.column(rows, "input_wait") > 0).all()


def test_rows_hold_what_numpy_computes() -> None:
    config = OptimizerConfig(learning_rate=0.05, schedule="cosine", warmup_epochs=0.25)
    _, rows = fit(one(), plain, config)
    start = compiled(one(), plain, config)
    gradients = by_hand(start, IMAGES[:BATCH], LABELS[:BATCH])
    norm = np.sqrt(sum((gradient.astype(np.float64) ** 2).sum() for gradient in gradients))
    assert step_row.column(rows, "gradient_norm")[0] == pytest.approx(norm, rel=1e-5)
    logits = start(IMAGES[:BATCH]).numpy().astype(np.float64)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(BATCH), LABELS[:BATCH]]
    penalty = sum(1e-3 * (layer.kernel.numpy().astype(np.float64) ** 2).sum() for layer in kernels_with_penalty(start))
    assert penalty > 1e-3
    assert step_row.column(rows, "loss")[0] == pytest.approx(losses.mean(), rel=1e-5)
    assert step_row.column(rows, "penalty")[0] == pytest.approx(penalty, rel=1e-5)
    assert step_row.column(rows, "accuracy")[0] == pytest.approx((logits.argmax(1) == LABELS[:BATCH]).mean())
    steps = np.arange(20)
    expected = np.where(steps < 5, 0.05 * (steps + 1) / 5, 0.025 * (1 + np.cos(np.pi * (steps - 5) / 15)))
    np.testing.assert_allclose(step_row.column(rows, "learning_rate"), expected, rtol=1e-5, atol=1e-9)


def kernels_with_penalty(model: StableModel) -> list[keras.layers.Layer]:
    return [layer for layer in model._flatten_layers() if getattr(layer, "kernel_regularizer", None)]


@pytest.mark.slow
def test_accumulated_gradients_make_the_update_of_the_whole_batch() -> None:
    whole, expected = fit(one(), plain, OptimizerConfig(learning_rate=0.05), metrics=["accuracy"])
    for devices in (one(), two()):
        parted, rows = fit(devices, plain, OptimizerConfig(learning_rate=0.05, accumulate=5), metrics=["accuracy"])
        for weight, other in zip(weights(parted), weights(whole), strict=True):
            np.testing.assert_allclose(weight, other, rtol=0, atol=1e-5)
        np.testing.assert_allclose(rows[:, :-1], expected[:, :-1], rtol=1e-4)
        assert falls(rows)


@pytest.mark.slow
@pytest.mark.parametrize("xla", [False, True], ids=["plain", "xla"])
def test_each_part_of_a_batch_has_its_own_dropout_mask(xla: bool) -> None:
    """All images are one image: without Dropout's own masks both halves would give the same logits."""

    def dropped(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
        inputs = keras.Input(input_shape)
        x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(inputs))
        return keras.Model(inputs, keras.layers.Dense(classes)(x))

    model = compiled(one(), dropped, xla=xla, accumulate=2)
    images = tf.constant(np.repeat(IMAGES[:1], BATCH, axis=0))

    @tf.function
    def logits() -> tf.Tensor:
        return model.training_step.accumulate(images, tf.zeros([BATCH], tf.int64))[3]

    first, second = np.split(logits().numpy(), 2)
    assert np.abs(first - second).max() > 1e-2
    np.testing.assert_array_equal(logits().numpy(), np.concatenate([first, second]))
    model.data_step.assign_add(1)
    assert np.abs(logits().numpy()[: BATCH // 2] - second).max() > 1e-2, "step 1's first mask is not step 0's second"


def test_class_weights_weigh_examples() -> None:
    chosen = np.linspace(0, 3, CLASSES)
    _, rows = fit(one(), steps=1, per_call=1, class_weights=chosen)
    start = compiled(one())
    logits = tf.cast(start(IMAGES[:BATCH]), tf.float64)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS[:BATCH], logits).numpy()
    expected = (losses * chosen[LABELS[:BATCH]]).mean()
    assert step_row.column(rows, "loss")[0] == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def unmixed_loss() -> float:
    """The first loss without mixing."""
    return float(fit(one(), steps=1)[1][0, 0])


@pytest.mark.slow
@pytest.mark.parametrize("mixing", [MixingConfig(mixup=0.5), MixingConfig(cutmix=1.0)], ids=str)
def test_mixed_batches_train(mixing: MixingConfig, unmixed_loss: float) -> None:
    _, rows = fit(one(), steps=40, mixing=mixing, metrics=["accuracy"])
    assert falls(rows, to=0.95)
    assert abs(rows[0, 0] - unmixed_loss) > 1e-3


@pytest.mark.slow
def test_mixed_batches_train_and_repeat_on_two_replicas(unmixed_loss: float) -> None:
    """Of one replica, the tests of resumed runs show that they repeat."""
    mixing = MixingConfig(0.5, 1.0)
    (model, rows), (again, _) = (fit(two(), steps=40, mixing=mixing, metrics=["accuracy"]) for _ in range(2))
    assert falls(rows, to=0.95)
    for weight, other in zip(weights(model), weights(again), strict=True):
        np.testing.assert_array_equal(weight, other)
    assert abs(rows[0, 0] - unmixed_loss) > 1e-3


@keras.utils.register_keras_serializable("tests")
class Poison(keras.layers.Layer):
    """Makes an all-white image infinite."""

    def call(self, images: tf.Tensor) -> tf.Tensor:
        white = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True) > 1.7
        return images * tf.cast(tf.where(white, np.inf, 1.0), images.dtype)


def poisoned(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    inputs = keras.Input(input_shape)
    return keras.Model(inputs, normed(input_shape, classes)(Poison()(inputs)), name="poisoned")


class Snapshots(keras.callbacks.Callback):
    """All state on all replicas after every step: weights, BatchNorm's statistics, slots."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[dict[str, list[np.ndarray]]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        optimizer = self.model.optimizer.inner_optimizer
        slots = [v for v in optimizer.variables if v is not optimizer.iterations and v.shape.rank]
        state = [*network_of(self.model).variables, *slots]
        self.states.append({f"{number} {v.name}": copies(v) for number, v in enumerate(state)})


@pytest.mark.slow
@pytest.mark.parametrize("xla", [False, True], ids=["plain", "xla"])
def test_a_nonfinite_gradient_on_one_replica_skips_the_update_on_all(xla: bool) -> None:
    images = IMAGES.copy()
    images[2 * BATCH + BATCH // 2 + 3] = 255  # step 2, second replica
    snapshots = Snapshots()
    config = OptimizerConfig(name="adam", learning_rate=0.01, schedule="constant")
    model, rows = fit(two(), poisoned, config, images=images, steps=5, per_call=1, callbacks=[snapshots], xla=xla)
    assert step_row.column(rows, "nonfinite").tolist() == [0, 0, 1, 0, 0]
    assert model.step == int(model.optimizer.iterations.numpy()) == 5
    first, before, after, trained, _ = snapshots.states
    assert len(before) >= 3 * 6 + 2, "weights, two slots each, statistics"
    for name, values in before.items():
        assert len(values) == 2
        for value, later in zip(values, after[name], strict=True):
            np.testing.assert_array_equal(value, later, err_msg=name)
            assert np.isfinite(value).all(), name
    for moved in (first, trained):
        changed = {name for name in before if not np.array_equal(moved[name][0], before[name][0])}
        assert changed == before.keys()
    for variable in model.trainable_variables:
        first_copy, second_copy = copies(variable)
        np.testing.assert_array_equal(first_copy, second_copy)


class Constant(keras.layers.Layer):
    """Adds a weight that nothing trains, as Normalization holds its constants."""

    def build(self, input_shape: Any) -> None:
        self.offset = self.add_weight("offset", [], initializer="ones", trainable=False)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs + self.offset


def test_batchnorm_statistics_are_the_mean_over_all_replicas() -> None:
    def network(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
        inputs = keras.Input(input_shape)
        x = keras.layers.BatchNormalization(momentum=0.9, name="norm")(Constant()(inputs))
        return keras.Model(inputs, keras.layers.Dense(classes)(keras.layers.Flatten()(x)))

    model, _ = fit(two(), network, steps=1, per_call=1)
    norm = network_of(model).get_layer("norm")
    halves = ((IMAGES[:BATCH].astype(np.float64) - 127.5) / 74 + 1).reshape(2, -1, 3)
    for variable, expected in (
        (norm.moving_mean, 0.1 * halves.mean(axis=1).mean(axis=0)),
        (norm.moving_variance, 0.9 + 0.1 * halves.var(axis=1, ddof=1).mean(axis=0)),
    ):
        first, second = copies(variable)
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(first, expected, rtol=1e-4)


def test_a_gradient_whose_norm_overflows_skips_the_update_too() -> None:
    """Finite numbers whose squares do not add up in float32."""

    def huge(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
        inputs = keras.Input(input_shape)
        x = keras.layers.Rescaling(1e25)(keras.layers.Flatten()(inputs))
        return keras.Model(inputs, keras.layers.Dense(classes, kernel_initializer="zeros")(x))

    model, rows = fit(one(), huge, steps=2, per_call=2)
    assert step_row.column(rows, "nonfinite").tolist() == [1, 1]
    assert not model.trainable_variables[0].numpy().any()


def test_the_loss_scale_falls_where_float16_overflows() -> None:
    _, rows = fit(
        one(),
        policy="mixed_float16",
        wrapped=lambda optimizer: LossScaleOptimizer(optimizer, initial_scale=2.0**30),
        steps=40,
    )
    nonfinite, scales = step_row.column(rows, "nonfinite"), step_row.column(rows, "loss_scale")
    assert nonfinite[:5].all()
    assert nonfinite.sum() < 25
    np.testing.assert_array_equal(scales[1:], scales[:-1] * np.where(nonfinite[:-1], 0.5, 1))
    assert falls(rows[-20:], to=0.95)


def test_a_weight_without_a_gradient_is_named() -> None:
    def dead_end(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
        inputs = keras.Input(input_shape)
        x = keras.layers.Flatten()(inputs)
        stopped = keras.layers.Lambda(tf.stop_gradient)(keras.layers.Dense(3, name="lost")(x))
        return keras.Model(inputs, keras.layers.Dense(classes)(keras.layers.Concatenate()([x, stopped])))

    with pytest.raises(ValueError, match="no gradient reaches lost/kernel:0, lost/bias:0"):
        fit(one(), dead_end, steps=1)


def test_keras_metrics_and_callbacks_work() -> None:
    model = compiled(one(), metrics=[keras.metrics.SparseTopKCategoricalAccuracy(3, name="top3")])
    seen: list[int] = []
    counting = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    fed = batches(one(), IMAGES, LABELS)
    history = model.fit(fed, steps_per_epoch=10, epochs=2, verbose=0, callbacks=[counting]).history
    assert seen == [0, 1]
    assert history["top3"][1] > history["top3"][0] > 0
    assert history["loss"][1] < history["loss"][0]


def test_loss_and_accuracy_of_an_epoch_are_means_over_its_steps() -> None:
    model, rows = compiled(one(), per_call=3), Rows()
    fed = batches(one(), IMAGES, LABELS)
    history = model.fit(fed, steps_per_epoch=7, epochs=2, verbose=0, callbacks=[rows]).history
    steps = np.concatenate(rows.blocks).astype(np.float64).reshape(2, 7, -1)
    for name in ("loss", "accuracy"):
        expected = steps[:, :, step_row.COLUMNS.index(name)].mean(axis=1)
        np.testing.assert_allclose(history[name], expected, rtol=1e-5)


def test_a_tanh_after_batchnorm_can_be_evaluated() -> None:
    """TensorFlow has no kernel for what it makes of these three."""
    x = inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, use_bias=False)(x))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Activation("tanh")(x))
    model = StableModel.wrap(keras.Model(inputs, keras.layers.Dense(CLASSES)(x), name="tanh"))
    model.compile(keras.optimizers.SGD(0.1), Crossentropy(), StepOptions(layer_stats_every=2), steps_per_execution=4)
    model.fit(batches(one(), IMAGES, LABELS), steps_per_epoch=8, verbose=0)
    assert np.isfinite(model.evaluate(IMAGES, LABELS, batch_size=BATCH, verbose=0)[0])


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (Crossentropy(0.1), np.log(CLASSES)),
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), np.log(CLASSES)),
        (keras.losses.SparseCategoricalCrossentropy(), None),
        ("mse", None),
    ],
)
def test_the_chance_loss_is_that_of_the_labels(loss: Any, expected: float | None) -> None:
    inputs = keras.Input((SIZE, SIZE, 3))
    kernel = {"kernel_initializer": "ones", "kernel_regularizer": keras.regularizers.L2(0.5 / (CLASSES * 3))}
    x = keras.layers.Dense(CLASSES, **kernel)(keras.layers.GlobalAveragePooling2D()(inputs))
    model = StableModel.wrap(keras.Model(inputs, x))
    model.compile(keras.optimizers.SGD(0.1), loss)
    assert model.chance_loss == (None if expected is None else pytest.approx(expected, abs=1e-5))


def test_a_wrapped_network_keeps_its_weights_and_normalizes() -> None:
    network = plain((SIZE, SIZE, 3), CLASSES)
    model = StableModel.wrap(network, mean=[10.0, 20.0, 30.0], std=[2.0, 3.0, 4.0])
    normalized = (IMAGES[:5].astype(np.float64) - [10, 20, 30]) / [2, 3, 4]
    expected = network(normalized.astype(np.float32)).numpy()
    np.testing.assert_allclose(model(IMAGES[:5]).numpy(), expected, rtol=1e-4, atol=1e-4)


def test_a_wrapped_network_can_standardize_each_image() -> None:
    network = plain((SIZE, SIZE, 3), CLASSES)
    model = StableModel.wrap(network, mean=[10.0, 20.0, 30.0], std=[2.0, 3.0, 4.0], standardize=True)
    expected = network(tf.image.per_image_standardization(IMAGES[:5])).numpy()
    np.testing.assert_allclose(model(IMAGES[:5]).numpy(), expected, rtol=1e-4, atol=1e-4)


def test_evaluation_can_take_the_mean_of_an_image_and_its_mirror() -> None:
    model = StableModel.wrap(plain((SIZE, SIZE, 3), CLASSES), mean=[127.5] * 3, std=[60.0] * 3)
    model.compile(keras.optimizers.SGD(0.1), Crossentropy(), StepOptions(evaluate_flipped=True))
    images, labels = IMAGES[:60], LABELS[:60]
    results = model.evaluate(images, labels, batch_size=20, verbose=0, return_dict=True)
    straight, mirrored = (model(view).numpy().astype(np.float64) for view in (images, images[:, :, ::-1]))
    assert np.abs(straight - mirrored).max() > 0.01
    logits = (straight + mirrored) / 2
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert results["loss"] == pytest.approx(-np.log(chances[np.arange(60), labels]).mean(), rel=1e-5)
    assert results["accuracy"] == pytest.approx(np.mean(logits.argmax(axis=1) == labels), abs=1e-6)


class Gated(keras.layers.Layer):
    """A user's own, with Python's `if` and `for` over tensors."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        if tf.reduce_mean(x) > 1e6:  # noqa: SIM108
            x = -x
        else:
            x = 2 * x
        for _ in tf.range(tf.constant(2)):
            x = x + 1
        return x


@pytest.mark.slow
@pytest.mark.parametrize("xla", [False, True])
def test_a_layer_may_be_written_for_autograph(xla: bool) -> None:
    def network(shape: tuple[int, ...], classes: int) -> keras.Model:
        inputs = keras.Input(shape)
        return keras.Model(inputs, keras.layers.Dense(classes)(Gated()(keras.layers.Flatten()(inputs))))

    model = compiled(one(), network, xla=xla)
    model.fit(batches(one(), IMAGES, LABELS), steps_per_epoch=5, epochs=1, verbose=0)
    assert np.isfinite(model.rows[:, 0]).all()
    assert np.isfinite(model.evaluate(batches(one(), IMAGES, LABELS), steps=1, verbose=0, return_dict=True)["loss"])


@pytest.mark.slow
def test_the_graphs_of_a_deleted_model_are_freed() -> None:
    """Of its graphs: TensorFlow keeps for good what a reduction over replicas is part of."""

    def graphs() -> int:
        gc.collect()
        return sum(isinstance(each, FuncGraph) for each in gc.get_objects())

    fit(one(), steps=5)  # what the first one leaves behind is there once
    before = graphs()
    fit(one(), steps=5)
    assert graphs() == before
