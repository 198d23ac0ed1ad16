"""The faults: each makes a valid run that can train; bursts come at their steps and only there; halves are fair."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.benchmarks.stability import (
    corruptions,
    faulty_networks,
    networks,
    split,
    transient_faults,
)
from evenkeel.benchmarks.stability.faults import (
    EQUIVALENT,
    FAULTS,
    NORMED,
    Fault,
    equivalent,
)
from evenkeel.models import train
from evenkeel.models.config import ModelConfig, TrainConfig
from evenkeel.models.networks import factory as network
from evenkeel.models.networks.layers import Dropout
from evenkeel.models.stability.causes import CAUSES
from evenkeel.models.stability.guard import StabilityGuard
from evenkeel.models.training import build_model
from evenkeel.models.training.batches import count_steps_per_epoch, distribute_batches
from evenkeel.models.training.stable_model import StableModel
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from tests.models.training.test_stable_model import (
    BATCH,
    IMAGES,
    LABELS,
    batches,
    compiled,
    one,
)

PERSISTENT = [name for name, fault in FAULTS.items() if fault.kind == "persistent"]
TRANSIENT = [name for name, fault in FAULTS.items() if fault.kind == "transient"]
SHAPE = (16, 16, 3)
CELLS = [(name, of) for name in PERSISTENT for of in FAULTS[name].networks]


@pytest.fixture(scope="module")
def clean(small: DataConfig) -> DataConfig:
    return corruptions.copied(small, "clean")


def built(config: TrainConfig) -> keras.Model:
    keras.utils.set_random_seed(0)
    return network.create_network(config.model, SHAPE, 10)


# The catalogue.


def test_there_are_enough_of_them() -> None:
    assert len(PERSISTENT) + len(TRANSIENT) >= 30
    assert len(PERSISTENT) >= 24
    assert {FAULTS[name].family for name in PERSISTENT} == {"data", "hyperparameters", "architecture", "numerics"}


def test_causes_exist_and_each_that_can_be_expressed_has_an_operator() -> None:
    causes = {fault.cause for fault in FAULTS.values()}
    assert causes - {""} <= set(CAUSES)
    assert {FAULTS[name].cause for name in PERSISTENT} == set(CAUSES) - {"replica_batch"}
    assert {name for name, fault in FAULTS.items() if not fault.cause} == {"larger_logits", "flipped_bits"}
    for name, fault in FAULTS.items():
        assert fault.name == name
        assert set(fault.networks) <= set(networks.NETWORKS)
        assert fault.kind == "transient" or fault.family == CAUSES[fault.cause].family
        assert (fault.inject is not None) == (fault.kind == "transient") == (fault.steps > 0)


def test_equivalent_causes() -> None:
    assert all(group.causes <= set(CAUSES) and len(group.causes) == 2 and group.reason for group in EQUIVALENT)
    assert equivalent("no_warmup") == {"no_warmup", "learning_rate_high"}
    assert equivalent("dropout") == {"dropout"}
    assert "no_warmup" not in equivalent("momentum")  # it does not pass on
    assert all(cause in equivalent(cause) for cause in CAUSES)
    assert all((a in equivalent(b)) == (b in equivalent(a)) for a in CAUSES for b in CAUSES)


# Persistent ones.


@pytest.mark.parametrize(("name", "of"), CELLS)
def test_every_persistent_fault_is_another_valid_run(name: str, of: str, clean: DataConfig) -> None:
    fault = FAULTS[name]
    twin = fault.twin(networks.sound(of, clean, seed=3))
    faulty = fault.apply(twin)
    assert isinstance(faulty, TrainConfig)
    assert faulty != twin
    assert faulty.seed == 3
    assert fault.apply(twin) == faulty


@pytest.mark.parametrize("of", networks.NETWORKS)
def test_sound_networks_take_a_step(of: str, clean: DataConfig) -> None:
    before, after = stepped(networks.sound(of, clean))
    assert any((a != b).any() for a, b in zip(before, after, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "of"), [cell for cell in CELLS if FAULTS[cell[0]].family == "architecture"])
def test_mutated_networks_take_a_step(name: str, of: str, clean: DataConfig) -> None:
    fault = FAULTS[name]
    stepped(fault.apply(fault.twin(networks.sound(of, clean))))


def stepped(config: TrainConfig) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Trainable weights before and after one step on random images, run eagerly: no tracing."""
    keras.utils.set_random_seed(config.seed)
    model = StableModel.wrap(network.create_network(config.model, SHAPE, 10), [127.5] * 3, [74.0] * 3)
    model.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [variable.numpy() for variable in model.trainable_variables]
    rng = np.random.default_rng(0)
    images = tf.constant(rng.integers(0, 256, (4, *SHAPE)), tf.uint8)
    row, *_ = model.training_step(images, tf.constant(rng.integers(0, 10, 4)))
    assert np.isfinite(row.numpy()).all()
    assert row[1] <= 1
    return before, [variable.numpy() for variable in model.trainable_variables]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raw_pixels", "batch_2", "learnt_by_heart", "one_epoch", "half_overflow"])
