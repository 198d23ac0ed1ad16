"""A run keeps its classes and its normalization, whatever happens to the folder of its images afterwards."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from evenkeel.models import evaluation, train
from evenkeel.models.config import ModelConfig, OptimizerConfig, TrainConfig
from evenkeel.models.doctor.replay import without_batch_options
from evenkeel.models.doctor.runner import RunLoader
from evenkeel.models.export import export
from evenkeel.models.run import run_data
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.errors import UsageError
from tests import factories

COLORS = {"blue": (20, 30, 220), "red": (220, 30, 20)}


def paint(path: pathlib.Path, color: tuple[int, int, int], seed: int) -> None:
    """An image of one colour with some noise, so that no two files are equal."""
    noise = np.random.default_rng(seed).integers(-10, 10, (16, 16, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)).save(path)


def config_for(root: pathlib.Path) -> TrainConfig:
    return TrainConfig(
        epochs=4,
        precision="float32",
        histograms_every=0,
        preflight="off",
        data=DataConfig(source=str(root), image_size=16, batch_size=10),
        model=ModelConfig(name=f"{factories.FILE}:plain"),
        optimizer=OptimizerConfig(name="adam", learning_rate=0.01),
    )


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A directory with 20 training and 10 validation images of two classes in `colors`, and a trained `run`."""
    root = tmp_path_factory.mktemp("original")
    for split, count in (("train", 20), ("validation", 10)):
        for number in range(count):
            name, color = list(COLORS.items())[number % 2]
            paint(root / "colors" / split / name / f"{number:02}.png", color, number)
    train.train(config_for(root / "colors"), str(root / "run"))
    return root


@pytest.fixture
def copy(original: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of `original` whose run has the copied images as its source."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    for name in ("config.json", "data.json"):
        path = tmp_path / "run" / name
        path.write_text(path.read_text().replace(str(original), str(tmp_path)))
    return tmp_path


def rename(root: pathlib.Path) -> None:
    for split in ("train", "validation"):
        (root / split / "blue").rename(root / split / "sky")


def add_class(root: pathlib.Path) -> None:
    for number in range(4):
        paint(root / "validation" / "green" / f"{number}.png", (20, 220, 30), 100 + number)


def remove_images(root: pathlib.Path) -> None:
    for number in (0, 2, 4):
        (root / "train" / "blue" / f"{number:02}.png").unlink()


def add_dark_images(root: pathlib.Path) -> None:
    for number, name in enumerate([*COLORS] * 20):
        paint(root / "train" / name / f"dark-{number}.png", (0, 0, 0), 200 + number)


def replace_image(root: pathlib.Path) -> None:
    paint(root / "validation" / "red" / "01.png", COLORS["red"], 300)


@pytest.mark.slow
def test_data_json_says_what_the_model_means(original: pathlib.Path) -> None:
    config = config_for(original / "colors")
    data = load_dataset(config.data)
    stored = json.loads((original / "run" / "data.json").read_text())
    assert stored["classes"] == ["blue", "red"]
    assert stored["mean"] == data.mean
    assert (stored["image_size"], stored["channels"], stored["standardize"]) == (16, 3, False)
    assert stored["train"]["images"] == [10, 10]
    assert stored["validation"]["split"] == "validation"
    for checkpoint in (original / "run" / "checkpoints").glob("step-*"):
        assert json.loads((checkpoint / "state.json").read_text())["data"] == stored
    read = run_data.read_run_data(str(original / "run"))
    assert read is not None
    assert read == run_data.describe_data(config.data, data)
    assert run_data.find_changes(str(original / "run"), read, config.data, data) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            rename,
            [
                "new classes: sky",
                "missing classes: blue",
                "10 removed (train/blue/00.png",
                "10 added (train/sky/00.png",
            ],
        ),
        (
            add_class,
            ["new classes: green", "validation: 10 images in the run, 14 now: 4 added (validation/green/0.png"],
        ),
        (
            remove_images,
            [
                "train: 20 images in the run, 17 now: 3 removed (",
                "(train/blue/00.png, train/blue/02.png, train/blue/04.png)",
            ],
        ),
        (add_dark_images, ["train: 20 images in the run, 60 now: 40 added", "and 37 more"]),
        (replace_image, ["validation: 10 images in the run, 10 now: 1 replaced (validation/red/01.png)"]),
    ],
)
def test_resume_refuses_other_data_and_says_what_differs(
    change: Callable[[pathlib.Path], None], words: list[str], copy: pathlib.Path
) -> None:
    change(copy / "colors")
    with pytest.raises(UsageError) as raised:
        train.train(config_for(copy / "colors"), str(copy / "run"), resume=True)
    text = str(raised.value)
    assert text.endswith("Restore it, or go on with it as it is now by --allow_data_change.")
    assert "\n" not in text
    for each in words:
        assert each in text


