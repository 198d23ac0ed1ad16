"""Setup of all tests: two logical CPUs, a separate cache, no Hypothesis deadlines, a small data set rendered once."""

from __future__ import annotations

import collections
import gc
import os
import pathlib
import statistics
import tempfile
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # tf_keras, imported below, imports TensorFlow
os.environ.setdefault("EVENKEEL_CACHE", tempfile.mkdtemp(prefix="evenkeel-tests-"))

import hypothesis
import pytest
import tf_keras as keras
from tensorflow.python.framework import config as tensorflow_config

from evenkeel.models.config import StrategyConfig
from evenkeel.models.distribute import strategy
from evenkeel.pipeline.config import DataConfig, ShapesConfig
from evenkeel.pipeline.dataset import Dataset, load_dataset

# No deadlines: on a busy machine an example may take ten times as long, and tracing makes the first one slow.
hypothesis.settings.register_profile("evenkeel", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("evenkeel")


def pytest_configure() -> None:
    # Before anything else uses TensorFlow, which fixes its devices at first use.
    strategy.create_strategy(StrategyConfig(name="one", logical_cpus=2))
    gc.freeze()  # as the command lines do: imported objects stay, and collections need not scan them
    gc.set_threshold(50_000, 20, 20)  # tracing creates 100,000 objects at a time; Python collects after 700


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts files by their share of slow tests, then by their number of tests.

    Processes in parallel take the next file each, so that none is left with a long file at the end.
    """
    slow: dict[pathlib.Path, list[bool]] = collections.defaultdict(list)
    for item in items:
        slow[item.path].append(item.get_closest_marker("slow") is not None)
    keys = {path: (-statistics.mean(marked), -len(marked)) for path, marked in slow.items()}
    items.sort(key=lambda item: keys[item.path])


@pytest.fixture(scope="session")
def small() -> DataConfig:
    """300 training and 60 validation images of 16 pixels."""
    return DataConfig(image_size=16, batch_size=20, shapes=ShapesConfig(size=16, count=300))


@pytest.fixture(scope="session")
def data(small: DataConfig) -> Dataset:
    return load_dataset(small)


@pytest.fixture(autouse=True)
def _fresh_keras():
    """Gives every test the default precision policy and the same seeds."""
    keras.mixed_precision.set_global_policy("float32")
    keras.utils.set_random_seed(0)
    yield
    keras.mixed_precision.set_global_policy("float32")


@pytest.fixture
def determinism() -> Iterator[None]:
    """For tests that turn on op determinism: turns it off again, because it holds for the whole process."""
    yield
    tensorflow_config.disable_op_determinism()