def test_runs_through_the_trainer(name: str, clean: DataConfig) -> None:
    """What only the whole composition can refuse: splits, batches, precision."""
    fault, of = FAULTS[name], FAULTS[name].networks[-1]
    short = dataclasses.replace(clean, train_split="train[:40]")
    sound = dataclasses.replace(networks.sound(of, short), guard="off")
    config = dataclasses.replace(fault.apply(fault.twin(sound)), epochs=2)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, train_split="train[:40]"))
    build_model.configure_process(config)
    data = train.opening.open_data(config.data)
    model = build_model.create_model(config, data, one(), count_steps_per_epoch(config, data))
    training, _ = distribute_batches(config, data, one(), ReplicaShard(config.data.batch_size), 0)
    model.fit(training, steps_per_epoch=1, epochs=1, verbose=0)
    assert model.step == 1


def test_the_same_steps_where_images_are_fewer(clean: DataConfig) -> None:
    sound = dataclasses.replace(networks.sound("cnn", clean), epochs=10)
    faulty = FAULTS["imbalance_50"].apply(sound)
    seen = faulty.epochs * corruptions.images(faulty.data)
    assert corruptions.images(faulty.data) < 200
    assert abs(seen - 10 * 300) < 100
    assert FAULTS["label_noise_40"].apply(sound).epochs == 10


# Mutants: what each changes.


def mutated(mutation: str, of: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    return network.create_network(ModelConfig(name=faulty_networks.mutant(mutation, of)), SHAPE, 10)


def outputs(model: keras.Model) -> np.ndarray:
    return model(np.random.default_rng(0).normal(size=(8, *SHAPE)).astype(np.float32)).numpy()


def of_type(model: keras.Model, kind: Any) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if isinstance(layer, kind)]


def kernels(model: keras.Model) -> list[np.ndarray]:
    return [v.numpy() for v in model.weights if "kernel" in v.name]


@pytest.mark.parametrize("of", networks.NETWORKS)
def test_activations(of: str) -> None:
    functions_of = {"sigmoid": keras.activations.sigmoid}
    if of in NORMED:
        functions_of["steep_tanh"] = keras.activations.tanh
    for mutation, function in functions_of.items():
        model = mutated(mutation, of)
        functions = [getattr(layer, "activation", None) for layer in model.layers]
        assert functions.count(function) >= 4
        assert keras.activations.relu not in functions
        assert of_type(model, keras.layers.ReLU) == []


@pytest.mark.parametrize("of", networks.NETWORKS)
def test_nearly_all_units_of_a_dying_network_are_off(of: str) -> None:
    for model, low, high in ((mutated("dying", of), 0.99, 1.0), (faulty_networks.BUILDERS[of](SHAPE, 10), 0.2, 0.8)):
        on = [layer for layer in model.layers if getattr(layer, "activation", None) is keras.activations.relu]
        on += of_type(model, keras.layers.ReLU)
        seen = keras.Model(model.input, [layer.output for layer in on])
        images = np.random.default_rng(0).normal(size=(8, *SHAPE)).astype(np.float32)
        zeros = [np.mean(values.numpy() == 0) for values in seen(images, training=True)]
        assert low <= np.mean(zeros) <= high


@pytest.mark.parametrize("of", networks.NETWORKS)
def test_initial_weights(of: str) -> None:
    sound, huge = (kernels(model) for model in (faulty_networks.BUILDERS[of](SHAPE, 10), mutated("huge", of)))
    assert all((kernel == 0).all() for kernel in kernels(mutated("zeros", of)))
    assert all(kernel.std() < 2e-4 for kernel in kernels(mutated("tiny", of)))
    assert all(large.std() > 15 * usual.std() for large, usual in zip(huge, sound, strict=True))


