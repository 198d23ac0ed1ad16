"""Without tensorflow-addons (Python 3.12 and later) every option that does not need it works."""

from __future__ import annotations

import importlib.abc
import pathlib
import sys

import pytest

from evenkeel.models.config import ModelConfig, TrainConfig, config_json
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import Dataset
from tests import forked
from tests.factories import OF_ADDONS


class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.split(".")[0] == "tensorflow_addons":
            raise ImportError(f"{name} is blocked")


def train_without_addons(*flags: str) -> None:
    """Runs `evenkeel train` with tensorflow-addons blocked; call it in a new process."""
    assert "tensorflow_addons" not in sys.modules
    sys.meta_path.insert(0, Blocked())
    forked.main("tools.train", *flags)


def config_flags(directory: pathlib.Path, config: TrainConfig) -> list[str]:
    (directory / "config.json").write_text(config_json(config))
    return [f"--config={directory / 'config.json'}", f"--model_dir={directory / 'run'}"]


@pytest.mark.slow
def test_training_works_without_addons(small: DataConfig, tmp_path: pathlib.Path) -> None:
    config = TrainConfig(epochs=1, precision="float32", data=small, model=ModelConfig(name="cnn", width=4))
    done = forked.run(train_without_addons, *config_flags(tmp_path, config))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("completed after 1.0 epochs, 15 steps")


@pytest.mark.slow
@pytest.mark.parametrize("option", [*(f"optimizer.name={name}" for name in OF_ADDONS), "loss=focal"])
def test_an_option_that_needs_addons_gives_an_error_of_one_line(
    option: str, small: DataConfig, data: Dataset, tmp_path: pathlib.Path
) -> None:
    config = TrainConfig(data=small, model=ModelConfig("cnn", width=4))
    done = forked.run(train_without_addons, *config_flags(tmp_path, config), f"--{option}")
    assert done.returncode == 2, done.stderr[-2000:]
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert line.startswith(f"error: {option} needs tensorflow-addons")
    assert "Python 3.10 or 3.11" in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
