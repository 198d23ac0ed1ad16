"""Every fault makes a valid run that can train, and every cause has a fault."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.benchmarks.stability import corruptions, networks
from evenkeel.benchmarks.stability.faults import EQUIVALENT_CAUSES, FAULTS, Fault, equivalent_causes
from evenkeel.models.config import TrainConfig
from evenkeel.models.networks import factory
from evenkeel.models.stability.causes import CAUSES
from evenkeel.models.training import build_model
from evenkeel.models.training.batches import count_steps_per_epoch, distribute_training
from evenkeel.models.training.stable_model import StableModel
from evenkeel.pipeline.build import training_batches
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from tests.factories import one

PERSISTENT = [name for name, fault in FAULTS.items() if fault.kind == "persistent"]
TRANSIENT = [name for name, fault in FAULTS.items() if fault.kind == "transient"]
ARCHITECTURE = [name for name in PERSISTENT if FAULTS[name].family == "architecture"]
SHAPE = (16, 16, 3)
FAULTY_RUNS = [(name, network) for name in PERSISTENT for network in FAULTS[name].networks]


@pytest.fixture(scope="module")
def clean(small: DataConfig) -> DataConfig:
    return corruptions.write_copy(small, "clean")


# The list of faults.


def test_there_are_enough_faults_of_every_family() -> None:
    assert len(PERSISTENT) + len(TRANSIENT) >= 30
    assert len(PERSISTENT) >= 24
    assert {FAULTS[name].family for name in PERSISTENT} == {"data", "hyperparameters", "architecture", "numerics"}


def test_every_cause_but_one_has_a_fault_and_fields_agree() -> None:
    causes = {fault.cause for fault in FAULTS.values()}
    assert causes - {""} <= set(CAUSES)
    assert {FAULTS[name].cause for name in PERSISTENT} == set(CAUSES) - {"replica_batch"}
    assert {name for name, fault in FAULTS.items() if not fault.cause} == {"larger_logits", "flipped_bits"}
    for name, fault in FAULTS.items():
        assert fault.name == name
        assert set(fault.networks) <= set(networks.NETWORKS)
        assert fault.kind == "transient" or fault.family == CAUSES[fault.cause].family
        assert (fault.inject is not None) == (fault.kind == "transient") == (fault.steps > 0)


def test_equivalence_of_causes_is_symmetric_but_not_transitive() -> None:
    assert all(group.causes <= set(CAUSES) and len(group.causes) == 2 and group.reason for group in EQUIVALENT_CAUSES)
    assert equivalent_causes("no_warmup") == {"no_warmup", "learning_rate_high"}
    assert equivalent_causes("dropout") == {"dropout"}
    assert "no_warmup" not in equivalent_causes("momentum")  # both are equivalent to learning_rate_high
    assert all(cause in equivalent_causes(cause) for cause in CAUSES)
    assert all((a in equivalent_causes(b)) == (b in equivalent_causes(a)) for a in CAUSES for b in CAUSES)


def test_a_fault_begins_with_its_descriptive_fields() -> None:
    assert Fault._fields[:4] == ("name", "family", "cause", "kind")


# Persistent faults.


@pytest.mark.slow
@pytest.mark.parametrize(("name", "network"), FAULTY_RUNS)
def test_every_persistent_fault_is_another_valid_run(name: str, network: str, clean: DataConfig) -> None:
    fault = FAULTS[name]
    twin = fault.twin(networks.clean_config(network, clean, seed=3))
    faulty = fault.apply(twin)
    assert isinstance(faulty, TrainConfig)
    assert faulty != twin
    assert faulty.seed == 3
    assert fault.apply(twin) == faulty


@pytest.mark.parametrize("network", networks.NETWORKS)
def test_clean_networks_train(network: str, clean: DataConfig) -> None:
    before, after = train_one_step(networks.clean_config(network, clean))
    assert any((a != b).any() for a, b in zip(before, after, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    # All networks of a fault are built, and one is trained, of the networks in turn.
    ("name", "network"),
    [(name, FAULTS[name].networks[n % len(FAULTS[name].networks)]) for n, name in enumerate(ARCHITECTURE)],
)
def test_faulty_networks_train(name: str, network: str, clean: DataConfig) -> None:
    fault = FAULTS[name]
    configs = {each: fault.apply(fault.twin(networks.clean_config(each, clean))) for each in fault.networks}
    for other in set(fault.networks) - {network}:
        assert factory.create_network(configs[other].model, SHAPE, 10).output_shape == (None, 10)
    train_one_step(configs[network], explodes=name == "exponential")


def train_one_step(config: TrainConfig, explodes: bool = False) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Trainable weights before and after one step on random images, run eagerly to avoid tracing."""
    keras.utils.set_random_seed(config.seed)
    model = StableModel.wrap(factory.create_network(config.model, SHAPE, 10), [127.5] * 3, [74.0] * 3)
    model.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [variable.numpy() for variable in model.trainable_variables]
    rng = np.random.default_rng(0)
    images = tf.constant(rng.integers(0, 256, (4, *SHAPE)), tf.uint8)
    row, *_ = model.training_step(images, tf.constant(rng.integers(0, 10, 4)))
    assert np.isfinite(row.numpy()).all() != explodes
    assert row[1] <= 1
    return before, [variable.numpy() for variable in model.trainable_variables]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raw_pixels", "batch_2", "learnt_by_heart", "one_epoch", "half_overflow"])
def test_faults_of_splits_batches_and_precision_run_in_the_trainer(name: str, clean: DataConfig) -> None:
    fault, network = FAULTS[name], FAULTS[name].networks[-1]
    few_images = dataclasses.replace(clean, train_split="train[:40]")
    twin = fault.twin(dataclasses.replace(networks.clean_config(network, few_images), guard="off"))
    config = dataclasses.replace(fault.apply(twin), epochs=2)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, train_split="train[:40]"))
    build_model.configure_process(config)
    data = load_dataset(config.data)
    model = build_model.create_model(config, data, one(), count_steps_per_epoch(config, data))
    batches = training_batches(data, config.data, config.seed, ReplicaShard(config.data.batch_size))
    model.fit(distribute_training(batches, one()), steps_per_epoch=1, epochs=1, verbose=0)
    assert model.step == 1


def test_epochs_grow_if_a_fault_removes_images(clean: DataConfig) -> None:
    config = dataclasses.replace(networks.clean_config("cnn", clean), epochs=10)
    faulty = FAULTS["imbalance_50"].apply(config)
    seen_images = faulty.epochs * corruptions.count_training_images(faulty.data)
    assert corruptions.count_training_images(faulty.data) < 200
    assert abs(seen_images - 10 * 300) < 100
    assert FAULTS["label_noise_40"].apply(config).epochs == 10


def test_dropout_is_an_option_of_evenkeels_networks_and_a_mutation_of_others() -> None:
    config = FAULTS["dropout_90"].apply(networks.clean_config("resnet9", DataConfig()))
    assert (config.model.name, config.model.dropout, config.model.width) == ("resnet9", 0.9, networks.WIDTH)
    plain = FAULTS["dropout_90"].apply(networks.clean_config("plain", DataConfig()))
    assert plain.model.name.endswith(":dropout_90__plain")