@pytest.mark.parametrize("of", networks.NETWORKS)
def test_only_the_logits_of_a_frozen_network_train(of: str) -> None:
    model = mutated("frozen", of)
    assert {variable.name.split("/")[0] for variable in model.trainable_variables} == {"logits"}
    wrapped = StableModel.wrap(model)
    assert len(wrapped.trainable_variables) == len(model.trainable_variables) <= 2


@pytest.mark.parametrize("of", NORMED)
def test_normalization(of: str) -> None:
    assert of_type(mutated("unnormalized", of), keras.layers.BatchNormalization) == []
    assert of_type(faulty_networks.BUILDERS[of](SHAPE, 10), keras.layers.BatchNormalization)
    slow = of_type(mutated("slow_norm_4", of), keras.layers.BatchNormalization)
    assert {layer.momentum for layer in slow} == {0.9999}


@pytest.mark.parametrize(
    ("mutation", "low", "high"), [("softmax", 0, 1), ("tanh_output", -1, 1), ("relu_output", 0, np.inf)]
)
def test_outputs(mutation: str, low: float, high: float) -> None:
    found = outputs(mutated(mutation, "plain"))
    assert found.min() >= low
    assert found.max() <= high
    assert outputs(faulty_networks.BUILDERS["plain"](SHAPE, 10)).min() < -0.01


@pytest.mark.parametrize(("mutation", "survives"), [("large_logits", 0.7), ("small_logits", 30.0)])
def test_scaled_logits_change_nothing_in_float32_and_all_in_float16(mutation: str, survives: float) -> None:
    model = mutated(mutation, "plain")
    same = keras.Model(model.input, model.get_layer("logits").output)
    np.testing.assert_allclose(outputs(model), outputs(same), rtol=1e-4)
    for logit, kept in ((survives, True), (1.0 if mutation == "large_logits" else 2.0, False)):
        x = tf.constant(logit, tf.float16)
        for layer in model.layers[-4:]:
            x = x * tf.cast(layer.scale, tf.float16)
        assert bool(np.isfinite(x.numpy()) and abs(x.numpy() / logit - 1) < 0.15) == kept


def test_layers_added() -> None:
    rates = [layer.rate for layer in of_type(mutated("dropout_90", "plain"), keras.layers.Dropout)]
    assert rates == [0.9] * 4
    assert all(isinstance(layer, Dropout) for layer in _dropouts(StableModel.wrap(mutated("dropout_90", "plain"))))
    assert len(mutated("l2", "plain").losses) == 5
    assert len(of_type(mutated("deep", "plain"), keras.layers.Conv2D)) >= 15


def _dropouts(model: StableModel) -> list[keras.layers.Layer]:
    found = [layer for layer in model._flatten_layers() if "dropout" in layer.name]
    assert len(found) == 4
    return found


def test_options_reach_evenkeels_own_networks() -> None:
    config = FAULTS["dropout_90"].apply(networks.sound("resnet9", DataConfig()))
    assert (config.model.name, config.model.dropout, config.model.width) == ("resnet9", 0.9, networks.WIDTH)
    assert FAULTS["dropout_90"].apply(networks.sound("plain", DataConfig())).model.name.endswith(":dropout_90__plain")


def test_no_such_mutant() -> None:
    for name in ("sigmoid__vgg", "mud__cnn", "zeros"):
        assert not hasattr(faulty_networks, name)


# Bursts.

FIRST = 33


def burst(name: str) -> transient_faults.Injection:
    fault = FAULTS[name]
    assert fault.inject is not None
    return fault.inject(first=FIRST, seed=0)


@pytest.mark.parametrize("name", TRANSIENT)
def test_bursts_say_when(name: str) -> None:
    injection = burst(name)
    assert (injection.first, injection.steps) == (FIRST, FAULTS[name].steps)


