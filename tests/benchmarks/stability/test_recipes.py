"""Published recipes: every network builds, has logits and trains; every run has a valid configuration."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from evenkeel.benchmarks.stability import data_sets, faults, networks, recipes, split
from evenkeel.models.config import ModelConfig, TrainConfig
from evenkeel.models.networks import factory
from evenkeel.pipeline.config import DataConfig

NETWORKS = sorted({recipe.network for recipe in recipes.RECIPES.values()})


def test_there_are_many_recipes_networks_and_data_sets() -> None:
    assert len(set(recipes.RUNS)) == len(recipes.RUNS) >= 40
    assert len(NETWORKS) >= 11
    assert {data for _, data in recipes.RUNS} == {*data_sets.DATA_SETS} - {"shapes"}
    assert {name for name, _ in recipes.RUNS} == set(recipes.RECIPES)
    assert {recipe.resembles for recipe in recipes.RECIPES.values()} == set(networks.NETWORKS)
    assert set(recipes.TUNING_NETWORKS) < set(NETWORKS)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("shape", "classes"), [((32, 32, 3), 10), ((64, 64, 1), 50)])
def test_every_network_builds_and_ends_in_logits(network: str, shape: tuple[int, int, int], classes: int) -> None:
    model = factory.create_network(ModelConfig(name=recipes.published_model_name(network)), shape, classes)
    assert model.layers[-1].name == "logits" or any(layer.name == "logits" for layer in model.layers)
    values = model(np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)).numpy()
    assert values.shape == (4, classes)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_run_has_the_published_settings(name: str) -> None:
    recipe = recipes.RECIPES[name]
    config = recipes.recipe_config(name, DataConfig(source="photos", image_size=32), 3200, seed=3)
    assert isinstance(config, TrainConfig)
    assert config.seed == 3
    assert config.optimizer == recipe.optimizer
    assert config.data.batch_size == recipe.batch_size
    assert config.data.normalize == (recipe.network not in recipes.SCALES_ITS_INPUT)
    steps = 3200 // recipe.batch_size * config.epochs
    assert recipe.steps <= steps <= max(recipe.steps, recipes.RUN_IMAGES // recipe.batch_size) + 25


def test_faults_run_on_recipes_of_their_half() -> None:
    uses: collections.Counter[str] = collections.Counter()
    for name, fault in faults.FAULTS.items():
        run = split.fault_run(name)
        if fault.kind == "transient" or name in split.NOT_PUBLISHED:
            assert run is None
            continue
        if run is None:  # no recipe of that half can have it
            assert len(fault.networks) < len(networks.NETWORKS)
            continue
        assert run in recipes.RUNS
        assert split.run_half(run[0]) == split.fault_half(name)
        assert recipes.RECIPES[run[0]].resembles in fault.networks
        uses[run[0]] += 1
    assert uses.total() >= 40
    assert len(uses) >= 15