@pytest.mark.slow
def test_a_resumed_run_keeps_its_classes_and_normalization(
    copy: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_for(copy / "colors")
    before = json.loads((copy / "run" / "data.json").read_text())
    add_dark_images(copy / "colors")
    longer = dataclasses.replace(config, epochs=5)
    summary = train.train(longer, str(copy / "run"), resume=True, allow_config_change=True, allow_data_change=True)
    assert summary["status"] == "completed"
    assert "resuming with other data: train: 20 images in the run, 60 now" in caplog.text
    after = json.loads((copy / "run" / "data.json").read_text())
    assert after["mean"] == before["mean"]
    assert after["train"]["images"] == [30, 30]


def test_a_renamed_class_is_refused_not_taken_for_another(copy: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """`sky` sorts behind `red`: by number, each class would be taken for the other."""
    rename(copy / "colors")
    message = r"the run knows the classes blue, red, but the data now has sky and no longer blue: give the folders"
    with pytest.raises(UsageError, match=message):
        evaluation.evaluate_run(str(copy / "run"))
    with pytest.raises(UsageError, match=message):
        export.export(str(copy / "run"), str(tmp_path / "served"))
    assert not (tmp_path / "served").exists()
    with pytest.raises(UsageError, match=message):
        train.train(config_for(copy / "colors"), str(copy / "run"), resume=True, allow_data_change=True)


@pytest.mark.slow
@pytest.mark.parametrize("added", ["apple", "zebra"])
def test_classes_are_matched_by_name(added: str, copy: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    """A class of training images that sorts before or behind the others moves no label."""
    paint(copy / "colors" / "train" / added / "1.png", (0, 250, 0), 1)
    found = evaluation.evaluate_run(str(copy / "run"))
    assert found.classes == ("blue", "red")
    assert found.accuracy == 1
    assert f"the data has changed since the run was trained: new classes: {added}" in caplog.text


def test_other_images_change_no_probability(copy: pathlib.Path) -> None:
    def probabilities() -> np.ndarray:
        run = evaluation.restore_run(str(copy / "run"), one_replica=True)
        return export.predict(export.probability_function(run), run)[0]

    before = probabilities()
    add_dark_images(copy / "colors")
    np.testing.assert_array_equal(probabilities(), before)


def test_a_replay_has_the_normalization_of_the_run_and_the_change_is_a_finding(copy: pathlib.Path) -> None:
    config = config_for(copy / "colors")
    before = load_dataset(config.data).mean
    add_dark_images(copy / "colors")
    loader = RunLoader(config, str(copy / "run"))
    plain = without_batch_options(config.data)
    assert loader(plain).mean == before
    (finding,) = loader.findings
    assert not finding.ok
    assert "train: 20 images in the run, 60 now: 40 added" in finding.line
    assert loader(dataclasses.replace(plain, normalize=False)).mean == [0, 0, 0]
    assert len(loader.findings) == 1
    assert RunLoader(config, "")(plain).mean != before


def test_a_damaged_data_json_is_one_line(copy: pathlib.Path) -> None:
    (copy / "run" / "data.json").write_text('{"classes": 3}')
    message = r"data\.json is damaged \(TypeError: .int. object is not iterable\): copy the entry `data` of state\.json"
    with pytest.raises(UsageError, match=message):
        run_data.read_run_data(str(copy / "run"))


@pytest.mark.slow
def test_a_run_without_data_json_says_so(copy: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in (copy / "run").glob("data.*"):
        path.unlink()
    assert train.train(config_for(copy / "colors"), str(copy / "run"), resume=True)["status"] == "completed"
    assert "has no data.json: classes and normalization are those of the data as it is now" in caplog.text


@pytest.mark.slow
def test_another_split_is_evaluated_even_if_the_run_had_a_fold(
    copy: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_for(copy / "colors")
    config = dataclasses.replace(config, epochs=1, data=dataclasses.replace(config.data, fold="1/5"))
    train.train(config, str(copy / "fold"))
    assert evaluation.evaluate_run(str(copy / "fold"), "last").matrix.sum() == 4
    caplog.clear()
    assert evaluation.evaluate_run(str(copy / "fold"), "last", split="validation").matrix.sum() == 10
    assert "the data has changed" not in caplog.text