@pytest.mark.parametrize("start", [0, 40])
@pytest.mark.parametrize("classes", [10, 4])
@pytest.mark.parametrize("name", ["burst_outliers", "burst_labels"])
def test_batches_are_spoilt_in_their_steps_only(name: str, classes: int, start: int) -> None:
    injection, clean = burst(name), batches(one(), IMAGES, LABELS % classes)
    spoilt = zip(clean.take(70), injection.dataset(clean, start, classes).take(70), strict=True)
    changed = {"images": [], "labels": []}
    for step, ((images, labels), (others, wrong)) in enumerate(spoilt, start):
        assert (others.shape, others.dtype, wrong.dtype) == (images.shape, tf.uint8, labels.dtype)
        if (images != others).numpy().any(axis=(1, 2, 3)).all():
            changed["images"].append(step)
        if (labels != wrong).numpy().all():
            changed["labels"].append(step)
        assert (images == others).numpy().all() or step in changed["images"]
        assert (labels == wrong).numpy().all() or step in changed["labels"]
        assert (wrong.numpy() >= 0).all()
        assert (wrong.numpy() < classes).all()
    of, other = ("images", "labels") if name == "burst_outliers" else ("labels", "images")
    assert changed[of] == list(range(max(start, FIRST), FIRST + injection.steps))
    assert changed[other] == []


def test_outliers_are_of_three_kinds() -> None:
    images, labels = transient_faults.outliers(
        tf.constant(IMAGES[:6]), tf.constant(LABELS[:6]), tf.constant([0, 5]), 10
    )
    assert (labels.numpy() == LABELS[:6]).all()
    assert (images[1::3].numpy() == 0).all()
    assert (images[2::3].numpy() == 255).all()
    assert images[0].numpy().std() > 60
    again, _ = transient_faults.outliers(tf.constant(IMAGES[:6]), tf.constant(LABELS[:6]), tf.constant([0, 6]), 10)
    assert (again[0] != images[0]).numpy().any()


