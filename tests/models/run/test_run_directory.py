"""The directory of a run: which runs may use it, and what an overwrite removes."""

from __future__ import annotations

import dataclasses
import os
import pathlib

import pytest

from evenkeel.models import train
from evenkeel.models.config import ModelConfig, TrainConfig
from evenkeel.models.run import run_directory
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.errors import UsageError
from tests import factories
from tests.runs import TINY


def create_run(path: pathlib.Path, config: TrainConfig = TINY) -> str:
    """Creates the directory of a run that has not trained yet; returns its path."""
    run_directory.create(str(path), config, load_dataset(config.data), resume=False)
    return str(path)


def test_an_error_about_another_run_names_the_differences_and_the_remedies(tmp_path: pathlib.Path) -> None:
    model_dir = create_run(tmp_path / "run")
    other = dataclasses.replace(TINY, epochs=3, model=ModelConfig(name="cnn"))
    with pytest.raises(UsageError) as raised:
        train.train(other, model_dir)
    text = str(raised.value)
    assert f"model_dir ({model_dir}) holds a run with another configuration: epochs is 2 in the run, 3 now; " in text
    assert (
        f"model.name is {factories.FILE}:normed in the run, cnn now: go on with --resume --config={model_dir}" in text
    )
    assert "start over with --overwrite, or choose another --model_dir" in text
    assert "width" not in text
    assert "\n" not in text
    with pytest.raises(UsageError, match="epochs is 2 in the run, 3 now"):
        train.train(other, model_dir, resume=True)


def test_a_directory_with_the_same_run_needs_resume_or_overwrite(tmp_path: pathlib.Path) -> None:
    model_dir = create_run(tmp_path / "run")
    with pytest.raises(UsageError, match=r"already holds a run: go on with --resume .* or choose another"):
        train.train(TINY, model_dir)


def test_overwrite_removes_only_the_files_of_the_old_run(tmp_path: pathlib.Path) -> None:
    model_dir = create_run(tmp_path / "run")
    for name in ("checkpoints/step-00000001/state.json", "train/events", "incidents.jsonl", "summary.json", "notes"):
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("old")
    other = dataclasses.replace(TINY, epochs=3)
    run_directory.check(model_dir, other, resume=False, overwrite=True)
    data = dataclasses.replace(load_dataset(other.data), skipped=("a: corrupt",))
    run_directory.create(model_dir, other, data, resume=False)
    assert sorted(os.listdir(model_dir)) == ["config.json", "data.json", "data.npz", "notes", "skipped.txt"]
    assert run_directory.read_config(model_dir) == other


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, "holds no run: there is no config.json in it"),
        ("{", r"config\.json is not JSON \(.*\): restore it or start over"),
        ('{"epoch": 3}', "the configuration has no option epoch; known here: .*epochs"),
    ],
)
def test_an_unreadable_configuration_is_an_error(content: str | None, error: str, tmp_path: pathlib.Path) -> None:
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UsageError, match=error):
        run_directory.read_config(str(tmp_path))


def test_a_directory_that_cannot_be_written_to_is_an_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"model_dir \(.*file/run\) cannot be written to: .*; choose another"):
        run_directory.create(str(tmp_path / "file" / "run"), TINY, load_dataset(TINY.data), resume=False)