class Watched(keras.callbacks.Callback):
    """Rows of every step, and weights before each call."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.rows: list[np.ndarray] = []
        self.weights: dict[int, list[np.ndarray]] = {}

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.weights[self.model.step] = [v.numpy() for v in self.model.trainable_variables]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.rows.append(self.model.rows)


@functools.cache
def trained(name: str = "", guarded: bool = False, steps: int = 60) -> tuple[np.ndarray, Watched, StableModel, list]:
    """(rows, what was watched, the model, incidents) of a run with a burst, or without."""
    model = compiled(one(), layer_stats_every=5 if guarded else 0, guarded=guarded)
    injection = burst(name) if name else transient_faults.Injection(0, 0)
    watched, guard = Watched(), StabilityGuard(act=True)
    told: list[tuple] = []
    guard.incidents.listeners.append(lambda *incident: told.append(incident))
    training = injection.dataset(batches(one(), IMAGES, LABELS), model.step, 10)
    callbacks = [*injection.callbacks, watched, *([guard] if guarded else [])]
    model.fit(training, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=callbacks)
    return np.concatenate(watched.rows), watched, model, told


@pytest.mark.parametrize("name", ["nan_image", "nan_images", "overflow"])
def test_updates_are_not_finite_in_their_steps_only(name: str) -> None:
    rows, _, model, _ = trained(name)
    struck = np.flatnonzero(rows[:, 5] > 0)
    assert struck.tolist() == list(range(FIRST, FIRST + FAULTS[name].steps))
    assert all(np.isfinite(v.numpy()).all() for v in model.variables)
    np.testing.assert_array_equal(rows[:FIRST, :-1], trained()[0][:FIRST, :-1])  # but for the input's wait


def test_validation_does_not_see_what_is_injected() -> None:
    _, _, model, _ = trained("nan_images")
    model.data_step.assign(FIRST + 1)
    assert np.isfinite(model(IMAGES[:8], training=False).numpy()).all()
    loss = model.evaluate(batches(one(), IMAGES, LABELS), steps=2, verbose=0)
    assert np.isfinite(loss).all()


def test_bright_images_raise_the_loss_in_their_steps_only() -> None:
    rows, sound = trained("bright_images")[0], trained()[0]
    assert (rows[FIRST : FIRST + 6, 0] > 2 * sound[FIRST : FIRST + 6, 0]).any()
    np.testing.assert_array_equal(rows[:FIRST, 0], sound[:FIRST, 0])


@pytest.mark.parametrize(("name", "times"), [("surge_x30", 30), ("surge_x100", 100)])
def test_the_rate_surges_in_its_steps_only(name: str, times: float) -> None:
    rate, sound = trained(name)[0][:, 3], trained()[0][:, 3]
    expected = sound.copy()
    expected[FIRST : FIRST + FAULTS[name].steps] *= times
    np.testing.assert_allclose(rate, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["larger_logits", "flipped_bits"])
def test_weights_are_corrupted_once_before_a_call(name: str) -> None:
    injection = burst(name)
    _, struck, _, _ = trained(name)
    _, sound, _, _ = trained()
    at = 35  # the first call of 5 steps that begins at 33 or later
    assert injection.callbacks[0].struck_at == -1
    for step in range(0, at, 5):
        assert all((a == b).all() for a, b in zip(struck.weights[step], sound.weights[step], strict=True))
    # Watched comes after the corruption, before the call.
    differs = [(a != b) for a, b in zip(struck.weights[at], sound.weights[at], strict=True)]
    if name == "larger_logits":
        assert [d.any() for d in differs].count(True) == 1
        kernel = next(number for number, d in enumerate(differs) if d.any())
        np.testing.assert_array_equal(struck.weights[at][kernel], -100 * sound.weights[at][kernel])
    else:
        assert all(d.sum() == max(1, d.size // 1000) for d in differs if d.ndim > 1)
        assert not any(d.any() for d in differs if d.ndim == 1)


@pytest.mark.parametrize("name", ["nan_images", "larger_logits"])
def test_a_guard_answers_and_the_fault_does_not_come_again(name: str) -> None:
    rows, _, model, told = trained(name, guarded=True, steps=200)
    answered = [(step, kind) for step, kind, _, action in told if action.startswith("rolled back")]
    assert len(answered) == 1
    assert FIRST <= answered[0][0] < FIRST + 20
    assert np.isfinite(rows[-50:, 0]).all()
    assert np.median(rows[-20:, 0]) < np.median(rows[:10, 0])
    assert model.trained_steps == 200 < model.step


def test_a_guards_own_scaling_works_through_a_surge() -> None:
    model = compiled(one(), guarded=True)
    injection, watched = burst("surge_x30"), Watched()
    model.scale_learning_rate(0.25)
    training = batches(one(), IMAGES, LABELS)
    model.fit(training, steps_per_epoch=60, epochs=1, verbose=0, callbacks=[*injection.callbacks, watched])
    rate, sound = np.concatenate(watched.rows)[:, 3], trained()[0][:, 3]
    np.testing.assert_allclose(rate[:FIRST], 0.25 * sound[:FIRST], rtol=1e-6)
    np.testing.assert_allclose(rate[FIRST : FIRST + 20], 30 * 0.25 * sound[FIRST : FIRST + 20], rtol=1e-6)


# The split.


def test_halves_are_balanced_over_kinds_and_families() -> None:
    counts: Counter = Counter()
    for name, fault in FAULTS.items():
        counts[fault.kind, fault.family] += {"tuning": 1, "heldout": -1}[split.half(name)]
    assert all(abs(difference) <= 1 for difference in counts.values())
    assert abs(sum(counts.values())) <= 1


def test_pairs_are_used_evenly_and_stay_in_their_half() -> None:
    used: Counter = Counter()
    for name, fault in FAULTS.items():
        found = split.pairs(name)
        assert len(set(found)) == 2
        assert {network for network, _ in found} <= set(fault.networks)
        assert found == split.pairs(name)
        if len(fault.networks) > 1:
            assert {split.PAIRS[pair] for pair in found} == {split.half(name)}
        used.update(found)
    assert len(used) == 6
    assert max(used.values()) - min(used.values()) <= 4


def test_seeds_and_pairs_belong_to_one_half() -> None:
    assert Counter(split.PAIRS.values()) == {"tuning": 3, "heldout": 3}
    assert sorted(split.SEEDS["tuning"] + split.SEEDS["heldout"]) == [0, 1, 2, 3, 4]
    for half in split.HALVES:
        assert {network for (network, _), of in split.PAIRS.items() if of == half} == set(networks.NETWORKS)


@pytest.mark.parametrize("name", TRANSIENT)
def test_bursts_are_drawn_within_an_epoch(name: str) -> None:
    drawn = [split.first_step(name, seed, steps=250, steps_per_epoch=125) for seed in range(20)]
    assert len(set(drawn)) > 10
    assert drawn == [split.first_step(name, seed, steps=250, steps_per_epoch=125) for seed in range(20)]
    for first in drawn:
        assert 100 <= first < 200
        assert first % 125 != 0
        assert first // 125 == (first + FAULTS[name].steps - 1) // 125


def test_a_fault_is_plain_data() -> None:
    assert Fault._fields[:4] == ("name", "family", "cause", "kind")
    assert BATCH == 20  # the steps above are counted in batches of it
